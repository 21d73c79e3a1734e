"""Modules: blueprints of neural networks, bound to variables by a scope for the length of a call."""

from batiste.module._adopt import map_modules
from batiste.module._blueprint import UNSPECIFIED, Blueprint, ModuleState
from batiste.module._calls import INIT_MUTABLE, Applier, bound_copy
from batiste.module._context import InterceptorContext, current_module, intercept_methods, set_current_module
from batiste.module._fields import blueprint_fields
from batiste.module._functional import apply, init, init_with_output, merge_param, share_scope
from batiste.module._mistakes import unbound_call
from batiste.module._module import Module
from batiste.module._tabulate import tabulate
from batiste.module._wrap import compact, compact_name_scope, nowrap, run_noted, wrap_method_once

__all__ = [
    "Applier",
    "Blueprint",
    "INIT_MUTABLE",
    "InterceptorContext",
    "Module",
    "ModuleState",
    "UNSPECIFIED",
    "apply",
    "blueprint_fields",
    "bound_copy",
    "compact",
    "compact_name_scope",
    "current_module",
    "init",
    "init_with_output",
    "intercept_methods",
    "map_modules",
    "merge_param",
    "nowrap",
    "run_noted",
    "set_current_module",
    "share_scope",
    "tabulate",
    "unbound_call",
    "wrap_method_once",
]
