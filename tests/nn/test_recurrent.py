"""Recurrent cells and layers held to Linen, and to plain loops where Linen has no answer."""

import inspect
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen

from batiste.errors import CarryShapeError, CellMethodError, NotACellError, SequenceShapeError
from batiste.module import Module, compact, nowrap
from batiste.nn import _cells, _recurrent
from batiste.nn._linear import Dense
from tests.nn.oracle import Mode, assert_same, compare, drawn

nn = SimpleNamespace(
    **{name: getattr(_cells, name) for name in _cells.__all__},
    **{name: getattr(_recurrent, name) for name in _recurrent.__all__},
)
normal = jax.nn.initializers.normal(1.0)
X = drawn(0, 2, 5, 3)
LENGTHS = jnp.array([3, 5])


def carry_of(cell, shape):
    """Draw a carry of the shape that the cell starts from."""
    zeros = cell.initialize_carry(jax.random.key(0), shape)
    return jax.tree.map(lambda leaf: drawn(leaf.size, *leaf.shape, dtype=leaf.dtype), zeros)


# Cells.

CELLS = {
    "lstm": ("LSTMCell", {}),
    "lstm-bfloat16": (
        "LSTMCell",
        {"dtype": jnp.bfloat16, "gate_fn": jax.nn.hard_sigmoid, "activation_fn": jax.nn.relu},
    ),
    "optimised-lstm": ("OptimizedLSTMCell", {"bias_init": normal, "recurrent_kernel_init": normal}),
    "optimised-lstm-float16": ("OptimizedLSTMCell", {"dtype": jnp.float16}),
    "simple": ("SimpleCell", {}),
    "simple-residual": ("SimpleCell", {"residual": True, "dtype": jnp.bfloat16}),
    "gru": ("GRUCell", {"bias_init": normal}),
    "gru-bfloat16": ("GRUCell", {"dtype": jnp.bfloat16, "kernel_init": normal}),
    "mgu": ("MGUCell", {}),
    "mgu-no-reset": ("MGUCell", {"reset_gate": False, "forget_bias_init": normal, "activation_bias_init": normal}),
}


@pytest.mark.parametrize(("name", "options"), CELLS.values(), ids=CELLS.keys())
def test_cells_equal_linen(name, options):
    ours, theirs = (getattr(library, name)(features=4, **options) for library in (nn, linen))
    carry = carry_of(ours, X[:, 0].shape)
    variables = compare(ours, theirs, carry, X[:, 0])
    assert ours.num_feature_axes == theirs.num_feature_axes == 1
    assert all("kernel" in part for part in variables["params"].values())


@pytest.mark.parametrize(
    "options",
    [{"kernel_size": (3, 3)}, {"kernel_size": (2,), "use_bias": False, "dtype": jnp.bfloat16}],
    ids=["2d", "1d"],
)
def test_convolutional_cell_equals_linen(options):
    ours, theirs = (library.ConvLSTMCell(features=2, **options) for library in (nn, linen))
    x = drawn(1, 2, *(4,) * len(options["kernel_size"]), 3)
    compare(ours, theirs, carry_of(ours, x.shape), x)
    assert ours.num_feature_axes == theirs.num_feature_axes


@pytest.mark.parametrize("name", ["LSTMCell", "OptimizedLSTMCell", "SimpleCell", "GRUCell", "MGUCell", "ConvLSTMCell"])
def test_first_carries_equal_linen(name):
    sizes = {"kernel_size": (3,)} if name == "ConvLSTMCell" else {}
    for options in ({}, {"carry_init": normal, "param_dtype": jnp.bfloat16}):
        carries = [
            getattr(library, name)(features=4, **sizes, **options).initialize_carry(jax.random.key(3), (2, 6, 3))
            for library in (nn, linen)
        ]
        assert_same(*carries)


def test_both_lstm_cells_are_one_cell():
    plain, optimised = nn.LSTMCell(4), nn.OptimizedLSTMCell(4)
    carry = carry_of(plain, (2, 3))
    variables = plain.init(jax.random.key(0), carry, X[:, 0])
    assert_same(variables, optimised.init(jax.random.key(0), carry, X[:, 0]))
    results = [jax.jit(cell.apply)(variables, carry, X[:, 0]) for cell in (plain, optimised)]
    assert_same(*results, exact=False)


@pytest.mark.parametrize("name", [*CELLS, "conv", "RNN", "Bidirectional"])
def test_signatures_are_linens(name):
    name = {"conv": "ConvLSTMCell"}.get(name) or CELLS.get(name, (name,))[0]
    for part in ("__init__", "__call__"):
        parameters = [
            {p.name: p.kind for p in inspect.signature(getattr(getattr(library, name), part)).parameters.values()}
            for library in (nn, linen)
        ]
        for each in parameters:  # every Module's own, by keyword here
            each.pop("parent", None)
            each.pop("name", None)
        assert list(parameters[0].items()) == list(parameters[1].items())


def test_carries_that_are_none():
    x = X[:, 0]
    for cell in (nn.LSTMCell(4), nn.OptimizedLSTMCell(4)):
        for carry in (jnp.ones((2, 4)), (jnp.ones((2, 4)), jnp.ones((2, 3))), (jnp.ones((2, 4)),) * 3):
            with pytest.raises(CarryShapeError, match=r"a pair \(c, h\) .* features=4"):
                cell.init(jax.random.key(0), carry, x)
    for cell in (nn.SimpleCell(4), nn.GRUCell(4), nn.MGUCell(4)):
        for carry in (jnp.ones(()), (jnp.ones((2, 4)),) * 2):
            with pytest.raises(CarryShapeError, match=r"one array, .* features=4"):
                cell.init(jax.random.key(0), carry, x)


@pytest.mark.parametrize("name", ["SimpleCell", "GRUCell", "MGUCell", "LSTMCell", "OptimizedLSTMCell"])
def test_the_carry_decides_the_size(name):
    """A cell takes its size from the carry that it is given, as Linen's does."""
    carry = jnp.full((2, 6), 0.5)
    carry = (carry, carry) if "LSTM" in name else carry
    compare(getattr(nn, name)(4), getattr(linen, name)(4), carry, X[:, 0])


def test_convolutions_that_shrink_the_memory():
    cell = nn.ConvLSTMCell(2, (3,), strides=(2,))
    x = jnp.ones((2, 4, 3))
    with pytest.raises(CarryShapeError, match="keep the spatial shape"):
        cell.init(jax.random.key(0), cell.initialize_carry(jax.random.key(0), x.shape), x)


def test_unfinished_cells_say_what_is_missing():
    class Unfinished(nn.RNNCellBase):
        pass

    with pytest.raises(CellMethodError, match="Unfinished does not say its initialize_carry"):
        Unfinished().initialize_carry(jax.random.key(0), (3,))
    with pytest.raises(CellMethodError, match="num_feature_axes"):
        _ = Unfinished().num_feature_axes


# Over sequences.

RNNS = {
    "plain": ("LSTMCell", {}, {}),
    "lengths": ("LSTMCell", {"return_carry": True}, {"seq_lengths": LENGTHS}),
    "carry": ("GRUCell", {"return_carry": True, "unroll": 2}, {}),
    "reverse": ("SimpleCell", {"reverse": True}, {}),
    "reverse-lengths": ("SimpleCell", {"reverse": True, "return_carry": True}, {"seq_lengths": LENGTHS}),
    "keep-order": ("MGUCell", {}, {"reverse": True, "keep_order": True, "return_carry": True, "seq_lengths": LENGTHS}),
    "time-major": ("SimpleCell", {"time_major": True}, {"seq_lengths": jnp.array([1, 2, 2, 1, 2]), "reverse": True}),
    "initial-carry": ("SimpleCell", {"return_carry": True}, {"initial_carry": jnp.ones((2, 4))}),
    "drawn-carry": ("OptimizedLSTMCell", {}, {"init_key": jax.random.key(4)}),
}


@pytest.mark.parametrize(("cell", "options", "call"), RNNS.values(), ids=RNNS.keys())
def test_rnn_equals_linen(cell, options, call):
    ours, theirs = (library.RNN(getattr(library, cell)(4, carry_init=normal), **options) for library in (nn, linen))
    variables = compare(ours, theirs, X, init=Mode(call), modes=[Mode(call)], gradients=cell == "LSTMCell")
    assert set(variables["params"]) == {"cell"}


def test_convolutional_rnn_equals_linen():
    x = drawn(1, 2, 3, 4, 2)
    compare(*(library.RNN(library.ConvLSTMCell(2, (3,))) for library in (nn, linen)), x, gradients=False)


@pytest.mark.parametrize(
    ("options", "call"),
    [
        ({}, {}),
        ({"return_carry": True}, {"seq_lengths": LENGTHS, "init_key": jax.random.key(9)}),
        ({"merge_fn": jnp.subtract}, {"time_major": True, "initial_carry": (jnp.ones((5, 4)), jnp.zeros((5, 4)))}),
    ],
    ids=["plain", "lengths", "time-major"],
)
def test_bidirectional_equals_linen(options, call):
    ours, theirs = (
        library.Bidirectional(
            library.RNN(library.SimpleCell(4, carry_init=normal), reverse=True, time_major=True),
            library.RNN(library.GRUCell(4, carry_init=normal)),
            **options,
        )
        for library in (nn, linen)
    )
    variables = compare(ours, theirs, X, init=Mode(call), modes=[Mode(call)], gradients=False)
    assert set(variables["params"]) == {"forward_rnn", "backward_rnn"}


def running_sum(library):
    """Return a cell that adds up its inputs, and counts its steps in a collection."""
    carried, in_compact = (nowrap, compact) if library is nn else (linen.nowrap, linen.compact)

    class RunningSum(library.RNNCellBase):
        noise: bool = False

        @in_compact
        def __call__(self, carry, inputs):
            steps = self.variable("counters", "steps", lambda: jnp.zeros((), jnp.int32))
            steps.value += 1
            self.sow("intermediates", "seen", inputs)
            carry = carry + inputs
            if self.noise:
                carry = carry + jax.random.normal(self.make_rng("noise"), inputs.shape)
            return carry, carry

        @carried
        def initialize_carry(self, rng, input_shape):
            return jnp.zeros(input_shape)

        @property
        def num_feature_axes(self):
            return 1

    return RunningSum


def test_collections_and_random_streams_along_the_sequence_equal_linen():
    options = {
        "variable_axes": {"intermediates": 1},
        "variable_carry": "counters",
        "split_rngs": {"params": False, "noise": True},
    }
    variables = {"counters": {"cell": {"steps": jnp.zeros((), jnp.int32)}}}
    results = []
    for library in (nn, linen):
        layer = library.RNN(running_sum(library)(noise=True), **options)
        outputs, state = layer.apply(
            variables, X, rngs={"noise": jax.random.key(3)}, mutable=["counters", "intermediates"]
        )
        results.append((outputs, dict(state)))
    assert_same(*results)
    _, state = results[0]
    assert state["counters"]["cell"]["steps"] == 5
    np.testing.assert_array_equal(state["intermediates"]["cell"]["seen"][0], X)


def test_several_batch_axes_with_lengths():  # Linen cannot select the last carry here
    x = jnp.stack([X, 2 * X, -X])  # [3, 2, time, features]
    lengths = jnp.array([[3, 5], [1, 2], [4, 4]])
    layer = nn.RNN(nn.SimpleCell(4), return_carry=True, reverse=True, keep_order=True)
    variables = layer.init(jax.random.key(0), X)
    run = jax.jit(lambda x, lengths: layer.apply(variables, x, seq_lengths=lengths))
    together = run(x, lengths)
    assert_same(together, jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(run, x, lengths)), exact=False)


def test_a_sequence_of_no_steps_keeps_the_initial_carry():  # Linen returns the carry after the padding
    layer = nn.RNN(nn.SimpleCell(4), return_carry=True)
    initial = jnp.full((2, 4), 0.5)
    variables = layer.init(jax.random.key(0), X)
    carry, _ = layer.apply(variables, X, initial_carry=initial, seq_lengths=jnp.array([0, 2]))
    np.testing.assert_array_equal(carry[0], initial[0])
    assert (carry[1] != initial[1]).any()


def test_padding_has_no_part_in_the_last_carry():
    layer = nn.RNN(nn.LSTMCell(4), return_carry=True)
    variables = layer.init(jax.random.key(0), X)
    for reverse in (False, True):
        carry, _ = layer.apply(variables, X, seq_lengths=LENGTHS, reverse=reverse)
        alone, _ = layer.apply(variables, X[:1, :3], reverse=reverse)
        assert_same(jax.tree.map(lambda leaf: leaf[:1], carry), alone, exact=False)


@pytest.mark.parametrize("time_major", [False, True])
def test_flipped_sequences_keep_their_padding_at_the_end(time_major):
    x = jnp.arange(10.0).reshape(2, 5, 1)
    flipped = nn.flip_sequences(x.swapaxes(0, 1) if time_major else x, LENGTHS, num_batch_dims=1, time_major=time_major)
    wanted = np.array([[2, 1, 0, 4, 3], [9, 8, 7, 6, 5]], np.float32)
    np.testing.assert_array_equal((flipped.swapaxes(0, 1) if time_major else flipped)[..., 0], wanted)


def test_parameters_are_shared_with_the_cell_alone():
    class Model(Module):
        @compact
        def __call__(self, x):
            return nn.RNN(nn.LSTMCell(4, name="memory"))(x)

    class Theirs(linen.Module):
        @linen.compact
        def __call__(self, x):
            return linen.RNN(linen.LSTMCell(4, name="memory"))(x)

    variables = compare(Model(), Theirs(), X, gradients=False)
    assert set(variables["params"]) == {"memory"}


def test_a_layer_in_place_of_a_cell():
    with pytest.raises(NotACellError, match="cell=Dense"):
        nn.RNN(Dense(3)).init(jax.random.key(0), X)


def test_inputs_without_a_time_axis():
    with pytest.raises(SequenceShapeError, match="leaves none for time"):
        nn.RNN(nn.LSTMCell(4)).init(jax.random.key(0), X[0, 0])


def test_lengths_of_another_batch():
    with pytest.raises(SequenceShapeError, match=r"seq_lengths has shape \(3,\), but the batch axes are \(2,\)"):
        nn.RNN(nn.LSTMCell(4)).init(jax.random.key(0), X, seq_lengths=jnp.array([1, 2, 3]))
