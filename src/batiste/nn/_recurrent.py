"""Recurrent layers: cells run over sequences, forwards, backwards and both.

``RNN`` scans one cell of ``_cells.py`` along the time axis, so that its variables exist once and its program does not
grow with the sequence. ``Bidirectional`` runs two of them, one in each direction, and merges what they give.

Inputs are ``[batch..., time, features...]``, or ``[time, batch..., features...]`` where ``time_major``. Sequences of
different lengths are padded at the end, and ``seq_lengths`` of shape ``[batch...]`` says how long each is. Padding is
run over like the rest: its outputs are no zeros, but the carry that is returned is the one after the last real step,
and a reversed sequence starts with it.

A loop carries arrays of one dtype. Where inputs, parameters and the first carry are in several, the cells of
``_cells.py`` start with the carry in the dtype that their steps leave it in.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from batiste._arguments import array, dtype_name, whole_number
from batiste.core import CollectionFilter
from batiste.dtypes import cast
from batiste.errors import CarryDtypeError, NotACellError, SequenceShapeError
from batiste.lift import scan
from batiste.module import Module, nowrap
from batiste.nn._cells import BUILT_IN_CELLS, RNNCellBase, SimpleCell
from batiste.typing import Array, ArrayLike, Key

__all__ = ["RNN", "Bidirectional", "RNNBase", "flip_sequences"]


@runtime_checkable
class RNNBase(Protocol):
    """What ``Bidirectional`` asks of the layers it runs: the call signature of ``RNN``.

    Example:
      >>> from batiste import nn
      >>> isinstance(nn.RNN(nn.GRUCell(4)), nn.RNNBase)
      True
    """

    def __call__(
        self,
        inputs: Array,
        *,
        initial_carry: Any | None = None,
        init_key: Key | None = None,
        seq_lengths: ArrayLike | None = None,
        return_carry: bool | None = None,
        time_major: bool | None = None,
        reverse: bool | None = None,
        keep_order: bool | None = None,
    ) -> Any:
        """Run over ``inputs``; the arguments are those of ``RNN``."""
        ...


def _side_by_side(a: Array, b: Array) -> Array:
    """Return both along one last axis."""
    return jnp.concatenate([a, b], axis=-1)


class RNN(Module):
    """A recurrent cell run over a sequence.

    Attributes:
      cell: the cell, for example ``nn.LSTMCell(64)``; its parameters are under its own name, by default ``cell``.
      time_major: whether the time axis is the first; else it is the last before the features.
      return_carry: whether to return the last carry too.
      reverse: whether to run from the end to the start, and return the outputs in that order.
      keep_order: whether to return the outputs in the order of the inputs, where ``reverse``.
      unroll: how many steps one turn of the compiled loop takes.
      variable_axes: collections that hold one value per step, with the axis along which the values are stacked.
      variable_broadcast: collections that all steps share.
      variable_carry: collections that each step hands on to the next.
      split_rngs: for each random stream, whether every step draws its own numbers.
    """

    cell: RNNCellBase
    time_major: bool = False
    return_carry: bool = False
    reverse: bool = False
    keep_order: bool = False
    unroll: int = 1
    variable_axes: Mapping[CollectionFilter, Any] = dataclasses.field(default_factory=dict[CollectionFilter, Any])
    variable_broadcast: CollectionFilter = "params"
    variable_carry: CollectionFilter = False
    split_rngs: Mapping[CollectionFilter, bool] = dataclasses.field(default_factory=lambda: {"params": False})

    def __call__(
        self,
        inputs: Array,
        *,
        initial_carry: Any | None = None,
        init_key: Key | None = None,
        seq_lengths: ArrayLike | None = None,
        return_carry: bool | None = None,
        time_major: bool | None = None,
        reverse: bool | None = None,
        keep_order: bool | None = None,
    ) -> Any:
        """Run the cell over ``inputs``; what is None is as the attribute of that name says.

        Args:
          inputs: ``[batch..., time, features...]``, or with the time first where ``time_major``.
          initial_carry: the carry before the first step; None asks the cell for one.
          init_key: the random key for that; None takes ``jax.random.key(0)``.
          seq_lengths: the number of real steps of each sequence, ``[batch...]``, at most ``time``.
          return_carry: whether to return the last carry too.
          time_major: whether the time axis is the first.
          reverse: whether to run from the end to the start.
          keep_order: whether a reversed run returns its outputs in the order of the inputs.

        Returns:
          The outputs, ``[batch..., time, output_features...]`` or with the time first; or the pair of the carry after
          the last real step and the outputs. For a sequence of length 0 that is the initial carry.

        Raises:
          ArgumentError: ``unroll`` is no whole number from 1 on, or the input is no array.
          NotACellError: ``cell`` is no recurrent cell.
          SequenceShapeError: the inputs have no time axis, or the lengths are not one integer for each sequence.
          CarryDtypeError: the carry comes out of a step in another dtype.
        """
        inputs = array(inputs, "inputs", self)
        unroll = self.unroll if isinstance(self.unroll, bool) else whole_number(self.unroll, "unroll", self, low=1)
        return_carry = self.return_carry if return_carry is None else return_carry
        time_major = self.time_major if time_major is None else time_major
        reverse = self.reverse if reverse is None else reverse
        keep_order = self.keep_order if keep_order is None else keep_order
        time_axis, batch = self._axes(inputs, time_major=time_major)
        if seq_lengths is not None:
            seq_lengths = self._lengths(inputs, seq_lengths, batch)
        if reverse:
            inputs = flip_sequences(inputs, seq_lengths, num_batch_dims=len(batch), time_major=time_major)
        if initial_carry is None:
            step_shape = inputs.shape[:time_axis] + inputs.shape[time_axis + 1 :]
            initial_carry = self.cell.initialize_carry(jax.random.key(0) if init_key is None else init_key, step_shape)
        initial_carry = _placed(_settled(self.cell, initial_carry, inputs), inputs, time_axis, len(batch))
        keep_carries = return_carry and seq_lengths is not None
        made: list[Any] = []
        run: Any = scan(
            _stepper(made, keep_carries=keep_carries),
            variable_axes=self.variable_axes,
            variable_broadcast=self.variable_broadcast,
            variable_carry=self.variable_carry,
            split_rngs=self.split_rngs,
            in_axes=time_axis,
            out_axes=(0, time_axis) if keep_carries else time_axis,
            unroll=unroll,
        )
        try:
            carry, outputs = run(self.cell, initial_carry, inputs)
        except TypeError as error:
            self._check_carry(initial_carry, made, error)
            raise
        if return_carry and seq_lengths is not None:
            carries, outputs = outputs
            carry = _carry_at_end(initial_carry, carries, seq_lengths)
        if reverse and keep_order:
            flip = functools.partial(
                flip_sequences, seq_lengths=seq_lengths, num_batch_dims=len(batch), time_major=time_major
            )
            outputs = jax.tree.map(flip, outputs)
        return (carry, outputs) if return_carry else outputs

    @nowrap
    def _check_carry(self, given: Any, made: list[Any], error: TypeError) -> None:
        """Raise ``CarryDtypeError`` if a step turned the carry into ``made[0]``, of another dtype."""
        if made and _differs_in_dtype(given, made[0]):
            kind = type(self.cell).__name__
            raise CarryDtypeError(path=self.path, cell=kind, given=_avals(given), made=_avals(made[0])) from error

    @nowrap
    def _axes(self, inputs: Array, *, time_major: bool) -> tuple[int, tuple[int, ...]]:
        """Return the time axis and the shape of the batch axes."""
        cell: Any = self.cell
        kind: type = type(cell)  # pyright: ignore[reportUnknownVariableType]
        if not hasattr(kind, "num_feature_axes") or not hasattr(kind, "initialize_carry"):
            raise NotACellError(path=self.path, given=kind.__name__)
        last = inputs.ndim - 1 - cell.num_feature_axes
        if last < 0:
            raise SequenceShapeError(
                path=self.path,
                inputs=inputs.shape,
                problem=f"{kind.__name__} takes {cell.num_feature_axes} feature axes, which leaves none for time",
                advice="Inputs are [batch..., time, features...], or [time, batch..., features...] with time_major.",
            )
        return (0, inputs.shape[1 : last + 1]) if time_major else (last, inputs.shape[:last])

    @nowrap
    def _lengths(self, inputs: Array, seq_lengths: ArrayLike, batch: tuple[int, ...]) -> Array:
        """Return one length for each sequence."""
        given = np.shape(seq_lengths)
        if len(given) > len(batch) or any(
            size not in {1, wanted} for size, wanted in zip(given[::-1], batch[::-1], strict=False)
        ):
            raise SequenceShapeError(
                path=self.path,
                inputs=inputs.shape,
                problem=f"seq_lengths has shape {given}, but the batch axes are {batch}",
                advice="Give one length for each sequence; set time_major if the first axis is time.",
            )
        lengths = jnp.asarray(seq_lengths)
        if not jnp.issubdtype(lengths.dtype, jnp.integer):
            raise SequenceShapeError(
                path=self.path,
                inputs=inputs.shape,
                problem=f"seq_lengths are of {lengths.dtype}, and no integers",
                advice="Give the number of real steps of each sequence: seq_lengths=mask.sum(axis=-1) for a mask.",
            )
        return jnp.broadcast_to(_signed(lengths), batch)


class Bidirectional(Module):
    """Two recurrent layers over one sequence, one in each direction, and their outputs merged step by step.

    Schuster and Paliwal, "Bidirectional Recurrent Neural Networks", IEEE Transactions on Signal Processing 45 (1997).

    Attributes:
      forward_rnn: runs from the start to the end.
      backward_rnn: runs from the end to the start.
      merge_fn: merges the outputs of both for each step; the default lays their last axes side by side.
      time_major: whether the time axis is the first; else it is the last before the features.
      return_carry: whether to return the last carries too.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from batiste import nn
      >>> layer = nn.Bidirectional(nn.RNN(nn.GRUCell(4)), nn.RNN(nn.GRUCell(4)))
      >>> x = jnp.ones((2, 5, 3))
      >>> y, variables = jax.eval_shape(layer.init_with_output, jax.random.key(0), x)
      >>> y.shape, sorted(variables["params"])
      ((2, 5, 8), ['backward_rnn', 'forward_rnn'])
    """

    forward_rnn: RNNBase
    backward_rnn: RNNBase
    merge_fn: Callable[[Array, Array], Array] = _side_by_side
    time_major: bool = False
    return_carry: bool = False

    def __call__(
        self,
        inputs: Array,
        *,
        initial_carry: Any | None = None,
        init_key: Key | None = None,
        seq_lengths: ArrayLike | None = None,
        return_carry: bool | None = None,
        time_major: bool | None = None,
        reverse: bool | None = None,
        keep_order: bool | None = None,
    ) -> Any:
        """Run both layers over ``inputs``; what is None is as the attribute of that name says.

        Args:
          inputs: ``[batch..., time, features...]``, or with the time first where ``time_major``.
          initial_carry: the pair of the carries of the forward and the backward layer; None asks their cells.
          init_key: the random key for that, split in two.
          seq_lengths: the number of real steps of each sequence, ``[batch...]``, at most ``time``.
          return_carry: whether to return the pair of last carries too.
          time_major: whether the time axis is the first.
          reverse: not used; it is here so that the signature is that of ``RNN``.
          keep_order: not used; the outputs of both layers are always in the order of the inputs.

        Returns:
          The merged outputs, or the pair of the two last carries and the merged outputs.
        """
        del reverse, keep_order
        return_carry = self.return_carry if return_carry is None else return_carry
        keys = (None, None) if init_key is None else jax.random.split(init_key)
        carries = (None, None) if initial_carry is None else initial_carry
        options: dict[str, Any] = {
            "seq_lengths": seq_lengths,
            "return_carry": True,
            "time_major": self.time_major if time_major is None else time_major,
        }
        forward_carry, forward = self.forward_rnn(
            inputs, initial_carry=carries[0], init_key=keys[0], reverse=False, **options
        )
        backward_carry, backward = self.backward_rnn(
            inputs, initial_carry=carries[1], init_key=keys[1], reverse=True, keep_order=True, **options
        )
        outputs = jax.tree.map(self.merge_fn, forward, backward)
        return ((forward_carry, backward_carry), outputs) if return_carry else outputs


def flip_sequences(inputs: Array, seq_lengths: ArrayLike | None, num_batch_dims: int, time_major: bool) -> Array:
    """Return every sequence from its end to its start, with its padding still at the end, flipped too.

    Args:
      inputs: ``[batch..., time, features...]``, or ``[time, batch..., features...]`` where ``time_major``.
      seq_lengths: the number of real steps of each sequence, ``[batch...]``; None where there is no padding.
      num_batch_dims: the number of batch axes.
      time_major: whether the time axis is the first.

    Returns:
      An array of the same shape.

    Raises:
      ArgumentError: ``num_batch_dims`` is no number of axes that leaves one for time, or the input is no array.

    Example:
      >>> import jax.numpy as jnp
      >>> from batiste import nn
      >>> x = jnp.array([[[1], [2], [3], [0]]])
      >>> flipped = nn.flip_sequences(x, [3], num_batch_dims=1, time_major=False)
      >>> flipped.ravel().tolist()
      [3, 2, 1, 0]
    """
    inputs = array(inputs, "inputs", "flip_sequences")
    num_batch_dims = whole_number(num_batch_dims, "num_batch_dims", "flip_sequences", high=max(inputs.ndim - 1, 0))
    time_axis = 0 if time_major else num_batch_dims
    if seq_lengths is None:
        return jnp.flip(inputs, axis=time_axis)
    # Counting down from the last real step reaches -1 where padding begins, and -1 is the end of the padding.
    steps = jnp.arange(inputs.shape[time_axis]).reshape([-1 if axis == time_axis else 1 for axis in range(inputs.ndim)])
    last = _signed(jnp.asarray(seq_lengths)) - 1
    last = jnp.expand_dims(last, (time_axis, *range(num_batch_dims + 1, inputs.ndim)))
    return jnp.take_along_axis(inputs, last - steps, axis=time_axis)


def _signed(lengths: Array) -> Array:
    """Return lengths in a dtype in which what comes before them is no wrapped-around number."""
    return lengths if lengths.dtype in (jnp.int32, jnp.int64) else lengths.astype(jnp.int32)


def _settled(cell: RNNCellBase, carry: Any, inputs: Array) -> Any:
    """Return a first carry in the dtypes that the steps of a cell of ``_cells.py`` leave it in."""
    states: list[Any] = jax.tree.leaves(carry)
    params: Any = cell.variables.get("params", {}) if cell.scope is not None else {}
    kept_in = jax.tree.leaves(params) or [
        dtype_name(getattr(cell, "param_dtype", jnp.float32), "param_dtype", type(cell).__name__)
    ]
    given = {jnp.result_type(part) for part in (inputs, *states, *kept_in)}
    wanted: Any = getattr(cell, "dtype", None)
    wanted = None if wanted is None else dtype_name(wanted, "dtype", type(cell).__name__)
    if not states or (len(given) == 1 and wanted in (None, *given)):
        return carry
    if isinstance(cell, SimpleCell) and not cell.residual and wanted is not None:
        settled = jnp.dtype(wanted)
    elif isinstance(cell, BUILT_IN_CELLS):
        settled = jnp.result_type(*given) if wanted is None else jnp.result_type(wanted, states[0])
    else:
        return carry
    return jax.tree.map(functools.partial(cast, dtype=settled), carry)


def _placed(carry: Any, inputs: Array, time_axis: int, batch: int) -> Any:
    """Return the carry, its batch axes lying as those of the inputs on a mesh with Explicit axes."""
    if not jax.sharding.get_abstract_mesh().explicit_axes:
        return carry
    entries = list(jax.typeof(inputs).sharding.spec)
    spec = jax.P(*(entries[:time_axis] + entries[time_axis + 1 :])[:batch])

    def one(leaf: Any) -> Any:
        return jax.sharding.reshard(leaf, spec) if jnp.ndim(leaf) >= batch else leaf

    return jax.tree.map(one, carry)


def _stepper(made: list[Any], *, keep_carries: bool) -> Callable[..., tuple[Any, Any]]:
    """Return the body of the loop, which leaves the shapes and dtypes of its carry in ``made``."""

    def step(cell: Any, carry: Any, inputs: Any) -> tuple[Any, Any]:
        carry, output = cell(carry, inputs)
        made[:] = [jax.tree.map(_outline, carry)]
        return carry, ((carry, output) if keep_carries else output)

    return step


def _outline(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(np.shape(leaf), jnp.result_type(leaf))


def _differs_in_dtype(carry: Any, made: Any) -> bool:
    if jax.tree.structure(carry) != jax.tree.structure(made):
        return False
    pairs = zip(jax.tree.leaves(carry), jax.tree.leaves(made), strict=True)
    return any(np.shape(old) == np.shape(new) and jnp.result_type(old) != jnp.result_type(new) for old, new in pairs)


def _avals(carry: Any) -> str:
    leaves: list[Any] = jax.tree.leaves(carry)
    return ", ".join(f"{jnp.result_type(leaf)}[{','.join(map(str, np.shape(leaf)))}]" for leaf in leaves)


def _carry_at_end(initial_carry: Any, carries: Any, seq_lengths: Array) -> Any:
    """Return for each sequence the carry after its last real step, from all carries, ``[time, batch..., ...]``."""

    def select(initial: Array, steps: Array) -> Array:
        trailing = range(seq_lengths.ndim, steps.ndim - 1)
        lengths = jnp.expand_dims(seq_lengths, tuple(trailing))
        last = jnp.take_along_axis(steps, lengths[None] - 1, axis=0, mode="clip")[0]
        return jnp.where(lengths > 0, last, initial)

    return jax.tree.map(select, initial_carry, carries)
