"""Models in the style of public Linen code: no tool has a finding on them, and faults planted in such code are found.

With ``BATISTE_FAULTS=all`` every tool looks at every model; by default two of them are traced, and nothing is run.
"""

import os

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from batiste.compat.flax import linen as nn
from batiste.diagnose import capture, check_pure, dtypes, find_nan, keys, lint, summary
from tests.diagnose.zoo import MODELS, rngs

ALL = os.environ.get("BATISTE_FAULTS") == "all"
LOG = []
COUNT = [0]
X = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)


def streams():
    return {name: key for name, key in rngs().items() if name != "params"}


@pytest.mark.usefixtures("users_rules")
@pytest.mark.filterwarnings("ignore:SelfAttention is deprecated")  # public code has it
@pytest.mark.parametrize("name", MODELS if ALL else ["moe", "gru"])
def test_no_tool_has_a_finding_on_a_sound_model(name):
    model, inputs = MODELS[name]
    variables = model.init(rngs(), *inputs) if ALL else jax.eval_shape(model.init, rngs(), *inputs)
    variables = {kind: tree for kind, tree in variables.items() if kind != "losses"}
    assert keys(model, variables, *inputs, rngs=streams()).findings == []
    assert lint(model, variables, *inputs, rngs=streams(), optimizer=optax.adam(1e-3)) == []
    assert summary(model, *inputs, rngs=rngs()).modules
    assert dtypes(model, variables, *inputs, rngs=streams()).rows
    if ALL:
        assert check_pure(model, variables, *inputs, rngs=streams()) == []
        assert find_nan(model, variables, *inputs, rngs=streams()) is None
        mutable = [kind for kind in variables if kind != "params"] or False
        assert capture(model, "**")(variables, *inputs, rngs=streams(), mutable=mutable).values


# --- faults: each function returns a model, and its variables where they are not those of `init`


class Wrapped(nn.Module):
    """A model with a part called ``bad`` between two layers."""

    bad: nn.Module

    @nn.compact
    def __call__(self, x):
        return nn.Dense(2, name="head")(self.bad(nn.relu(nn.Dense(6, name="stem")(x))))


class Body(nn.Module):
    """A layer with a fault behind it, as the body of a loop."""

    fault: str

    @nn.compact
    def __call__(self, x, _=None):
        h = nn.Dense(x.shape[-1], name="dense")(x)
        return FAULTS[self.fault](self, h), None


def counted(_, h):
    COUNT[0] += 1
    return h


def drawn_twice(module, h):
    key = module.make_rng("dropout")
    return h + jax.random.normal(key, h.shape) * jax.random.uniform(key, h.shape)


FAULTS = {
    "log": lambda _, h: jnp.log(h * 0),
    "exp": lambda _, h: jnp.exp(jnp.abs(h) * 1e5 + 100),
    "0/0": lambda _, h: h + (h * 0) / (h * 0),
    "sqrt": lambda _, h: h + jnp.sqrt(jnp.square(h - jax.lax.stop_gradient(h))),
    "list": lambda _, h: LOG.append(1) or h,
    "numpy": lambda _, h: h * np.random.rand(),  # noqa: NPY002 - the fault
    "counter": counted,
    "same key": drawn_twice,
    "stopped": lambda _, h: jax.lax.stop_gradient(h),
    "half": lambda _, h: h.astype(jnp.float16).astype(jnp.float32),
    "dropout": lambda _, h: nn.Dropout(0.5, deterministic=False)(h),
    "none": lambda _, h: h,
}


class Looped(nn.Module):
    """The body in a scan over layers."""

    fault: str
    split: bool = True

    @nn.compact
    def __call__(self, x):
        loop = nn.scan(Body, variable_axes={"params": 0}, split_rngs={"params": True, "dropout": self.split}, length=3)
        return loop(self.fault, name="layers")(x, None)[0]


class Mapped(nn.Module):
    """The body for each of two experts."""

    fault: str

    @nn.compact
    def __call__(self, x):
        experts = nn.vmap(
            Body, in_axes=None, out_axes=0, axis_size=2, variable_axes={"params": 0}, split_rngs={"params": True}
        )
        return experts(self.fault, name="experts")(x)[0].sum(0)


class Saved(nn.Module):
    """The body under remat."""

    fault: str

    @nn.compact
    def __call__(self, x):
        return nn.remat(Body)(self.fault, name="block")(x)[0]


class Plain(nn.Module):
    """The body as it is."""

    fault: str

    @nn.compact
    def __call__(self, x):
        return Body(self.fault, name="block")(x)[0]


def looked(tool, bad, **options):
    sound = type(bad)(fault="none")
    variables = Wrapped(sound).init(rngs(), X)
    return tool(Wrapped(bad), variables, X, rngs=streams(), **options)


NOT_FINITE = [
    (Looped("log"), "bad/layers", "log", False),
    (Mapped("exp"), "bad/experts", "exp", False),
    (Saved("0/0"), "bad/block", "div", False),
    (Saved("sqrt"), "bad/block", "div", True),
    (Plain("log"), "bad/block", "log", False),
]


@pytest.mark.parametrize(("bad", "path", "operation", "backward"), NOT_FINITE if ALL else NOT_FINITE[-1:], ids=repr)
def test_find_nan_finds_it(bad, path, operation, backward):
    found = looked(find_nan, bad)
    assert found is not None
    assert (found.path, found.operation, found.backward) == (path, operation, backward)


def test_find_nan_names_the_parameter_that_is_not_a_number():
    model = Wrapped(Plain("none"))
    variables = model.init(rngs(), X)
    variables["params"]["head"]["bias"] = variables["params"]["head"]["bias"].at[0].set(jnp.nan)
    found = find_nan(model, variables, X)
    assert found is not None
    assert "params/head/bias" in str(found) or found.path == "head", str(found)


GHOSTS = [
    (Plain("list"), "write"),
    (Saved("numpy"), "randomness"),
    (Plain("counter"), "write"),
    (Looped("list"), "write"),
]


@pytest.mark.parametrize(("bad", "kind"), GHOSTS if ALL else GHOSTS[:2], ids=repr)
def test_check_pure_finds_it(bad, kind):
    found = looked(check_pure, bad)
    assert {path.rpartition("/")[0] for path in found.paths(kind)} == {"bad"}, str(found)


def test_keys_finds_it():
    found = looked(keys, Plain("same key")).findings
    assert found.paths() == ["bad/block"], str(found)
    model = Wrapped(Looped("dropout", split=False))
    variables = jax.eval_shape(model.init, rngs(), X)
    found = keys(model, variables, X, rngs=streams()).findings
    assert [path.startswith("bad/layers") for path in found.paths()] == [True], str(found)
    model = Wrapped(Looped("dropout"))
    assert keys(model, variables, X, rngs=streams()).findings == []


class Careless(nn.Module):
    """A bias before a batch norm, a parameter that is read by nobody, and a submodule that is never called."""

    def setup(self):
        self.dense, self.norm = nn.Dense(6), nn.BatchNorm(use_running_average=False)
        self.unused = nn.Dense(3)
        self.spare = self.param("spare", nn.initializers.ones, (3,))

    def __call__(self, x):
        return nn.relu(self.norm(self.dense(x)))


def test_lint_finds_it():
    model = Wrapped(Careless())
    found = lint(model, jax.eval_shape(model.init, rngs(), X), X)
    assert found.paths("bias before norm") == ["bad/dense"]
    assert found.paths("unused variable") == ["params/bad/spare"]
    assert found.paths("unused submodule") == ["bad/unused"]
    assert len(found) == 3, str(found)
    model = Wrapped(Saved("stopped"))
    found = lint(model, jax.eval_shape(model.init, rngs(), X), X)
    assert set(found.paths("dead parameter")) == {
        f"params/{place}/{leaf}" for place in ("stem", "bad/block/dense") for leaf in ("kernel", "bias")
    }, str(found)


def test_dtypes_counts_the_cast():
    before, after = looked(dtypes, Saved("none")), looked(dtypes, Saved("half"))
    changed = [row.path for row in after.rows if row not in before.rows]
    assert changed == ["bad/block"], changed
    assert after["bad/block"].casts > before["bad/block"].casts
