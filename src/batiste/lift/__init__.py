"""Lifted transforms: JAX's transforms over functions of modules."""

from batiste.lift._autodiff import custom_vjp, grad, jvp, value_and_grad, vjp
from batiste.lift._axes import In, Out, broadcast
from batiste.lift._branches import cond, switch, while_loop
from batiste.lift._calls import checkpoint, jit, named_call, remat, remat_scan
from batiste.lift._scan import scan
from batiste.lift._variables import add_metadata_axis, fold_rngs, map_variables
from batiste.lift._vmap import vmap

__all__ = [
    "In",
    "Out",
    "add_metadata_axis",
    "broadcast",
    "checkpoint",
    "cond",
    "custom_vjp",
    "fold_rngs",
    "grad",
    "jit",
    "jvp",
    "map_variables",
    "named_call",
    "remat",
    "remat_scan",
    "scan",
    "switch",
    "value_and_grad",
    "vjp",
    "vmap",
    "while_loop",
]
