"""Names that Flax does not document, and that public code uses: the same as in installed Flax."""

import importlib

import flax
import flax.linen.summary
import jax
import jax.numpy as jnp
import pytest

import batiste.compat.flax as compat

X, KEY = jnp.ones((2, 4)), jax.random.key(0)
BOTH = pytest.mark.parametrize("library", [flax, compat], ids=["flax", "batiste"])


def module(library, name):
    return importlib.import_module(f"{library.__name__}.{name}")


def model(linen):
    class Model(linen.Module):
        def setup(self):
            init = linen.with_partitioning(linen.initializers.ones, ("a", None))
            self.dense = linen.Dense(3, kernel_init=init)

        def __call__(self, x, flag=None):
            return {"y": self.dense(self.dense(x)[:, :1] * x), "flag": flag}

    return Model()


def row(each, summary):
    kind = summary._ArrayRepresentation

    def shown(tree):
        leaves = jax.tree.leaves(tree, is_leaf=lambda leaf: isinstance(leaf, summary._ValueRepresentation))
        return [(leaf.shape, str(leaf.dtype)) if isinstance(leaf, kind) else leaf.obj for leaf in leaves]

    sizes = each.size_and_bytes(["params"])
    names = {collection: sorted(held) for collection, held in each.module_variables.items()}
    return (
        each.path,
        type(each.module_copy).__name__,
        each.method,
        shown(each.inputs),
        shown(each.outputs),
        sizes,
        names,
    )


@pytest.mark.parametrize("shown", [{"depth": None, "show_repeated": False}, {"depth": 0, "show_repeated": False}])
def test_the_rows_of_a_table(shown):
    found = []
    for library in (flax, compat):
        summary = module(library, "linen.summary")
        table = summary._get_module_table(model(library.linen), compute_flops=True, compute_vjp_flops=False, **shown)
        rows = table(KEY, X, flag=3)
        assert isinstance(rows, summary.Table)
        assert rows.collections == ("params",)
        assert all(each.flops > 0 > each.vjp_flops for each in rows)
        found.append([row(each, summary) for each in rows])
    assert found[0] == found[1]


@BOTH
def test_names(library):
    from jax.sharding import PartitionSpec

    summary, inner = module(library, "linen.summary"), module(library, "linen.module")
    assert summary._size_and_bytes({"a": X}) == (8, 32)
    assert summary._get_flops(lambda x: x @ x.T, X) == 32
    assert summary._ArrayRepresentation.from_array(X) == summary._ArrayRepresentation((2, 4), X.dtype)
    assert inner._freeze_attr([1, {"a": [2]}, (3, [4])]) == (1, library.core.FrozenDict({"a": (2,)}), (3, (4,)))
    assert isinstance(inner._Sentinel, type)
    rules = module(library, "core.spmd")
    with library.linen.logical_axis_rules((("a", "b"),)):
        assert rules._axis_rules.rules == (("a", "b"),)
        assert library.linen.logical_to_mesh_axes(("a",)) == PartitionSpec("b")
    assert isinstance(rules._axis_rules, rules._AxisRules)


@pytest.mark.parametrize("name", ["linen.partitioning", "linen.spmd"])
def test_rules_where_earlier_versions_of_flax_have_them(name):
    rules = module(compat, name)
    assert isinstance(rules._axis_rules, rules._AxisRules)
