"""Modules: blueprints of neural networks, bound to variables by a scope for the length of a call."""

from batiste.module._adopt import map_modules
from batiste.module._blueprint import UNSPECIFIED, Blueprint, ModuleState
from batiste.module._calls import INIT_MUTABLE, Applier, bound_copy, union_of
from batiste.module._context import (
    InterceptorContext,
    current_module,
    intercept_methods,
    set_current_module,
    tag,
    tag_watch,
)
from batiste.module._fields import blueprint_fields
from batiste.module._functional import apply, init, init_with_output, merge_param, share_scope
from batiste.module._mistakes import unbound_call
from batiste.module._module import Module
from batiste.module._rebind import seen_as
from batiste.module._region import Group, Groups, KeyGroups, Place, Region, Written
from batiste.module._tabulate import table_of, tabulate
from batiste.module._union import methods_using, setup_children
from batiste.module._wrap import compact, compact_name_scope, nowrap, run_noted, wrap_method_once

__all__ = [
    "Applier",
    "Blueprint",
    "Group",
    "Groups",
    "INIT_MUTABLE",
    "InterceptorContext",
    "KeyGroups",
    "Module",
    "ModuleState",
    "Place",
    "Region",
    "UNSPECIFIED",
    "Written",
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
    "methods_using",
    "nowrap",
    "run_noted",
    "seen_as",
    "set_current_module",
    "setup_children",
    "share_scope",
    "table_of",
    "tabulate",
    "tag",
    "tag_watch",
    "unbound_call",
    "union_of",
    "wrap_method_once",
]
