"""The core: scopes over nested variables, usable alone. No modules, no layers."""

from batiste.core._boxes import (
    AxisMetadata,
    add_axis,
    is_axis_metadata,
    map_axis_meta,
    remove_axis,
    replace_boxed,
    stored_in,
    unbox,
)
from batiste.core._equations import flops, nbytes
from batiste.core._explicit import lies_as, lies_whole
from batiste.core._filters import (
    ChangingFilter,
    CollectionFilter,
    DenyList,
    check_filter,
    filter_to_set,
    group_collections,
    in_filter,
    intersect_filters,
    is_filter_empty,
    subtract_filters,
    union_filters,
)
from batiste.core._fingerprint import UNKNOWN, ByIdentity, Fingerprint, Valued, fingerprint, kept
from batiste.core._frame import Frame, copy_tree
from batiste.core._functional import apply, explain_deleted, init, open_scope
from batiste.core._initialise import depth_in_library, initialise
from batiste.core._keys import KeyScheme, LayerName, check_key_scheme, fold_numbers, hash_parts, is_key, streams_from
from batiste.core._recorder import Drawn, Recorder, Source
from batiste.core._replaced import Watch, is_replaced, watch
from batiste.core._scope import Scope, Start, Streams
from batiste.core._stacking import stack, unstack
from batiste.core._trace import (
    CONCRETIZATION_ERRORS,
    call_jaxpr,
    current_trace,
    has_tracer,
    is_eager,
    is_tracer,
    is_tracer_class,
    scan_extents,
)
from batiste.core._variable import Variable

__all__ = [
    "AxisMetadata",
    "ByIdentity",
    "CONCRETIZATION_ERRORS",
    "ChangingFilter",
    "CollectionFilter",
    "DenyList",
    "Drawn",
    "Fingerprint",
    "Frame",
    "KeyScheme",
    "LayerName",
    "Recorder",
    "Scope",
    "Source",
    "Start",
    "Streams",
    "UNKNOWN",
    "Valued",
    "Variable",
    "Watch",
    "add_axis",
    "apply",
    "call_jaxpr",
    "check_filter",
    "check_key_scheme",
    "copy_tree",
    "current_trace",
    "depth_in_library",
    "explain_deleted",
    "filter_to_set",
    "fingerprint",
    "flops",
    "fold_numbers",
    "group_collections",
    "has_tracer",
    "hash_parts",
    "in_filter",
    "init",
    "initialise",
    "intersect_filters",
    "is_axis_metadata",
    "is_eager",
    "is_filter_empty",
    "is_key",
    "is_replaced",
    "is_tracer",
    "is_tracer_class",
    "kept",
    "lies_as",
    "lies_whole",
    "map_axis_meta",
    "nbytes",
    "open_scope",
    "remove_axis",
    "replace_boxed",
    "scan_extents",
    "stack",
    "stored_in",
    "streams_from",
    "subtract_filters",
    "unbox",
    "union_filters",
    "unstack",
    "watch",
]
