"""Every error of the package: the smallest program that raises it, its three parts, and the way through a pickle."""

import pickle

import jax
import numpy as np
import pytest

from batiste import errors, tree
from batiste.errors import _tree as catalogue

ONE = np.ones((1, 1))
PROGRAMS = {
    errors.AdapterMismatchError: lambda: tree.lora_merge({}, {"w": {"a": ONE, "b": ONE}}),
    errors.AdapterTargetError: lambda: tree.lora_init(jax.random.key(0), {"b": np.ones(1)}, "b", 1),
    errors.AmbiguousKernelError: lambda: tree.lora_init(jax.random.key(0), {"w": np.ones((1, 1, 1))}, "w", 1),
    errors.CastLossError: lambda: tree.cast({"a": 1e9}, "float16"),
    errors.DuplicatePathError: lambda: tree.flatten(Twins()),
    errors.LayerNameTakenError: lambda: tree.stack_layers({"h_0": ONE, "h": ONE}, "h"),
    errors.LazyIndexError: lambda: tree.LazyArray((1,), "int8", np.zeros)[1],
    errors.LazyReadError: lambda: tree.LazyArray((1,), "int8", lambda _: ONE).read(),
    errors.MergeConflictError: lambda: tree.merge({"a": 1}, {"a": 2}),
    errors.MissingLayersError: lambda: tree.stack_layers({"h_1": ONE}, "h"),
    errors.MixedKeysError: lambda: tree.flatten({0: 1, "a": 2}),
    errors.NoLayersError: lambda: tree.stack_layers({"a": ONE}, "h"),
    errors.NotAnArrayError: lambda: tree.count({"a": "text"}),
    errors.PathConflictError: lambda: tree.unflatten({"a": 1, "a/b": 2}),
    errors.PathNotFoundError: lambda: tree.get({}, "a"),
    errors.PatternSyntaxError: lambda: tree.compile_pattern("[a"),
    errors.RenameCollisionError: lambda: tree.rename({"a": 1, "b": 2}, {"*": "c"}),
    errors.RenameTemplateError: lambda: tree.rename({"a": 1}, {"*": "{2}"}),
    errors.TreeMismatchError: lambda: tree.average([{"a": 1.0}, {}]),
    errors.TreeValueError: lambda: tree.average([]),
    errors.UnequalLayersError: lambda: tree.unstack_layers({"h": np.float32(1)}, "h"),
    errors.UnmatchedPathsError: lambda: tree.label({"a": 1}, {}),
    errors.UnmatchedPatternError: lambda: tree.select({"a": 1}, "b"),
}


@jax.tree_util.register_pytree_with_keys_class
class Twins:
    """A container that gives both of its children one name."""

    def tree_flatten_with_keys(self):
        return [(jax.tree_util.DictKey("same"), 1), (jax.tree_util.DictKey("same"), 2)], None

    @classmethod
    def tree_unflatten(cls, _, children):
        return cls()


def test_every_class_of_the_catalogue_has_a_program():
    classes = {getattr(catalogue, name) for name in catalogue.__all__} - {errors.TreeError}
    assert classes == set(PROGRAMS)
    assert len({kind.code for kind in classes}) == len(classes)


@pytest.mark.parametrize("kind", PROGRAMS, ids=lambda kind: kind.__name__)
def test_the_program_raises_it(kind):
    with pytest.raises(errors.TreeError) as raised:
        PROGRAMS[kind]()
    error = raised.value
    text = str(error)
    assert type(error) is kind
    assert text.endswith(f"[{kind.code}]")
    assert len(text.splitlines()) >= 3
    assert "array(" not in text
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - its own bytes
    assert (type(again), str(again)) == (kind, text)
