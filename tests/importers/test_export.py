"""A mapping read backwards: variables to a state dict."""

import importlib.util
import re

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from batiste import tree
from batiste.errors import ExportMismatchError, MappingRuleError, MissingPackageError, TiedTensorsError
from batiste.importers import Embedding, Identity, LayerNorm, Linear, Lstm, Rule, from_torch, to_torch
from tests.importers.formulas import draw, tensors
from tests.importers.test_import import MAPPING, TARGET, state


def test_the_way_back():
    variables = from_torch(state(), TARGET, MAPPING)
    found = to_torch(variables, MAPPING)
    assert set(state()) - set(found) == {f"layers.{number}.bn.num_batches_tracked" for number in range(2)}
    assert all(np.array_equal(found[name], state()[name]) for name in found)
    assert next(iter(found)) == "layers.0.fc.weight"
    assert not tree.diff(from_torch(found, TARGET, MAPPING), variables)


def test_leaves_that_are_not_wanted():
    variables = {"params": {"fc": {"kernel": draw(2, 3)}}, "opt": {"mu": draw(2)}}
    mapping = [("fc", "params/fc", Linear())]
    with pytest.raises(ExportMismatchError, match=r"opt/mu: float32\[2\], no rule leads to it"):
        to_torch(variables, mapping)
    assert list(to_torch(variables, mapping, ignore="opt/**")) == ["fc.weight"]


def test_tied():
    given = tensors(embed__weight=(5, 3))
    mapping = [("embed", "embed", Embedding()), Rule("embed", "head", Linear(), tied=True)]
    variables = from_torch(given, None, mapping)
    assert list(to_torch(variables, mapping)) == ["embed.weight"]
    variables["head"]["kernel"] = variables["head"]["kernel"] + 1
    with pytest.raises(TiedTensorsError, match=r"head/kernel and what embed.weight is made of: the values differ"):
        to_torch(variables, mapping)
    mapping = [("*.embed", "{1}", Embedding()), Rule("*.head.weight", None, same_as="{1}.embed.weight")]
    both = {"a.embed.weight": given["embed.weight"], "a.head.weight": given["embed.weight"]}
    found = to_torch(from_torch(both, None, mapping), mapping)
    assert found.keys() == both.keys()
    assert np.array_equal(found["a.head.weight"], given["embed.weight"])


def test_rules_that_do_not_lead_back():
    leaves = {"h": {"kernel": draw(2, 3)}}
    with pytest.raises(MappingRuleError, match=re.escape("'h' does not hold {1}, so that nothing leads back")):
        to_torch(leaves, [("layers.*", "h", Linear())])
    with pytest.raises(ExportMismatchError, match=r"h/kernel: the rules do not lead back to it from b.weight"):
        to_torch(leaves, [("*", "x/{1}", Linear()), ("b", "h", Linear())])
    both = {"a": {"kernel": draw(2, 3)}, "b": {"kernel": draw(2, 3)}}
    with pytest.raises(ExportMismatchError, match=r"b/kernel: w.weight is made of other leaves already"):
        to_torch(both, [("w", "a", Linear()), ("w", "b", Linear())])
    with pytest.raises(ExportMismatchError, match=r"weight would become x/kernel, which is not there"):
        to_torch({"y": {"embedding": draw(2, 3)}}, [Rule("l", "x", Linear()), ("l", "y", Embedding())])


def test_a_layer_with_half_of_its_leaves():
    variables = {"ii": {"kernel": draw(2, 3)}, "if": {"kernel": draw(2, 3)}}
    with pytest.raises(ExportMismatchError, match="ii/kernel, if/kernel: Lstm needs more: there is no ig/kernel"):
        to_torch(variables, [("", "", Lstm())])


def test_without_torch(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match="torch"):
        to_torch({}, [], tensors="torch")


NAMES = st.lists(st.sampled_from(["a", "b0", "12", "h_1"]), min_size=1, max_size=3).map(".".join)
LAYERS = st.dictionaries(NAMES, st.sampled_from(["linear", "norm", "plain"]), min_size=1, max_size=5)


@hypothesis.given(LAYERS)
def test_any_names_come_back(layers):
    """Whatever the names: three kinds of layers in places of their own, there and back."""
    suffix = {"linear": "weight", "norm": "weight", "plain": "value"}
    given = {
        f"{kind}.{name}.{suffix[kind]}": draw(*((2, 3) if kind == "linear" else (3,))) for name, kind in layers.items()
    }
    mapping = [
        Rule("linear.**", "params/linear/{1}", Linear(), optional=True),
        Rule("norm.**", "params/norm/{1}", LayerNorm(), optional=True),
        Rule("plain.**.value", "params/plain/{1}/value", Identity(), optional=True),
    ]
    variables = from_torch(given, None, mapping)
    found = to_torch(variables, mapping)
    assert found.keys() == given.keys()
    assert all(np.array_equal(found[name], given[name]) for name in given)
