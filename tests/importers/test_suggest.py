"""What is proposed: right where something decides, and said to be ambiguous where nothing does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from batiste import nn, tree
from batiste.importers import (
    Attention,
    AttentionOut,
    BatchNorm,
    Conv,
    ConvTranspose,
    FlattenLinear,
    FusedAttentionIn,
    Gru,
    Identity,
    Linear,
    Lstm,
    PReLU,
    Rnn,
    Rule,
    Transpose,
    WeightNorm,
    from_torch,
    suggest_mapping,
)
from tests.importers.formulas import tensors
from tests.importers.test_import import MAPPING, TARGET, state


def shapes(**leaves):
    """A target: leaves by path, with `__` for a slash."""
    return tree.unflatten(
        {path.replace("__", "/"): jax.ShapeDtypeStruct(shape, jnp.float32) for path, shape in leaves.items()}
    )


def test_a_whole_model():
    found = suggest_mapping(state(), TARGET)
    assert (found.ambiguous, found.unused, found.unfilled) == ((), (), ())
    assert set(found.mapping) == {Rule(*rule) for rule in MAPPING}
    assert not tree.diff(from_torch(state(), TARGET, found.mapping), from_torch(state(), TARGET, MAPPING))
    assert found.reasons["classifier"] == "shape"
    assert found.reasons["layers.1.fc"] == "order"
    assert "layers.*.bn -> params/norm_{1} (BatchNorm)" in str(found).splitlines()


def test_order():
    """Names of two numberings say nothing, but both are rows."""
    given = tensors(**{f"{number}__weight": (4, 4) for number in (0, 2, 10)})
    found = suggest_mapping(given, shapes(**{f"params__Dense_{number}__kernel": (4, 4) for number in range(3)}))
    assert [(rule.source, rule.target) for rule in found.mapping] == [
        ("0", "params/Dense_0"),
        ("2", "params/Dense_1"),
        ("10", "params/Dense_2"),
    ]
    assert set(found.reasons.values()) == {"order"}
    assert found.ambiguous == ()


def test_names():
    given = tensors(h__3__q_proj__weight=(4, 4), h__3__k_proj__weight=(4, 4), h__3__fc__weight=(4, 4))
    target = shapes(h_3__query__kernel=(4, 4), h_3__key__kernel=(4, 4), h_3__dense__kernel=(4, 4))
    found = suggest_mapping(given, target)
    assert {rule.source: rule.target for rule in found.mapping} == {
        "h.3.q_proj": "h_3/query",
        "h.3.k_proj": "h_3/key",
        "h.3.fc": "h_3/dense",
    }
    assert set(found.reasons.values()) == {"name"}


def test_numbers_alone_decide_nothing():
    given = tensors(**{f"{number}__weight": (4, 4) for number in (0, 2)})
    found = suggest_mapping(given, shapes(**{f"Dense_{number}__kernel": (4, 4) for number in range(3)}))
    assert found.mapping == ()
    assert len(found.ambiguous) == 2


def test_nothing_decides():
    given = tensors(left__weight=(4, 4), right__weight=(4, 4), head__weight=(2, 4))
    target = shapes(params__a__kernel=(4, 4), params__b__kernel=(4, 4), params__c__kernel=(4, 2))
    found = suggest_mapping(given, target)
    assert found.mapping == (Rule("head", "params/c", Linear()),)
    assert {(each.source, frozenset(each.targets)) for each in found.ambiguous} == {
        ("left", frozenset({"params/a", "params/b"})),
        ("right", frozenset({"params/a", "params/b"})),
    }
    assert found.ambiguous[0].layouts == (Linear(),)
    assert (found.unused, found.unfilled) == ((), ())
    assert "ambiguous: left (Linear) -> params/a or params/b: " in str(found)


def test_what_fits_nowhere():
    given = tensors(fc__weight=(2, 4), old__weight=(7, 7))
    found = suggest_mapping(given, shapes(fc__kernel=(4, 2), more__scale=(3,)))
    assert (found.unused, found.unfilled) == (("old.weight",), ("more/scale",))
    assert str(found).splitlines()[1:] == ["unused: old.weight", "unfilled: more/scale"]


def test_a_bias_too_many():
    given = tensors(fc__weight=(2, 4))
    assert suggest_mapping(given, shapes(fc__kernel=(4, 2), fc__bias=(2,))).mapping == ()


@pytest.mark.parametrize(
    ("given", "target", "rule"),
    [
        ({"conv__weight": (4, 3, 5, 5)}, {"c__kernel": (5, 5, 3, 4)}, Rule("conv", "c", Conv())),
        ({"c__weight": (4, 3, 5)}, {"c__kernel": (5, 4, 3)}, Rule("c", "c", ConvTranspose())),
        ({"deconv__weight": (4, 3, 5)}, {"c__kernel": (5, 3, 4)}, Rule("deconv", "c", ConvTranspose(True))),
        ({"fc__weight": (4, 3)}, {"c__kernel": (4, 3)}, Rule("fc", "c", Linear(transposed=True))),
        ({"o__weight": (4, 6)}, {"c__kernel": (2, 3, 4)}, Rule("o", "c", AttentionOut())),
        ({"cls_token": (1, 1, 4)}, {"token": (1, 1, 4)}, Rule("cls_token", "token", Identity())),
        ({"proj": (4, 3)}, {"x__proj": (3, 4)}, Rule("proj", "x/proj", Transpose())),
        (
            {"weight_ih": (20, 3), "weight_hh": (20, 5), "bias_ih": (20,), "bias_hh": (20,)},
            {
                **{f"cell__i{gate}__kernel": (3, 5) for gate in "ifgo"},
                **{f"cell__h{gate}__kernel": (5, 5) for gate in "ifgo"},
                **{f"cell__h{gate}__bias": (5,) for gate in "ifgo"},
            },
            Rule("", "cell", Lstm()),
        ),
        (
            {"bn__weight": (3,), "bn__bias": (3,), "bn__running_mean": (3,), "bn__running_var": (3,)},
            {
                "params__n__scale": (3,),
                "params__n__bias": (3,),
                "batch_stats__n__mean": (3,),
                "batch_stats__n__var": (3,),
            },
            Rule("bn", "params/n", BatchNorm()),
        ),
        (
            {"a__in_proj_weight": (12, 4), "a__out_proj__weight": (4, 4)},
            {
                **{f"attn__{role}__kernel": (4, 2, 2) for role in ("query", "key", "value")},
                "attn__out__kernel": (2, 2, 4),
            },
            Rule("a", "attn", Attention()),
        ),
        (
            {"qkv__weight": (12, 4)},
            {f"attn__{role}__kernel": (4, 2, 2) for role in ("query", "key", "value")},
            Rule("qkv", "attn", FusedAttentionIn()),
        ),
    ],
    ids=range(11),
)
def test_layouts(given, target, rule):
    found = suggest_mapping(tensors(**given), shapes(**target))
    assert found.mapping == (rule,)
    assert found.ambiguous == found.unused == found.unfilled == ()


def test_recurrent_layers():
    for count, layout, cell in ((3, Gru, nn.GRUCell), (1, Rnn, nn.SimpleCell)):
        given = {}
        for layer, inputs in enumerate((3, 5, 5)):
            end = f"_l{layer}"
            given |= tensors(**{f"rnn__weight_ih{end}": (count * 5, inputs), f"rnn__weight_hh{end}": (count * 5, 5),
                                f"rnn__bias_ih{end}": (count * 5,), f"rnn__bias_hh{end}": (count * 5,)})  # fmt: skip

        class Model(nn.Module):
            cell: type

            @nn.compact
            def __call__(self, x):
                for layer in range(3):
                    x = nn.RNN(self.cell(5, name=f"cell_{layer}"))(x)
                return x

        target = jax.eval_shape(Model(cell).init, jax.random.key(0), jnp.ones((1, 2, 3)))
        found = suggest_mapping(given, target)
        assert found.mapping == tuple(Rule("rnn", f"params/cell_{layer}", layout(layer)) for layer in range(3))


@pytest.mark.parametrize("first", ["conv", "fc"])
def test_a_flattened_image_is_ambiguous(first):
    """In whatever order the state dict has it: safetensors sorts names."""
    given = tensors(conv__bias=(4,), conv__weight=(4, 3, 5, 5), fc__bias=(10,), fc__weight=(10, 36))
    given = dict(sorted(given.items(), key=lambda item: not item[0].startswith(first)))
    target = shapes(conv__kernel=(5, 5, 3, 4), conv__bias=(4,), fc__kernel=(36, 10), fc__bias=(10,))
    found = suggest_mapping(given, target)
    (ambiguity,) = found.ambiguous
    assert (ambiguity.source, ambiguity.targets) == ("fc", ("fc",))
    assert "4 channels" in ambiguity.reason
    mapping = (*found.mapping, ("fc", "fc", FlattenLinear((4, 3, 3))))
    assert from_torch(given, target, mapping)["fc"]["kernel"].shape == (36, 10)


def test_numbers_that_do_not_go_together():
    """Rules with wildcards are only proposed where they do the same as the rules apart."""
    given = tensors(**{f"h__{number}__weight": (2, 2 + number) for number in range(3)})
    target = shapes(h_0__kernel=(2, 2), h_1__kernel=(3, 2), h_2__kernel=(4, 2))
    assert [rule.source for rule in suggest_mapping(given, target).mapping] == ["h.*"]
    target = shapes(h_5__kernel=(2, 2), h_1__kernel=(3, 2), h_2__kernel=(4, 2))
    assert [rule.source for rule in suggest_mapping(given, target).mapping] == ["h.0", "h.1", "h.2"]


def test_nothing_is_read():
    target = shapes(fc__kernel=(4, 2))
    given = {"fc.weight": tree.LazyArray((2, 4), np.float32, lambda _: np.zeros(0))}
    assert suggest_mapping({"state_dict": given}, target).mapping == (Rule("fc", "fc", Linear()),)


def test_tied_tensors():
    """A head that is the embedding, and one that only has its shape."""
    given = tensors(wte__weight=(7, 4), ln__weight=(4,), lm_head__weight=(7, 4))
    target = shapes(params__tokens__embedding=(7, 4), params__norm__scale=(4,))
    different = suggest_mapping(given, target)
    assert {each.source for each in different.ambiguous} == {"wte", "lm_head"}
    given["lm_head.weight"] = given["wte.weight"].copy()
    found = suggest_mapping(given, target)
    assert found.ambiguous == found.unused == found.unfilled == ()
    assert found.mapping[-1] == Rule("lm_head.weight", None, same_as="wte.weight")
    assert found.reasons["lm_head"] == "tied"
    assert str(found).splitlines()[-1] == "lm_head.weight dropped: the same as wte.weight"
    assert from_torch(given, target, found.mapping)["params"]["tokens"]["embedding"].shape == (7, 4)


def test_a_mean_over_positions_is_no_flattened_image():
    given = tensors(stem__weight=(4, 3, 3, 3), body__weight=(8, 4, 3, 3), fc__weight=(2, 8))
    target = shapes(params__a__kernel=(3, 3, 3, 4), params__b__kernel=(3, 3, 4, 8), params__c__kernel=(8, 2))
    assert Rule("fc", "params/c", Linear()) in suggest_mapping(given, target).mapping


def test_both_directions():
    """`gru.l0` does not say that it is the forward one."""
    cell = {"weight_ih": (6, 2), "weight_hh": (6, 2), "bias_ih": (6,), "bias_hh": (6,)}
    given = tensors(**{f"gru__{name}_l0{end}": shape for name, shape in cell.items() for end in ("", "_reverse")})
    leaves = {f"{gate}__kernel": (2, 2) for gate in ("ir", "iz", "in", "hr", "hz", "hn")}
    leaves |= {f"{gate}__bias": (2,) for gate in ("ir", "iz", "in", "hn")}
    target = shapes(**{f"params__{way}__{leaf}": leaves[leaf] for way in ("backward", "forward") for leaf in leaves})
    assert set(suggest_mapping(given, target).mapping) == {
        Rule("gru", "params/forward", Gru(0)),
        Rule("gru", "params/backward", Gru(0, reverse=True)),
    }


def test_weight_norm():
    """Both of PyTorch's forms, the axis told by the lengths."""
    given = tensors(
        a__weight_g=(4, 1, 1),
        a__weight_v=(4, 3, 5),
        a__bias=(4,),
        b__parametrizations__weight__original0=(1, 4),
        b__parametrizations__weight__original1=(2, 4),
    )
    target = shapes(params__a__kernel=(5, 3, 4), params__a__bias=(4,), params__b__kernel=(4, 2))
    found = suggest_mapping(given, target)
    assert found.mapping == (
        Rule("a", "params/a", WeightNorm(Conv())),
        Rule("b", "params/b", WeightNorm(Linear(), dim=1)),
    )
    assert "a -> params/a (WeightNorm(layout=Conv))" in str(found)
    assert found.ambiguous == found.unused == found.unfilled == ()


def test_what_no_layer_here_has():
    given = tensors(lstm__weight_ih_l0=(8, 3), lstm__weight_hh_l0=(8, 1), lstm__weight_hr_l0=(1, 2))
    assert suggest_mapping(given, shapes(params__a__kernel=(9, 9))).unused == tuple(given)


MOBILE = ((1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3), (6, 320, 1))
"""MobileNetV2's expansion, channels and repeats (Sandler and others, 2018)."""


def mobile_state():
    """Its state dict as torchvision names it, and for each layer the block, and the number of its kind in there."""
    given, truth = {}, {}

    def normed(conv, norm, shape, block, number):
        given[f"{conv}.weight"] = np.zeros(shape, np.float32)
        given.update(
            {f"{norm}.{part}": np.zeros(shape[0]) for part in ("weight", "bias", "running_mean", "running_var")}
        )
        given[f"{norm}.num_batches_tracked"] = np.zeros((), np.int64)
        truth[conv], truth[norm] = (block, "Conv", number), (block, "BatchNorm", number)

    normed("features.0.0", "features.0.1", (32, 3, 3, 3), None, 0)
    block, channels = 1, 32
    for times, out, repeats in MOBILE:
        for _ in range(repeats):
            inner, at, base = channels * times, 0, f"features.{block}.conv"
            if times > 1:
                normed(f"{base}.0.0", f"{base}.0.1", (inner, channels, 1, 1), block - 1, 0)
                at = 1
            normed(f"{base}.{at}.0", f"{base}.{at}.1", (inner, 1, 3, 3), block - 1, at)
            normed(f"{base}.{at + 1}", f"{base}.{at + 2}", (out, inner, 1, 1), block - 1, at + 1)
            block, channels = block + 1, out
    normed(f"features.{block}.0", f"features.{block}.1", (1280, channels, 1, 1), None, 1)
    given["classifier.1.weight"], given["classifier.1.bias"] = np.zeros((10, 1280)), np.zeros(10)
    return given, {**truth, "classifier.1": (None, "Dense", 0)}


@pytest.mark.parametrize("flat", [False, True])
def test_batch_normalisations_follow_their_convolutions(flat):
    given, truth = mobile_state()
    counts, places = {}, {}
    for name, (block, kind, number) in truth.items():
        count = counts[kind] = counts.get(kind, -1) + 1
        places[name] = (
            f"{kind}_{count}" if flat else f"{kind}_{number}" if block is None else f"Block_{block}/{kind}_{number}"
        )
    leaves = {}
    for name, place in places.items():
        weight = given[f"{name}.weight"]
        if weight.ndim == 1:
            leaves |= {f"params/{place}/{leaf}": weight.shape for leaf in ("scale", "bias")}
            leaves |= {f"batch_stats/{place}/{leaf}": weight.shape for leaf in ("mean", "var")}
        else:
            leaves[f"params/{place}/kernel"] = (*weight.shape[2:], *weight.shape[1::-1])
    leaves["params/Dense_0/bias"] = (10,)
    target = tree.unflatten({path: jax.ShapeDtypeStruct(shape, jnp.float32) for path, shape in leaves.items()})
    found = suggest_mapping(given, target)
    assert (found.ambiguous, found.unused, found.unfilled) == ((), (), ())
    taken = {rule.source: rule.target for rule in found.mapping}
    assert taken == {name: f"params/{place}" for name, place in places.items()}


def test_normalisations_in_an_order_that_names_do_not_tell_stay_ambiguous():
    given = tensors(**{f"{name}__{part}": (4,) for name in ("a", "b") for part in ("weight", "running_mean")})
    leaves = {
        f"{group}__{name}__{leaf}": (4,)
        for name in ("x", "y")
        for group, leaf in (("params", "scale"), ("batch_stats", "mean"))
    }
    assert len(suggest_mapping(given, shapes(**leaves)).ambiguous) == 2


def test_slopes():
    given = tensors(act__weight=(4,), one__weight=(1,))
    target = shapes(params__PReLU_0__negative_slope=(4,), params__one__negative_slope=())
    found = suggest_mapping(given, target)
    assert set(found.mapping) == {Rule("act", "params/PReLU_0", PReLU()), Rule("one", "params/one", PReLU())}
    got = from_torch(given, target, found.mapping)
    assert got["params"]["one"]["negative_slope"].shape == ()
    layer = nn.PReLU(negative_slope_init=(0.25,) * 4)
    x = jnp.asarray([[-2.0, -1.0, 0.0, 4.0]])
    variables = layer.init(jax.random.key(0), x)
    assert variables["params"]["negative_slope"].tolist() == [0.25] * 4
    slopes = {"params": {"negative_slope": jnp.asarray([0.5, 2.0, 3.0, 4.0])}}
    assert layer.apply(slopes, x).tolist() == [[-1.0, -2.0, 0.0, 4.0]]
