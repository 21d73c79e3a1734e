"""The layouts of recurrent layers: PyTorch keeps all gates of a layer one below the other, cells here each by its name.

``weight_ih`` and ``weight_hh`` hold the gates in the order i, f, g, o (LSTM) or r, z, n (GRU), ``[gates * features,
inputs]``. Each gate's kernel is ``[inputs, features]``, at ``ii``, ``if``, ... for the inputs and ``hi``, ``hf``, ...
for the hidden state.

PyTorch adds two biases, one of which is superfluous: here there is their sum. The way back gives the sum to one and
zeros to the other, which computes the same. The one exception is the gate n of a GRU, which needs both and has both.

An LSTM with ``proj_size`` has one more weight, ``weight_hr``, which makes its output and its hidden state smaller than
its memory. No cell here does so, and it is refused.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from batiste._arguments import whole_number
from batiste.importers._layouts import Layout, Misfit, Part, Shapes, matrix, refused

__all__ = ["Gru", "Lstm", "Rnn"]


def _check_layer(layout: Any) -> None:
    """Refuse a number of a layer that is none, and keep one of any kind as an ``int``."""
    if layout.layer is not None:
        object.__setattr__(layout, "layer", whole_number(layout.layer, "layer", type(layout).__name__))


@dataclasses.dataclass(frozen=True, slots=True)
class Lstm(Layout):
    """A layer of ``torch.nn.LSTM``, or an ``LSTMCell``, to ``nn.OptimizedLSTMCell`` or ``nn.LSTMCell``.

    Attributes:
      layer: which layer of an ``LSTM``; None for an ``LSTMCell``.
      reverse: whether it is the layer's backward direction.

    Example:
      >>> import numpy as np
      >>> from batiste import importers
      >>> names = {"weight_ih": (16, 3), "weight_hh": (16, 4)}
      >>> weights = {f"rnn.{name}_l0": np.ones(shape) for name, shape in names.items()}
      >>> rules = [("rnn", "params/cell", importers.Lstm(layer=0))]
      >>> found = importers.from_torch(weights, None, rules)["params"]["cell"]
      >>> sorted(found), found["ii"]["kernel"].shape
      (['hf', 'hg', 'hi', 'ho', 'if', 'ig', 'ii', 'io'], (3, 4))
    """

    layer: int | None = None
    reverse: bool = False

    def __post_init__(self) -> None:
        _check_layer(self)

    def parts(self) -> tuple[Part, ...]:
        """Return the kernels for the input, those for the hidden state, and the biases."""
        names = _names(self.layer, reverse=self.reverse)
        gates = "ifgo"

        def forward(arrays: Sequence[Any], _: Shapes) -> list[Any]:
            return _split(arrays[0] + arrays[1], 4)

        def backward(arrays: Sequence[Any]) -> list[Any]:
            whole = np.concatenate(arrays)
            return [whole, np.zeros_like(whole)]

        biases = Part(names[2:], tuple(f"h{gate}/bias" for gate in gates), forward, backward)
        projection = refused(
            (names[1].replace("weight_hh", "weight_hr"),),
            "an LSTM whose outputs are projected (`proj_size`) has no counterpart among the cells of batiste.nn",
        )
        return (projection, *_kernels(names, gates), biases)


@dataclasses.dataclass(frozen=True, slots=True)
class Gru(Layout):
    """A layer of ``torch.nn.GRU``, or a ``GRUCell``, to ``nn.GRUCell``.

    Attributes:
      layer: which layer of a ``GRU``; None for a ``GRUCell``.
      reverse: whether it is the layer's backward direction.

    Example:
      >>> import numpy as np
      >>> from batiste import importers
      >>> names = {"weight_ih": (12, 3), "weight_hh": (12, 4)}
      >>> weights = {f"rnn.{name}_l0": np.ones(shape) for name, shape in names.items()}
      >>> rules = [("rnn", "params/cell", importers.Gru(layer=0))]
      >>> sorted(importers.from_torch(weights, None, rules)["params"]["cell"])
      ['hn', 'hr', 'hz', 'in', 'ir', 'iz']
    """

    layer: int | None = None
    reverse: bool = False

    def __post_init__(self) -> None:
        _check_layer(self)

    def parts(self) -> tuple[Part, ...]:
        """Return the kernels for the input, those for the hidden state, and the biases."""
        names = _names(self.layer, reverse=self.reverse)

        def forward(arrays: Sequence[Any], _: Shapes) -> list[Any]:
            (reset, update, new), (reset_h, update_h, new_h) = (_split(array, 3) for array in arrays)
            return [reset + reset_h, update + update_h, new, new_h]

        def backward(arrays: Sequence[Any]) -> list[Any]:
            reset, update, new, new_h = arrays
            inputs = np.concatenate([reset, update, new])
            return [inputs, np.concatenate([np.zeros_like(reset), np.zeros_like(update), new_h])]

        leaves = ("ir/bias", "iz/bias", "in/bias", "hn/bias")
        return (*_kernels(names, "rzn"), Part(names[2:], leaves, forward, backward))


@dataclasses.dataclass(frozen=True, slots=True)
class Rnn(Layout):
    """A layer of ``torch.nn.RNN``, or an ``RNNCell``, to ``nn.SimpleCell``.

    Attributes:
      layer: which layer of an ``RNN``; None for an ``RNNCell``.
      reverse: whether it is the layer's backward direction.

    Example:
      >>> import numpy as np
      >>> from batiste import importers
      >>> names = {"weight_ih": (4, 3), "weight_hh": (4, 4)}
      >>> weights = {f"rnn.{name}_l0": np.ones(shape) for name, shape in names.items()}
      >>> rules = [("rnn", "params/cell", importers.Rnn(layer=0))]
      >>> sorted(importers.from_torch(weights, None, rules)["params"]["cell"])
      ['h', 'i']
    """

    layer: int | None = None
    reverse: bool = False

    def __post_init__(self) -> None:
        _check_layer(self)

    def parts(self) -> tuple[Part, ...]:
        """Return the kernel for the input, that for the hidden state, and the bias."""
        names = _names(self.layer, reverse=self.reverse)
        return (
            *_kernels(names, ("",)),
            Part(
                names[2:],
                ("i/bias",),
                lambda arrays, _: [arrays[0] + arrays[1]],
                lambda arrays: [arrays[0], np.zeros_like(arrays[0])],
            ),
        )


def _names(layer: int | None, *, reverse: bool) -> tuple[str, ...]:
    end = "" if layer is None else f"_l{layer}{'_reverse' if reverse else ''}"
    return tuple(f"{name}{end}" for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))


def _kernels(names: tuple[str, ...], gates: Sequence[str]) -> tuple[Part, Part]:
    def part(name: str, side: str) -> Part:
        return Part((name,), tuple(f"{side}{gate}/kernel" for gate in gates), _apart(len(gates)), _together)

    return part(names[0], "i"), part(names[1], "h")


def _apart(count: int) -> Callable[[Sequence[Any], Shapes], list[Any]]:
    def forward(arrays: Sequence[Any], _: Shapes) -> list[Any]:
        return [matrix(gate, transposed=False) for gate in _split(arrays[0], count)]

    return forward


def _together(arrays: Sequence[Any]) -> list[Any]:
    return [np.concatenate([matrix(array, transposed=False) for array in arrays])]


def _split(array: Any, count: int) -> list[Any]:
    size = array.shape[0] // count
    if size * count != array.shape[0]:
        reason = f"{array.shape[0]} rows are not {count} gates of one size"
        raise Misfit(reason)
    return [array[index * size : (index + 1) * size] for index in range(count)]
