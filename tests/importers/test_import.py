"""An import accounts for every tensor and every leaf, or says which it cannot."""

import json

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from batiste import checkpoint, nn, tree
from batiste.errors import (
    ImportMismatchError,
    MappingRuleError,
    NestedStateDictError,
    NotAStateDictError,
    TiedTensorsError,
    UnmatchedRuleError,
)
from batiste.importers import AttentionIn, BatchNorm, Conv, Embedding, Linear, Lstm, Rule, from_torch, plan_import
from batiste.tree import LazyArray
from tests.importers.formulas import draw, tensors


class Model(nn.Module):
    """Two hidden layers and a head."""

    @nn.compact
    def __call__(self, x):
        for number in range(2):
            x = nn.Dense(4, name=f"h_{number}")(x)
            x = nn.BatchNorm(use_running_average=True, name=f"norm_{number}")(x)
        return nn.Dense(2, name="head")(x)


def state():
    """What `state_dict()` of the same model in PyTorch has."""
    layers = {}
    for number in range(2):
        layers |= {f"layers__{number}__fc__weight": (4, 4), f"layers__{number}__fc__bias": (4,)}
        layers |= {f"layers__{number}__bn__{name}": (4,) for name in ("weight", "bias", "running_mean", "running_var")}
    drawn = tensors(**layers, classifier__weight=(2, 4), classifier__bias=(2,))
    return drawn | {f"layers.{number}.bn.num_batches_tracked": np.asarray(number) for number in range(2)}


MAPPING = (
    ("layers.*.fc", "params/h_{1}", Linear()),
    ("layers.*.bn", "params/norm_{1}", BatchNorm()),
    ("classifier", "params/head", Linear()),
)
TARGET = jax.eval_shape(Model().init, jax.random.key(0), jnp.ones((1, 4)))


def problems(error):
    return [line.strip() for line in error.value.context["lines"].splitlines()]


def test_every_tensor_and_every_leaf_is_used_once():
    report = plan_import(state(), TARGET, MAPPING)
    assert report.complete
    tensors_used = [name for use in report.uses for name in use.tensors]
    leaves_filled = [leaf for use in report.uses for leaf in use.leaves]
    assert sorted(tensors_used) == sorted(state())
    assert sorted(leaves_filled) == sorted(tree.paths(TARGET))
    assert report.dropped == ("layers.0.bn.num_batches_tracked", "layers.1.bn.num_batches_tracked")
    text = str(report).splitlines()
    assert text[0] == "The state dict: 14 tensors, 14 leaves"
    assert "  classifier.bias -> params/head/bias (Linear)" in text
    assert "  layers.1.bn.running_var -> batch_stats/norm_1/var (BatchNorm)" in text
    assert "  layers.1.bn.num_batches_tracked dropped" in text


def test_values():
    variables = from_torch(state(), TARGET, MAPPING)
    assert np.array_equal(variables["batch_stats"]["norm_1"]["mean"], state()["layers.1.bn.running_mean"])
    assert Model().apply(variables, draw(3, 4)).shape == (3, 2)


def test_all_that_is_wrong_is_said_at_once():
    given = state()
    given["classifier.weight"] = draw(3, 4)
    given["layers.0.fc.bias"] = given["layers.0.fc.bias"].astype(np.float16)
    given["extra.weight"] = draw(5, 2)
    given["_extra_state"] = {"version": 1}
    del given["layers.1.bn.running_var"]
    with pytest.raises(ImportMismatchError) as error:
        from_torch(given, TARGET, MAPPING)
    assert error.value.context["count"] == 5
    assert problems(error) == [
        "extra.weight: float32[5, 2], no rule takes it",
        "_extra_state.version: int, which is no tensor",
        "batch_stats/norm_1/var: float32[4], no tensor fills it",
        "params/h_0/bias: float32[4] in the target, float16 from layers.0.fc.bias",
        "params/head/kernel: float32[4, 2] in the target, [4, 3] from classifier.weight float32[3, 4]",
    ]
    report = plan_import(given, TARGET, MAPPING)
    assert not report.complete
    assert "wrong: extra.weight: float32[5, 2], no rule takes it" in str(report).splitlines()


def test_a_leaf_that_is_not_there_or_filled_twice():
    mapping = (("layers.*.fc", "params/h_0", Linear()), *MAPPING[1:2], ("classifier", "params/haed", Linear()))
    with pytest.raises(ImportMismatchError) as error:
        from_torch(state(), TARGET, mapping)
    twice, _, *lines = problems(error)
    assert twice == "params/h_0/kernel: filled twice, from layers.0.fc.weight and from layers.1.fc.weight"
    assert "params/h_1/kernel: float32[4, 4], no tensor fills it" in lines
    assert (
        "params/haed/kernel: no such leaf in the target, from classifier.weight float32[2, 4] "
        "(Did you mean 'params/head/kernel'?)" in lines
    )


def test_ignored_and_kept():
    given = state() | {"extra.weight": draw(5, 2), "version": 3}
    del given["classifier.weight"], given["classifier.bias"]
    before = Model().init(jax.random.key(0), jnp.ones((1, 4)))
    options = {"ignore": ["extra.*", "version"], "keep": "params/head/**"}
    variables = from_torch(given, before, MAPPING[:2], **options)
    assert variables["params"]["head"]["kernel"] is before["params"]["head"]["kernel"]
    report = plan_import(given, before, MAPPING[:2], **options)
    assert (report.ignored, report.kept) == (("extra.weight", "version"), ("params/head/bias", "params/head/kernel"))
    assert "  params/head/bias kept as it is in the target" in str(report).splitlines()
    assert "  version ignored" in str(report).splitlines()
    with pytest.raises(ImportMismatchError, match="to be kept, and the target has its shape alone"):
        from_torch(given, TARGET, MAPPING[:2], **options)
    with pytest.raises(UnmatchedRuleError, match=r"ignore='vision'") as error:
        from_torch(given, before, MAPPING[:2], ignore=["extra.*", "vision"], keep=["params/haed/*"])
    assert "keep='params/haed/*'" in str(error.value)


def test_rules_that_apply_to_nothing():
    mapping = (*MAPPING, ("layers.*.ln", "params/ln_{1}", Linear()), ("classifier", "params/again", Linear()))
    with pytest.raises(UnmatchedRuleError) as error:
        from_torch(state(), TARGET, mapping)
    assert problems(error) == [
        "'layers.*.ln' -> 'params/ln_{1}': Linear looks for layers.*.ln.weight, layers.*.ln.bias",
        "'classifier' -> 'params/again': earlier rules take all that it matches",
    ]
    assert plan_import(state(), TARGET, (*MAPPING, Rule("rotary.*", None, optional=True))).complete


def test_the_first_rule_has_a_tensor():
    given = {"a.weight": draw(2, 3), "b.weight": draw(2, 3)}
    found = from_torch(given, None, [("a", "first", Embedding()), ("*", "rest_{1}", Linear())])
    assert tree.paths(found) == ["first/embedding", "rest_b/kernel"]


def test_a_layer_with_half_of_its_tensors():
    given = tensors(weight_ih=(8, 3), weight_hh=(8, 2), bias_ih=(8,))
    with pytest.raises(ImportMismatchError, match="bias_ih: Lstm needs more: there is no bias_hh"):
        from_torch(given, None, [("", "lstm", Lstm())])


def test_patterns():
    given = tensors(
        enc__0__query__weight=(2, 2), enc__0__key__weight=(2, 2), enc__1__query__weight=(2, 2), a__b__c__weight=(2, 2)
    )
    mapping = [("enc.*.{query,key}", "h_{1}/{2}", Linear()), ("a.**", "{1}", Linear())]
    assert tree.paths(from_torch(given, None, mapping)) == [
        "b/c/kernel",
        "h_0/key/kernel",
        "h_0/query/kernel",
        "h_1/query/kernel",
    ]
    for pattern, target, says in [
        ("a.{b", "x", "`{` at 2 has no partner"),
        ("a.*", "x_{2}", r"there is no wildcard 2 in 'a.\*'"),
        ("a", "x_{name}", "belongs to no capture"),
    ]:
        with pytest.raises(MappingRuleError, match=says):
            from_torch(given, None, [(pattern, target, Linear())])
    with pytest.raises(MappingRuleError, match="both a path and `same_as`"):
        from_torch(given, None, [Rule("a", "b", same_as="c")])


@pytest.fixture
def given():
    """An embedding."""
    return tensors(embed__weight=(5, 3))


@pytest.fixture
def both(given):
    """The same embedding under two names."""
    return {**given, "head.weight": given["embed.weight"].copy()}


class TestTied:
    def test_an_array_with_two_names(self, given, both):
        mapping = [("embed", "embed", Embedding())]
        with pytest.raises(ImportMismatchError, match=r"head.weight: .* \(it has the values of embed.weight: if they"):
            from_torch(both, None, mapping)
        mapping.append(Rule("head.weight", None, same_as="embed.weight"))
        found = from_torch(both, None, mapping)
        assert np.array_equal(found["embed"]["embedding"], given["embed.weight"])
        report = plan_import(both, None, mapping)
        assert report.same_as == {"head.weight": "embed.weight"}
        assert "  head.weight dropped: the same as embed.weight" in str(report).splitlines()

    def test_two_names_of_two_arrays(self, both):
        mapping = [("embed", "embed", Embedding()), Rule("head.weight", None, same_as="embed.weight")]
        other = {**both, "head.weight": 2 * both["head.weight"]}
        with pytest.raises(TiedTensorsError, match=r"head.weight and embed.weight: the values differ"):
            from_torch(other, None, mapping)
        with pytest.raises(TiedTensorsError, match=r"head.weight \[2\] and embed.weight \[5, 3\]"):
            from_torch({**both, "head.weight": draw(2)}, None, mapping)
        with pytest.raises(ImportMismatchError, match="said to be the same as head, which no leaf is made of"):
            from_torch(both, None, [mapping[0], Rule("head.weight", None, same_as="head")])

    def test_two_leaves_of_one_array(self, given):
        """As safetensors has it, which drops all names but one."""
        mapping = [("embed", "embed", Embedding()), Rule("embed", "head", Linear(), tied=True)]
        found = from_torch(given, None, mapping)
        assert np.array_equal(found["embed"]["embedding"], found["head"]["kernel"].T)
        assert plan_import(given, None, mapping).tied == ("embed.weight",)


class TestWrapped:
    def test_prefixes(self):
        given = {f"module._orig_mod.{name}": value for name, value in state().items()}
        report = plan_import(given, TARGET, MAPPING)
        assert report.complete
        assert report.stripped == ("module.", "_orig_mod.")
        assert "  prefix taken off: module." in str(report).splitlines()
        with pytest.raises(UnmatchedRuleError):
            from_torch(given, TARGET, MAPPING, strip=())

    def test_a_compiled_part(self):
        given = {"a._orig_mod.weight": draw(2, 3), "b.weight": draw(2, 3)}
        report = plan_import(given, None, [("{a,b}", "{1}", Linear())])
        assert report.complete
        assert report.stripped == ("*_orig_mod.",)

    def test_a_level_that_only_ends_alike(self):
        given = {"my_orig_mod.weight": draw(2, 3)}
        report = plan_import(given, None, [("my_orig_mod", "x", Linear())])
        assert report.complete
        assert report.stripped == ()

    def test_not_a_prefix_of_all(self):
        given = {"module.weight": draw(2, 3), "other.weight": draw(2, 3)}
        assert plan_import(given, None, [("*", "{1}", Linear())]).stripped == ()

    @pytest.mark.parametrize("name", ["state_dict", "model_state", "model"])
    def test_nested(self, name):
        given = {name: state(), "optimizer": {"state": {0: {"exp_avg": draw(2)}}, "groups": [{"lr": 0.1}]}, "epoch": 3}
        report = plan_import(given, TARGET, MAPPING)
        assert report.complete
        assert report.nested == name
        assert report.outside == {"optimizer": 2, "epoch": 1}
        assert f"  taken from {name!r}; not looked at: optimizer (2), epoch (1)" in str(report).splitlines()

    def test_nested_twice(self):
        given = {"model": {"state_dict": state()}, "ema": state()}
        assert plan_import(given, TARGET, MAPPING).nested == "model/state_dict"
        assert plan_import(given, TARGET, MAPPING, nested="ema").nested == "ema"
        with pytest.raises(NestedStateDictError, match="nothing at 'emma', only ema, model/state_dict"):
            from_torch(given, TARGET, MAPPING, nested="emma")
        with pytest.raises(NestedStateDictError, match="several dicts that may be the state dict: state_dict, model"):
            from_torch({"model": state(), "state_dict": state()}, TARGET, MAPPING)

    def test_a_layer_of_such_a_name_is_no_wrapper(self):
        assert plan_import({"model.weight": draw(2, 3)}, None, [("model", "x", Linear())]).complete


def test_dtypes():
    given = {"weight": draw(2, 3).astype(ml_dtypes.bfloat16), "bias": draw(2).astype(np.float64)}
    target = {"kernel": np.zeros((3, 2), np.float32), "bias": np.zeros(2, np.float32)}
    mapping = [("", "", Linear())]
    with pytest.raises(ImportMismatchError) as error:
        from_torch(given, target, mapping)
    assert problems(error) == [
        "kernel: float32[3, 2] in the target, bfloat16 from weight",
        "bias: float32[2] in the target, float64 from bias",
    ]
    cast = from_torch(given, target, mapping, dtype="cast")
    assert {leaf.dtype.name for leaf in cast.values()} == {"float32"}
    kept = from_torch(given, target, mapping, dtype="keep")
    assert (kept["kernel"].dtype.name, kept["bias"].dtype.name) == ("bfloat16", "float64")


def test_files(tmp_path):
    save_file(state(), tmp_path / "model.safetensors")
    expected = from_torch(state(), TARGET, MAPPING)
    for source in (tmp_path / "model.safetensors", str(tmp_path / "model.safetensors"), tmp_path):
        assert not tree.diff(from_torch(source, TARGET, MAPPING), expected)
    assert not tree.diff(from_torch(checkpoint.open(tmp_path), TARGET, MAPPING), expected)
    assert plan_import(tmp_path, TARGET, MAPPING).source.endswith("model.safetensors")


def test_sharded_files(tmp_path):
    names = sorted(state())
    parts = {"one.safetensors": names[::2], "two.safetensors": names[1::2]}
    for file, part in parts.items():
        save_file({name: state()[name] for name in part}, tmp_path / file)
    index = {"weight_map": {name: file for file, part in parts.items() for name in part}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    assert not tree.diff(from_torch(tmp_path, TARGET, MAPPING), from_torch(state(), TARGET, MAPPING))


def test_nothing_is_read_for_the_report():
    def never(_):
        raise AssertionError

    given = {name: LazyArray(array.shape, array.dtype, never) for name, array in state().items()}
    assert plan_import(given, TARGET, MAPPING).complete
    given["classifier.weight"] = LazyArray((3, 4), np.float32, never)
    with pytest.raises(ImportMismatchError):
        from_torch(given, TARGET, MAPPING)


def test_jax_arrays_are_tensors_too():
    given = {name: jnp.asarray(array) for name, array in state().items()}
    assert not tree.diff(from_torch(given, TARGET, MAPPING), from_torch(state(), TARGET, MAPPING))


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ({}, "it holds no tensors"),
        ({"a": "text"}, "it holds no tensors"),
        ([1], "it is a list"),
        (type("Net", (), {"state_dict": 1})(), r"it is a Net; call its `state_dict\(\)`"),
        ({"a": {"b": draw(1)}, "a.b": draw(1)}, r"two tensors have the name 'a\.b'"),
        ({"a._orig_mod.b": draw(1), "a.b": draw(1)}, r"without prefixes two tensors have the name 'a\.b'"),
    ],
    ids=["empty", "text", "list", "module", "twice", "prefixes"],
)
def test_what_is_no_state_dict(source, says):
    with pytest.raises(NotAStateDictError, match=says):
        from_torch(source, None, [])


def test_boxes_keep_their_names():
    class Named(nn.Module):
        @nn.compact
        def __call__(self, x):
            kernel = nn.with_partitioning(nn.initializers.lecun_normal(), ("embed", "mlp"))
            return nn.Dense(4, kernel_init=kernel, name="fc")(x)

    shapes = jax.eval_shape(Named().init, jax.random.key(0), jnp.ones((1, 3)))
    found = from_torch(tensors(fc__weight=(4, 3), fc__bias=(4,)), shapes, [("fc", "params/fc", Linear())])
    assert found["params"]["fc"]["kernel"].names == ("embed", "mlp")
    assert found["params"]["fc"]["kernel"].value.shape == (3, 4)
    assert jax.tree.structure(found) == jax.tree.structure(shapes)


def test_empty_containers_stay():
    target = {"params": {"fc": {"kernel": np.zeros((3, 2), np.float32)}, "dropout": {}}, "cache": {}}
    found = from_torch({"weight": draw(2, 3)}, target, [("", "params/fc", Linear())])
    assert found.keys() == target.keys()
    assert found["params"]["dropout"] == {}


def test_heads_that_the_target_does_not_have():
    target = {"q": {"kernel": np.zeros((4, 6), np.float32)}}
    with pytest.raises(ImportMismatchError, match=r"the target's \[4, 6\], which has 2 axes and not 3, says how many"):
        from_torch({"weight": draw(6, 4)}, target, [("", "q", AttentionIn())])


def test_many_layers():
    given = {f"h.{number}.{part}": np.zeros((3, 3, 1, 1), np.float32)
             for number in range(700) for part in ("a.weight", "b.weight", "c.weight")}  # fmt: skip
    report = plan_import(given, None, [("h.*.{a,b,c}", "params/h_{1}/{2}", Conv())])
    assert len(report.uses) == 2100


def test_torch_is_not_loaded(fresh_python):
    program = """
import sys
import numpy as np
from batiste.importers import Linear, from_torch
print(from_torch({"weight": np.zeros((2, 3))}, None, [("", "x", Linear())])["x"]["kernel"].shape)
print([name for name in ("torch", "orbax", "flax") if name in sys.modules])
"""
    answer = fresh_python(program)
    assert answer.stdout == "(3, 2)\n[]\n", answer.stderr
