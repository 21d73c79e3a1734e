"""Errors of recurrent layers: cells that are no cells, carries and lengths that do not fit."""

from __future__ import annotations

from batiste.errors._base import BatisteError
from batiste.errors._nn import LayerError

__all__ = ["CarryDtypeError", "CarryShapeError", "CellMethodError", "NotACellError", "SequenceShapeError"]


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


class CarryShapeError(LayerError, TypeError):
    """The carry given to a cell is not one that the cell works on."""

    code = "recurrent/carry-shape"
    message = "{path} is given a carry of {given}; it works on {expected}."
    hint = (
        "Call it as cell(carry, inputs), the carry first. Start with carry = cell.initialize_carry(key, inputs.shape)."
    )


class CarryDtypeError(LayerError, TypeError):
    """The carry of a cell comes out of a step in another dtype, so that the next step cannot take it."""

    code = "recurrent/carry-dtype"
    message = "{path} runs {cell} over a sequence with a carry of {given}, which comes out of a step as {made}."
    hint = (
        "Start with what a step leaves: set param_dtype, in which the first carry is made, or dtype of the cell, or "
        "give initial_carry in the dtypes that come out."
    )


class SequenceShapeError(LayerError, IndexError):
    """A sequence, or its lengths, have a shape that the recurrent layer cannot run over."""

    code = "recurrent/sequence-shape"
    message = "{path} cannot run over inputs of shape {inputs}: {problem}."
    hint = "{advice}"
