"""The table of a blueprint, before any array exists."""

import io
from typing import Any

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rich.console
import rich.table

from batiste import nn, struct
from batiste.core import AxisMetadata
from batiste.diagnose import Summary, SummaryRow, summary
from batiste.errors import BatisteWarning, LazyInitError

IMAGES = jax.ShapeDtypeStruct((2, 8, 8, 1), jnp.float32)


class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.Conv(4, (3, 3), use_bias=False, name="Zeta")(x)
        x = nn.BatchNorm(use_running_average=not train)(x)
        x = nn.Dropout(0.5, deterministic=not train)(x)
        return nn.Dense(3, param_dtype=jnp.bfloat16)(x.reshape(len(x), -1))


def test_rows_are_the_variables_parameters_first_in_the_order_of_their_making():
    assert summary(Net(), IMAGES, train=False) == Summary(
        name="Net",
        rows=(
            SummaryRow("params/Zeta/kernel", "params", (3, 3, 1, 4), "float32", 36, 144),
            SummaryRow("params/BatchNorm_0/scale", "params", (4,), "float32", 4, 16),
            SummaryRow("params/BatchNorm_0/bias", "params", (4,), "float32", 4, 16),
            SummaryRow("params/Dense_0/kernel", "params", (256, 3), "bfloat16", 768, 1536),
            SummaryRow("params/Dense_0/bias", "params", (3,), "bfloat16", 3, 6),
            SummaryRow("batch_stats/BatchNorm_0/mean", "batch_stats", (4,), "float32", 0, 16),
            SummaryRow("batch_stats/BatchNorm_0/var", "batch_stats", (4,), "float32", 0, 16),
        ),
    )


def test_totals_are_those_of_the_real_variables():
    made = summary(Net(), IMAGES, train=False)
    variables = Net().init(jax.random.key(0), IMAGES, train=False)
    assert made.parameters == sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    assert made.bytes == sum(leaf.nbytes for leaf in jax.tree.leaves(variables))
    assert made.totals() == {"params": (815, 1718), "batch_stats": (0, 32)}


def test_inputs_may_be_arrays_or_shapes_beside_options_by_position():
    expected = summary(Net(), IMAGES, train=True)
    assert summary(Net(), np.zeros(IMAGES.shape, np.float32), True) == expected
    assert summary(Net(), jnp.zeros(IMAGES.shape), False) == expected
    rngs = {"params": jax.random.key(1), "dropout": jax.random.PRNGKey(2)}
    assert summary(Net(), IMAGES, train=True, rngs=rngs) == expected


def test_no_array_is_made(monkeypatch):
    def refuse(*_, **__):
        pytest.fail("an array was made")

    class Huge(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(1 << 20)(nn.Dense(1 << 20)(x))

    monkeypatch.setattr(jax, "device_put", refuse)
    made = summary(Huge(), jax.ShapeDtypeStruct((1, 1 << 20), jnp.float32))
    assert made.bytes == 2 * ((1 << 40) + (1 << 20)) * 4


def test_a_flax_model_has_a_table_too():
    class FlaxNet(flax.linen.Module):
        @flax.linen.compact
        def __call__(self, x):
            return flax.linen.Dense(3)(x)

    made = summary(FlaxNet(), jnp.ones((1, 2)))
    assert {row.path: row.shape for row in made.rows} == {"params/Dense_0/kernel": (2, 3), "params/Dense_0/bias": (3,)}


@struct.dataclass
class Box(AxisMetadata):
    value: Any

    def unbox(self):
        return self.value

    def replace_boxed(self, val):
        return Box(val)

    def add_axis(self, index, params):
        return self

    remove_axis = add_axis


def test_boxes_are_seen_through():
    class Boxed(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3, kernel_init=lambda *args: Box(nn.initializers.lecun_normal()(*args)))(x)

    rows = summary(Boxed(), jnp.ones((1, 2))).rows
    assert [row.path for row in rows] == ["params/Dense_0/kernel", "params/Dense_0/bias"]


def test_a_model_that_reads_values_is_initialised():
    class Reads(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3 if x.sum() > 0 else 2)(x)

    with pytest.warns(BatisteWarning, match="ran the whole model"):
        assert summary(Reads(), np.ones((1, 2), np.float32)).parameters == 9
    with pytest.warns(BatisteWarning):
        assert summary(Reads(), -np.ones((1, 2), np.float32)).parameters == 6
    with pytest.raises(LazyInitError):
        summary(Reads(), jax.ShapeDtypeStruct((1, 2), np.float32))


def test_a_model_without_variables_and_one_with_an_odd_leaf():
    class Nothing(nn.Module):
        def __call__(self, x):
            return x

    class Odd(nn.Module):
        @nn.compact
        def __call__(self, x):
            self.variable("state", "pair", lambda: (jnp.zeros(2, jnp.int8), jax.random.key(0)))
            return x

    empty = summary(Nothing(), 1.0)
    assert (empty.rows, empty.parameters, empty.bytes) == ((), 0, 0)
    assert "total" in str(empty)
    assert [(row.path, row.bytes) for row in summary(Odd(), 1.0).rows] == [("state/pair/0", 2), ("state/pair/1", 8)]


TEXT = """\
Net
path                          shape         dtype     parameters  bytes
----------------------------  ------------  --------  ----------  -----
params/Zeta/kernel            (3, 3, 1, 4)  float32           36    144
params/BatchNorm_0/scale      (4,)          float32            4     16
params/BatchNorm_0/bias       (4,)          float32            4     16
params/Dense_0/kernel         (256, 3)      bfloat16         768  1,536
params/Dense_0/bias           (3,)          bfloat16           3      6
batch_stats/BatchNorm_0/mean  (4,)          float32                  16
batch_stats/BatchNorm_0/var   (4,)          float32                  16
----------------------------  ------------  --------  ----------  -----
params                                                       815  1,718
batch_stats                                                          32
total                                                        815  1,750"""


def test_as_text_and_as_a_table():
    made = summary(Net(), IMAGES, train=False)
    assert str(made) == TEXT
    assert isinstance(made.__rich__(), rich.table.Table)
    console = rich.console.Console(file=io.StringIO(), width=100)
    console.print(made)
    lines = console.file.getvalue().splitlines()
    assert any("params/Zeta/kernel" in line and "(3, 3, 1, 4)" in line and "144" in line for line in lines)
    assert any("total" in line and "1,750" in line for line in lines)


class Odd(nn.Module):
    """Variables of kinds that are no ordinary parameters."""

    @nn.compact
    def __call__(self):
        for name in ("int4", "float8_e4m3fn", "bool", "complex64"):
            self.variable("state", name, jnp.zeros, (3,), getattr(jnp, name, bool))
        self.variable("state", "key", lambda: jax.random.split(jax.random.key(0), 5))
        self.param("empty", lambda _: jnp.zeros((0, 4)))


def test_bytes_are_those_of_the_arrays():
    variables = Odd().init(jax.random.key(0))
    rows = {row.path: (row.bytes, row.parameters) for row in summary(Odd()).rows}
    assert rows == {
        "params/empty": (0, 0),
        **{f"state/{name}": (leaf.nbytes, 0) for name, leaf in variables["state"].items()},
    }


@pytest.mark.parametrize("size", [2**20, np.int32(2**20), np.int64(2**20)], ids=repr)
def test_counts_beyond_what_an_int32_holds(size):
    found = summary(nn.Dense(size), jax.ShapeDtypeStruct((1, size), jnp.float32))
    assert found.parameters == 2**40 + 2**20
    assert found.bytes == 4 * (2**40 + 2**20)
    assert f"{2**40 + 2**20:,}" in str(found)


def test_a_notebook_shows_the_table():
    text = summary(Net(), IMAGES, train=False)._repr_html_()
    assert text.startswith("<table><caption>Net</caption>")
    variables, modules = text.split("</table>")[:2]
    assert variables.count("<tr>") == 1 + 7 + 3  # the head, the variables, two collections and the total
    assert modules.count("<tr>") == 1 + 5  # the head; the net, its convolution, norm, dropout and dense layer
    assert "<td>params/Dense_0/kernel</td><td>(256, 3)</td><td>bfloat16</td><td>768</td><td>1,536</td>" in text
    assert "&lt;b&gt;" in Summary("<b>", ())._repr_html_()
