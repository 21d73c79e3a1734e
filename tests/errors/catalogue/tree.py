"""Trees of variables: paths, patterns, merges, stacked layers, adapters."""

import jax
import numpy as np

from batiste import tree
from batiste.errors import (
    AdapterMismatchError,
    AdapterTargetError,
    AmbiguousKernelError,
    CastLossError,
    DuplicatePathError,
    LayerNameTakenError,
    LazyIndexError,
    LazyReadError,
    MergeConflictError,
    MissingLayersError,
    MixedKeysError,
    NoLayersError,
    NotAnArrayError,
    PathConflictError,
    PathNotFoundError,
    PatternSyntaxError,
    RenameCollisionError,
    RenameTemplateError,
    TreeMismatchError,
    TreeValueError,
    UnequalLayersError,
    UnmatchedPathsError,
    UnmatchedPatternError,
)
from tests.errors.rows import key, raises, x


@raises(AdapterMismatchError, "w: the parameters have no such leaf")
def an_adapter_of_another_model():
    tree.lora_merge({"v": x}, {"w": {"a": x, "b": x}})


@raises(AdapterTargetError, "bias")
def an_adapter_of_a_bias():
    tree.lora_init(key, {"bias": np.ones(3)}, "bias", 1)


@raises(AmbiguousKernelError, "kernel: float64[2, 3, 4]", "inputs=")
def an_adapter_of_a_convolution():
    tree.lora_init(key, {"kernel": np.ones((2, 3, 4))}, "kernel", 1)


@raises(CastLossError, "w: float32[2] -> float16", "beyond 65504", "jnp.clip")
def a_number_beyond_the_range_of_half_precision():
    tree.cast({"w": np.float32([1.0, 1e6])}, "float16")


@raises(DuplicatePathError, "same")
def two_children_of_one_name():
    @jax.tree_util.register_pytree_with_keys_class
    class Twins:
        def tree_flatten_with_keys(self):
            return [(jax.tree_util.DictKey("same"), 1), (jax.tree_util.DictKey("same"), 2)], None

        @classmethod
        def tree_unflatten(cls, _, children):
            return cls()

    tree.flatten(Twins())


@raises(LayerNameTakenError, "are taken: h")
def the_stack_has_the_name_of_another_entry():
    tree.stack_layers({"h_0": x, "h": x}, "h")


@raises(LazyIndexError, "[")
def a_lazy_array_is_indexed_by_a_number():
    tree.LazyArray((1,), "int8", np.zeros)[1]


@raises(LazyReadError, "promised int8[1]", "returned int8[1, 1]")
def a_lazy_array_reads_another_shape():
    tree.LazyArray((1,), "int8", lambda _: np.ones((1, 1), "int8")).read()


@raises(MergeConflictError, "a")
def two_trees_with_one_path():
    tree.merge({"a": 1}, {"a": 2})


@raises(MissingLayersError, "h: there are 1; 0 is missing")
def a_layer_is_missing():
    tree.stack_layers({"h_1": x}, "h")


@raises(MixedKeysError, "(int, str)")
def numbers_and_names_as_keys():
    tree.flatten({0: 1, "a": 2})


@raises(NoLayersError, "h")
def there_is_nothing_to_stack():
    tree.stack_layers({"a": x}, "h")


@raises(NotAnArrayError, "a")
def text_is_counted():
    tree.count({"a": "text"})


@raises(PathConflictError, "a/b")
def a_leaf_with_something_below_it():
    tree.unflatten({"a": 1, "a/b": 2})


@raises(PathNotFoundError, "params/kernal", "'params/kernel'")
def a_misspelt_path():
    tree.get({"params": {"kernel": x}}, "params/kernal")


@raises(PatternSyntaxError, "[a")
def an_open_bracket():
    tree.compile_pattern("[a")


@raises(RenameCollisionError, "c")
def two_entries_get_one_name():
    tree.rename({"a": 1, "b": 2}, {"*": "c"})


@raises(RenameTemplateError, "{2}")
def a_template_names_a_group_that_is_not_there():
    tree.rename({"a": 1}, {"*": "{2}"})


@raises(TreeMismatchError, "a")
def an_average_of_different_trees():
    tree.average([{"a": 1.0}, {}])


@raises(TreeValueError, "trees", "empty")
def an_average_of_nothing():
    tree.average([])


@raises(UnequalLayersError, "h")
def a_number_is_unstacked():
    tree.unstack_layers({"h": np.float32(1)}, "h")


@raises(UnmatchedPathsError, "a")
def a_leaf_without_a_label():
    tree.label({"a": 1}, {})


@raises(UnmatchedPatternError, "b")
def a_pattern_that_matches_nothing():
    tree.select({"a": 1}, "b")
