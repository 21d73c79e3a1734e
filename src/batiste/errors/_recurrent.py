"""Errors of recurrent layers: cells that are no cells, carries and lengths that do not fit."""

from __future__ import annotations

from batiste.errors._base import BatisteError
from batiste.errors._nn import LayerError

__all__ = ["CarryShapeError", "CellMethodError", "NotACellError", "SequenceShapeError"]


class CellMethodError(BatisteError, NotImplementedError):
    """A recurrent cell lacks a method that every cell has."""

    code = "recurrent/cell-method"
    message = "{cell} does not say its {method}, which every RNNCellBase has."
    hint = "Write it in the class: {advice}"


class NotACellError(LayerError, TypeError, AttributeError):
    """``RNN`` is given something else than a recurrent cell."""

    code = "recurrent/not-a-cell"
    message = "{path} is to run over a sequence with cell={given}, which is no recurrent cell."
    hint = "Give an RNNCellBase, for example nn.RNN(nn.LSTMCell(64))."


class CarryShapeError(LayerError):
    """The carry given to a cell is not one that the cell works on."""

    code = "recurrent/carry-shape"
    message = "{path} is given a carry of {given}; it works on {expected}."
    hint = (
        "Call it as cell(carry, inputs), the carry first. Start with carry = cell.initialize_carry(key, inputs.shape)."
    )


class SequenceShapeError(LayerError, IndexError):
    """A sequence, or its lengths, have a shape that the recurrent layer cannot run over."""

    code = "recurrent/sequence-shape"
    message = "{path} cannot run over inputs of shape {inputs}: {problem}."
    hint = "{advice}"
