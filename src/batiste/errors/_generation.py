"""Errors of generation: a model that keeps no cache, prompts that are none, logits that are not numbers."""

from __future__ import annotations

from batiste.errors._base import BatisteError

__all__ = ["GenerationModelError", "GenerationPromptError", "GenerationResultError"]


class GenerationModelError(BatisteError, TypeError):
    """A model cannot continue a sequence; also a ``TypeError``."""

    code = "generation/model"
    message = "generate() cannot use this model: {problem}."
    hint = "{cure}"


class GenerationPromptError(BatisteError, ValueError):
    """Prompts, or their lengths, are not what can be continued; also a ``ValueError``."""

    code = "generation/prompt"
    message = "generate() cannot continue this: {problem}."
    hint = "{cure}"


class GenerationResultError(BatisteError, ArithmeticError):
    """The model's logits were NaN; also an ``ArithmeticError``."""

    code = "generation/not-a-number"
    message = "generate() met logits that are NaN."
    hint = (
        "A cache that is too short gives NaN: it needs room for {total} tokens, prompt and continuation together "
        "(max_length). Otherwise the parameters have NaN."
    )
