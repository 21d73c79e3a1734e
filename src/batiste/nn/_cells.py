"""Recurrent cells: one step from a carry and an input to the next carry and an output.

A cell is a module called as ``carry, output = cell(carry, inputs)``. Its first carry comes from
``cell.initialize_carry(key, inputs.shape)``, and ``cell.num_feature_axes`` says how many axes at the end of its inputs
are features: 1 for vectors, more for images; all axes before them are batch. ``_recurrent.py`` runs cells over
sequences.

A cell of vectors takes its size from the carry that it is given, as in Linen; ``features`` is the size of the first
carry, and so of all that come from it.

Each gate has a kernel for the inputs and one for the hidden state, named ``i`` or ``h`` and the letter of the gate
(``ii``, ``hi``, ``if``, ``hf``, ...), so that parameters can be told apart, and moved from other libraries, by name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from batiste._arguments import array, function, whole_number, whole_numbers
from batiste.dtypes import promote_dtype
from batiste.errors import CarryShapeError, CellMethodError
from batiste.module import Module, compact, nowrap
from batiste.nn._conv import Conv
from batiste.nn._initializers import lecun_normal, ones, orthogonal, zeros
from batiste.nn._linear import Dense
from batiste.typing import Array, DTypeLike, Initializer, Key, Shape

__all__ = [
    "BUILT_IN_CELLS",
    "ConvLSTMCell",
    "GRUCell",
    "LSTMCell",
    "MGUCell",
    "OptimizedLSTMCell",
    "RNNCellBase",
    "SimpleCell",
]


class RNNCellBase(Module):
    """What every recurrent cell has: a first carry, and the number of feature axes of its inputs.

    A cell of your own is a subclass with ``__call__(self, carry, inputs)``, which returns the next carry and the
    output, and with the two members below. Mark ``initialize_carry`` with ``@nn.nowrap``: it is called on cells that
    are not bound to variables.

    Example:
      >>> from batiste import nn
      >>> cell = nn.GRUCell(4)
      >>> isinstance(cell, nn.RNNCellBase), cell.num_feature_axes
      (True, 1)
    """

    @nowrap
    def initialize_carry(self, rng: Key, input_shape: tuple[int, ...]) -> Any:
        """Return the carry before the first step.

        Args:
          rng: the random key for it; a cell that starts from zeros does not look at it.
          input_shape: the shape of the inputs of one step, ``[batch..., features...]``.
        """
        del rng, input_shape
        raise CellMethodError(
            cell=type(self).__name__,
            method="initialize_carry",
            advice="@nn.nowrap def initialize_carry(self, rng, input_shape): return <the carry before the first step>",
        )

    @property
    def num_feature_axes(self) -> int:
        """How many axes at the end of the inputs of one step are features."""
        raise CellMethodError(
            cell=type(self).__name__,
            method="num_feature_axes",
            advice="@property def num_feature_axes(self): return 1",
        )


class _VectorCell(RNNCellBase):
    """A cell whose inputs have one feature axis."""

    @property
    def num_feature_axes(self) -> int:
        """How many axes at the end of the inputs of one step are features: 1."""
        return 1


class LSTMCell(_VectorCell):
    r"""A long short-term memory cell: a memory ``c`` that gates write to, forget from and read.

    Hochreiter and Schmidhuber, "Long Short-Term Memory", Neural Computation 9 (1997); the forget gate from Gers,
    Schmidhuber and Cummins (2000). With input ``x`` and hidden state ``h``:

    .. math::

        i = \sigma(W_{ii} x + W_{hi} h + b_{hi}) \quad
        f = \sigma(W_{if} x + W_{hf} h + b_{hf}) \quad
        g = \tanh(W_{ig} x + W_{hg} h + b_{hg}) \quad
        o = \sigma(W_{io} x + W_{ho} h + b_{ho})

        c' = f \cdot c + i \cdot g \qquad h' = o \cdot \tanh(c')

    The carry is ``(c, h)``, each ``[batch..., features]``. ``OptimizedLSTMCell`` computes the same from the same
    parameters with two products in place of eight.

    Attributes:
      features: the size of the memory and of the output.
      gate_fn: the squashing function of the gates i, f and o.
      activation_fn: the squashing function of what is written and read.
      kernel_init: draws the kernels of the inputs.
      recurrent_kernel_init: draws the kernels of the hidden state.
      bias_init: draws the biases.
      dtype: what to compute in; None takes what inputs, carry and parameters promote to.
      param_dtype: the element type of the parameters and of the first carry.
      carry_init: draws the first carry.
    """

    features: int
    gate_fn: Callable[..., Any] = jax.nn.sigmoid
    activation_fn: Callable[..., Any] = jnp.tanh
    kernel_init: Initializer = lecun_normal()
    recurrent_kernel_init: Initializer = orthogonal()
    bias_init: Initializer = zeros
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    carry_init: Initializer = zeros

    @compact
    def __call__(self, carry: tuple[Array, Array], inputs: Array) -> tuple[tuple[Array, Array], Array]:
        """Take one step.

        Args:
          carry: ``(c, h)``, each ``[batch..., features]``.
          inputs: ``[batch..., input_features]``.

        Returns:
          The next carry, and the output ``h``, ``[batch..., features]``.
        """
        c, h = _pair(self, carry)
        gates = [
            _dense(self, f"i{gate}", h, use_bias=False)(inputs) + _dense(self, f"h{gate}", h, recurrent=True)(h)
            for gate in "ifgo"
        ]
        return _lstm_step(self, c, gates)

    @nowrap
    def initialize_carry(self, rng: Key, input_shape: tuple[int, ...]) -> tuple[Array, Array]:
        """Return the first carry ``(c, h)`` for inputs of ``input_shape``, ``[batch..., input_features]``."""
        return _two_states(self, rng, (*input_shape[:-1], _features(self)))


class OptimizedLSTMCell(_VectorCell):
    """``LSTMCell`` with its eight products laid side by side into two, which is faster up to some 2,000 features.

    Its parameters are those of ``LSTMCell``, name by name; the formula is there too.

    Attributes:
      features: the size of the memory and of the output.
      gate_fn: the squashing function of the gates i, f and o.
      activation_fn: the squashing function of what is written and read.
      kernel_init: draws the kernels of the inputs.
      recurrent_kernel_init: draws the kernels of the hidden state.
      bias_init: draws the biases.
      dtype: what to compute in; None takes what inputs, carry and parameters promote to.
      param_dtype: the element type of the parameters and of the first carry.
      carry_init: draws the first carry.
    """

    features: int
    gate_fn: Callable[..., Any] = jax.nn.sigmoid
    activation_fn: Callable[..., Any] = jnp.tanh
    kernel_init: Initializer = lecun_normal()
    recurrent_kernel_init: Initializer = orthogonal()
    bias_init: Initializer = zeros
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    carry_init: Initializer = zeros

    @compact
    def __call__(self, carry: tuple[Array, Array], inputs: Array) -> tuple[tuple[Array, Array], Array]:
        """Take one step.

        Args:
          carry: ``(c, h)``, each ``[batch..., features]``.
          inputs: ``[batch..., input_features]``.

        Returns:
          The next carry, and the output ``h``, ``[batch..., features]``.
        """
        c, h = _pair(self, carry)
        inputs = array(inputs, "inputs", self)
        from_h = self._product("h", np.shape(h)[-1], h, self.recurrent_kernel_init, self.bias_init)
        from_x = self._product("i", np.shape(h)[-1], inputs, self.kernel_init, None)
        return _lstm_step(self, c, [a + b for a, b in zip(from_h, from_x, strict=True)])

    @nowrap
    def _product(
        self, side: str, features: int, inputs: Array, kernel_init: Initializer, bias_init: Initializer | None
    ) -> Sequence[Array]:
        """Return the products of ``inputs`` with the kernels of the four gates, each ``[batch..., features]``."""
        parameters = [
            _GateParameters(features, kernel_init, bias_init, self.param_dtype, name=f"{side}{gate}")(inputs.shape[-1])
            for gate in "ifgo"
        ]
        kernel = jnp.concatenate([kernel for kernel, _ in parameters], axis=-1)
        if bias_init is None:
            inputs, kernel = promote_dtype(inputs, kernel, dtype=self.dtype)
            return jnp.split(jnp.dot(inputs, kernel), 4, axis=-1)
        bias = jnp.concatenate([bias for _, bias in parameters if bias is not None], axis=-1)
        inputs, kernel, bias = promote_dtype(inputs, kernel, bias, dtype=self.dtype)
        product = jnp.dot(inputs, kernel)
        return jnp.split(product + bias.reshape((1,) * (product.ndim - 1) + bias.shape), 4, axis=-1)

    @nowrap
    def initialize_carry(self, rng: Key, input_shape: tuple[int, ...]) -> tuple[Array, Array]:
        """Return the first carry ``(c, h)`` for inputs of ``input_shape``, ``[batch..., input_features]``."""
        return _two_states(self, rng, (*input_shape[:-1], _features(self)))


class SimpleCell(_VectorCell):
    r"""The plain recurrent cell: ``h' = tanh(W_i x + b_i + W_h h)``, to which ``residual=True`` adds ``h``.

    Elman, "Finding Structure in Time", Cognitive Science 14 (1990). The carry is ``h``, ``[batch..., features]``.

    Attributes:
      features: the size of the hidden state, which is the output.
      activation_fn: the squashing function.
      kernel_init: draws the kernel of the inputs.
      recurrent_kernel_init: draws the kernel of the hidden state.
      bias_init: draws the bias.
      dtype: what to compute in; None takes what inputs, carry and parameters promote to.
      param_dtype: the element type of the parameters and of the first carry.
      carry_init: draws the first carry.
      residual: whether to add the hidden state before the squashing (https://arxiv.org/abs/1801.06105).
    """

    features: int
    activation_fn: Callable[..., Any] = jnp.tanh
    kernel_init: Initializer = lecun_normal()
    recurrent_kernel_init: Initializer = orthogonal()
    bias_init: Initializer = zeros
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    carry_init: Initializer = zeros
    residual: bool = False

    @compact
    def __call__(self, carry: Array, inputs: Array) -> tuple[Array, Array]:
        """Take one step.

        Args:
          carry: the hidden state, ``[batch..., features]``.
          inputs: ``[batch..., input_features]``.

        Returns:
          The next hidden state, twice: as carry and as output.
        """
        h = _single(self, carry)
        new = _dense(self, "i", h)(inputs) + _dense(self, "h", h, recurrent=True, use_bias=False)(h)
        new = self.activation_fn(new + h if self.residual else new)
        return new, new

    @nowrap
    def initialize_carry(self, rng: Key, input_shape: tuple[int, ...]) -> Array:
        """Return the first hidden state for inputs of ``input_shape``, ``[batch..., input_features]``."""
        return _first_state(self, rng, (*input_shape[:-1], _features(self)))


class GRUCell(_VectorCell):
    r"""A gated recurrent unit: the hidden state is its own memory, and one gate both forgets and writes.

    Cho and others, "Learning Phrase Representations using RNN Encoder-Decoder" (2014),
    https://arxiv.org/abs/1406.1078, with the reset gate behind the product as in cuDNN:

    .. math::

        r = \sigma(W_{ir} x + b_{ir} + W_{hr} h) \quad
        z = \sigma(W_{iz} x + b_{iz} + W_{hz} h) \quad
        n = \tanh(W_{in} x + b_{in} + r \cdot (W_{hn} h + b_{hn}))

        h' = (1 - z) \cdot n + z \cdot h

    The carry is ``h``, ``[batch..., features]``.

    Attributes:
      features: the size of the hidden state, which is the output.
      gate_fn: the squashing function of the gates r and z.
      activation_fn: the squashing function of the new state n.
      kernel_init: draws the kernels of the inputs.
      recurrent_kernel_init: draws the kernels of the hidden state.
      bias_init: draws the biases.
      dtype: what to compute in; None takes what inputs, carry and parameters promote to.
      param_dtype: the element type of the parameters and of the first carry.
      carry_init: draws the first carry.
    """

    features: int
    gate_fn: Callable[..., Any] = jax.nn.sigmoid
    activation_fn: Callable[..., Any] = jnp.tanh
    kernel_init: Initializer = lecun_normal()
    recurrent_kernel_init: Initializer = orthogonal()
    bias_init: Initializer = zeros
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    carry_init: Initializer = zeros

    @compact
    def __call__(self, carry: Array, inputs: Array) -> tuple[Array, Array]:
        """Take one step.

        Args:
          carry: the hidden state, ``[batch..., features]``.
          inputs: ``[batch..., input_features]``.

        Returns:
          The next hidden state, twice: as carry and as output.
        """
        h = _single(self, carry)
        r = self.gate_fn(_dense(self, "ir", h)(inputs) + _dense(self, "hr", h, recurrent=True, use_bias=False)(h))
        z = self.gate_fn(_dense(self, "iz", h)(inputs) + _dense(self, "hz", h, recurrent=True, use_bias=False)(h))
        n = self.activation_fn(_dense(self, "in", h)(inputs) + r * _dense(self, "hn", h, recurrent=True)(h))
        new = (1.0 - z) * n + z * h
        return new, new

    @nowrap
    def initialize_carry(self, rng: Key, input_shape: tuple[int, ...]) -> Array:
        """Return the first hidden state for inputs of ``input_shape``, ``[batch..., input_features]``."""
        return _first_state(self, rng, (*input_shape[:-1], _features(self)))


class MGUCell(_VectorCell):
    r"""A minimal gated unit: a gated recurrent unit whose one gate also resets.

    Zhou and others, "Minimal Gated Unit for Recurrent Neural Networks" (2016), https://arxiv.org/abs/1603.09420; with
    ``reset_gate=False`` the MGU2 of Heck and Salem (2017), https://arxiv.org/abs/1701.03452:

    .. math::

        f = \sigma(W_{if} x + b_{if} + W_{hf} h) \quad
        n = \tanh(W_{in} x + b_{in} + f \cdot (W_{hn} h + b_{hn})) \quad
        h' = (1 - f) \cdot n + f \cdot h

    Without the reset gate the new state is ``n = tanh(W_in x + b_in + W_hn h)``. The carry is ``h``,
    ``[batch..., features]``.

    Attributes:
      features: the size of the hidden state, which is the output.
      gate_fn: the squashing function of the gate f.
      activation_fn: the squashing function of the new state n.
      kernel_init: draws the kernels of the inputs.
      recurrent_kernel_init: draws the kernels of the hidden state.
      forget_bias_init: draws the bias of the gate: ones, so that a new cell remembers.
      activation_bias_init: draws the biases of the new state.
      dtype: what to compute in; None takes what inputs, carry and parameters promote to.
      param_dtype: the element type of the parameters and of the first carry.
      carry_init: draws the first carry.
      reset_gate: whether the gate also scales what the new state takes from the old one.
    """

    features: int
    gate_fn: Callable[..., Any] = jax.nn.sigmoid
    activation_fn: Callable[..., Any] = jnp.tanh
    kernel_init: Initializer = lecun_normal()
    recurrent_kernel_init: Initializer = orthogonal()
    forget_bias_init: Initializer = ones
    activation_bias_init: Initializer = zeros
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    carry_init: Initializer = zeros
    reset_gate: bool = True

    @compact
    def __call__(self, carry: Array, inputs: Array) -> tuple[Array, Array]:
        """Take one step.

        Args:
          carry: the hidden state, ``[batch..., features]``.
          inputs: ``[batch..., input_features]``.

        Returns:
          The next hidden state, twice: as carry and as output.
        """
        h = _single(self, carry)
        bias = self.activation_bias_init
        from_x = _dense(self, "if", h, bias_init=self.forget_bias_init)(inputs)
        f = self.gate_fn(from_x + _dense(self, "hf", h, recurrent=True, use_bias=False)(h))
        from_h = _dense(self, "hn", h, recurrent=True, use_bias=self.reset_gate, bias_init=bias)(h)
        n = self.activation_fn(
            _dense(self, "in", h, bias_init=bias)(inputs) + (from_h * f if self.reset_gate else from_h)
        )
        new = (1.0 - f) * n + f * h
        return new, new

    @nowrap
    def initialize_carry(self, rng: Key, input_shape: tuple[int, ...]) -> Array:
        """Return the first hidden state for inputs of ``input_shape``, ``[batch..., input_features]``."""
        return _first_state(self, rng, (*input_shape[:-1], _features(self)))


class ConvLSTMCell(RNNCellBase):
    r"""A long short-term memory cell over images: convolutions in place of matrix products.

    Shi and others, "Convolutional LSTM Network" (2015), https://arxiv.org/abs/1506.04214, without peepholes; 1 is
    added to the forget gate, so that a new cell remembers (Jozefowicz and others, 2015):

    .. math::

        i, g, f, o = W_i * x + b_i + W_h * h + b_h \quad
        c' = \sigma(f + 1) \cdot c + \sigma(i) \cdot \tanh(g) \quad
        h' = \sigma(o) \cdot \tanh(c')

    The carry is ``(c, h)``, each ``[batch..., spatial..., features]``.

    Attributes:
      features: the number of channels of the memory and of the output.
      kernel_size: the extent of the kernels, one number per spatial axis.
      strides: the steps between windows, one number per spatial axis; the memory keeps the size of the inputs, so
        other than 1 does not fit.
      padding: ``"SAME"``, ``"VALID"``, ..., or a pair (before, after) per spatial axis.
      use_bias: whether the two convolutions add a bias.
      dtype: what to compute in; None takes what inputs, carry and parameters promote to.
      param_dtype: the element type of the parameters and of the first carry.
      carry_init: draws the first carry.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from batiste import nn
      >>> cell, x = nn.ConvLSTMCell(4, (3, 3)), jnp.ones((1, 8, 8, 3))
      >>> carry = cell.initialize_carry(jax.random.key(0), x.shape)
      >>> cell.init_with_output(jax.random.key(1), carry, x)[0][1].shape
      (1, 8, 8, 4)
    """

    features: int
    kernel_size: Sequence[int]
    strides: Sequence[int] | None = None
    padding: str | Sequence[tuple[int, int]] = "SAME"
    use_bias: bool = True
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    carry_init: Initializer = zeros

    @compact
    def __call__(self, carry: tuple[Array, Array], inputs: Array) -> tuple[tuple[Array, Array], Array]:
        """Take one step.

        Args:
          carry: ``(c, h)``, each ``[batch..., spatial..., features]``.
          inputs: ``[batch..., spatial..., channels]``.

        Returns:
          The next carry, and the output ``h``, ``[batch..., spatial..., features]``.
        """
        c, h = _pair(self, carry)
        gates = self._convolution("ih")(inputs) + self._convolution("hh")(h)
        if gates.shape[:-1] != c.shape[:-1]:
            raise CarryShapeError(
                path=self.path,
                given=f"shape {c.shape}, while its convolutions give {gates.shape}",
                expected="convolutions that keep the spatial shape (strides of 1 and padding='SAME')",
            )
        i, g, f, o = jnp.split(gates, 4, axis=-1)
        c = jax.nn.sigmoid(f + 1) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (c, h), h

    @nowrap
    def _convolution(self, name: str) -> Conv:
        """Return the convolution that makes all four gates."""
        return Conv(
            features=4 * _features(self),
            kernel_size=self.kernel_size,
            strides=self.strides,
            padding=self.padding,
            use_bias=self.use_bias,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name=name,
        )

    @nowrap
    def initialize_carry(self, rng: Key, input_shape: tuple[int, ...]) -> tuple[Array, Array]:
        """Return the first carry ``(c, h)`` for inputs of ``input_shape``, ``[batch..., spatial..., channels]``."""
        return _two_states(self, rng, (*input_shape[:-1], _features(self)))

    @property
    def num_feature_axes(self) -> int:
        """How many axes at the end of the inputs of one step are features: the spatial ones and the channels."""
        return len(whole_numbers(self.kernel_size, "kernel_size", type(self).__name__, low=1)) + 1


BUILT_IN_CELLS = (LSTMCell, OptimizedLSTMCell, SimpleCell, GRUCell, MGUCell, ConvLSTMCell)
"""The cells of this file."""


class _GateParameters(Module):
    """The kernel and the bias of one gate, without the product."""

    features: int
    kernel_init: Initializer
    bias_init: Initializer | None
    param_dtype: DTypeLike

    @compact
    def __call__(self, input_features: int) -> tuple[Array, Array | None]:
        kernel = self.param("kernel", self.kernel_init, (input_features, self.features), self.param_dtype)
        if self.bias_init is None:
            return kernel, None
        return kernel, self.param("bias", self.bias_init, (self.features,), self.param_dtype)


def _features(cell: Any) -> int:
    """Return the size of a cell's state."""
    return whole_number(cell.features, "features", cell if cell.scope is not None else type(cell).__name__)


def _checked_features(cell: Any) -> int:
    """Return the size of a cell's state, after a look at its functions."""
    for name in ("gate_fn", "activation_fn"):
        given = getattr(cell, name, jnp.tanh)
        if not callable(given):
            function(given, name, cell)
    return _features(cell)


def _dense(
    cell: Any,
    name: str,
    state: Array,
    *,
    recurrent: bool = False,
    use_bias: bool = True,
    bias_init: Initializer | None = None,
) -> Dense:
    """Return one product of a cell, as wide as its hidden state: of its inputs, or of the state where ``recurrent``."""
    return Dense(
        features=np.shape(state)[-1],
        use_bias=use_bias,
        kernel_init=cell.recurrent_kernel_init if recurrent else cell.kernel_init,
        bias_init=getattr(cell, "bias_init", zeros) if bias_init is None else bias_init,
        dtype=cell.dtype,
        param_dtype=cell.param_dtype,
        name=name,
    )


def _lstm_step(cell: Any, c: Array, gates: Sequence[Array]) -> tuple[tuple[Array, Array], Array]:
    """Return the next carry and the output, from the memory and the four gates before they are squashed."""
    i, f, g, o = gates
    c = cell.gate_fn(f) * c + cell.gate_fn(i) * cell.activation_fn(g)
    h = cell.gate_fn(o) * cell.activation_fn(c)
    return (c, h), h


def _two_states(cell: Any, rng: Key, shape: Shape) -> tuple[Array, Array]:
    first, second = jax.random.split(rng)
    return _first_state(cell, first, shape), _first_state(cell, second, shape)


def _first_state(cell: Any, rng: Key, shape: Shape) -> Array:
    draw = function(cell.carry_init, "carry_init", cell if cell.scope is not None else type(cell).__name__)
    return draw(rng, shape, cell.param_dtype)


def _pair(cell: Any, carry: Any) -> tuple[Array, Array]:
    """Return the carry ``(c, h)`` of a cell with a memory."""
    states: tuple[Any, ...] = tuple(cast("Any", carry)) if isinstance(carry, tuple | list) else ()
    features = _checked_features(cell)
    sizes = [np.shape(state)[-1:] for state in states]
    allowed = (features,) if isinstance(cell, ConvLSTMCell) else sizes[-1] if sizes else ()
    if not allowed or sizes != [allowed] * 2:
        raise CarryShapeError(
            path=cell.path,
            given=_describe(carry),
            expected=f"a pair (c, h) of arrays of one size, by default with a last axis of features={features}",
        )
    return states[0], states[1]


def _single(cell: Any, carry: Any) -> Array:
    """Return the carry of a cell whose output is its whole state."""
    features = _checked_features(cell)
    if isinstance(carry, tuple | list) or np.ndim(carry) == 0:
        raise CarryShapeError(
            path=cell.path,
            given=_describe(carry),
            expected=f"one array, by default with a last axis of features={features}",
        )
    return carry


def _describe(carry: Any) -> str:
    shapes = jax.tree.map(cast("Any", np.shape), carry)
    return str(shapes) if isinstance(carry, tuple | list) else f"shape {np.shape(carry)}"
