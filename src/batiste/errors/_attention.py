"""Errors of attention: shapes that do not fit, heads that do not divide, inputs and caches that contradict."""

from __future__ import annotations

from batiste.errors._base import BatisteError, BatisteWarning
from batiste.errors._nn import LayerError

__all__ = [
    "AttentionEinsumError",
    "AttentionFunctionError",
    "AttentionHeadsError",
    "AttentionInputsError",
    "AttentionMaskError",
    "AttentionShapeError",
    "CacheLengthError",
    "CacheMaskError",
    "CacheShapeError",
    "CacheSizeError",
    "LinenDeprecationWarning",
    "MaskRankError",
    "RotaryShapeError",
    "WindowError",
]


class AttentionShapeError(LayerError, AssertionError):
    """Query, key and value have shapes that cannot attend to one another."""

    code = "attention/shape"
    message = "{path} cannot attend: {problem}. Given: {shapes}."
    hint = (
        "query is [batch..., queries, heads, depth], key [batch..., keys, heads, depth] and value "
        "[batch..., keys, heads, value depth]: only queries, keys and value depth may differ."
    )


class AttentionEinsumError(LayerError):
    """The einsum functions of attention are given by halves, or together with what they replace."""

    code = "attention/einsum"
    message = "{path}: {problem}."
    hint = "{advice}"


class AttentionFunctionError(LayerError, TypeError):
    """An ``attention_fn`` cannot do what its layer is asked for."""

    code = "attention/function"
    message = "{path} is called with {option}, but its attention_fn {function} takes no argument {argument!r}."
    hint = "Give the function an argument {argument!r}, or leave {option} out."


class AttentionHeadsError(LayerError, AssertionError):
    """What is to be shared out over the heads cannot be shared out evenly."""

    code = "attention/heads"
    message = "{path} cannot share out {what}={size} over {by}={parts} evenly."
    hint = "{advice}"


class AttentionInputsError(LayerError):
    """Keys and values are given twice, or values without keys."""

    code = "attention/inputs"
    message = "{path}: {problem}."
    hint = "layer(q) attends to itself, layer(q, kv) to one other input, layer(q, k, v) to keys and values apart."


class AttentionMaskError(LayerError, ValueError):
    """A mask or a bias has more entries than there are attention weights, or does not broadcast to them."""

    code = "attention/mask"
    message = "{path} is given a {what} of shape {given}, which does not broadcast to the weights, {expected}."
    hint = "The axes are [batch..., heads, queries, keys]; an axis of size 1 stands for all.{advice}"


class CacheShapeError(LayerError):
    """A decoding step does not fit the cache that was made for it."""

    code = "attention/cache-shape"
    message = "{path} decodes with a cache of shape {cache}, but {problem}."
    hint = "{advice}"


class CacheLengthError(LayerError, ValueError):
    """More tokens are given, in one call or in all of them together, than the decoding cache has room for."""

    code = "attention/cache-length"
    message = "{path} is given {length} tokens {when}, but its cache has room for {slots}."
    hint = "{advice}"


class CacheSizeError(LayerError):
    """A layer decodes, and nothing says how many tokens its cache is for."""

    code = "attention/cache-size"
    message = "{path} has decode=True with max_length=None and window=None, so the size of its cache is unknown."
    hint = "Set max_length to the number of tokens of the longest sequence, prompt and continuation together."


class CacheMaskError(LayerError):
    """A mask is given to a layer that decodes with a cache and masks by positions."""

    code = "attention/cache-mask"
    message = "{path} is given a mask while decode=True, where the keys are the slots of a cache, not the inputs."
    hint = "Say which tokens are padding with positions: a token at position -1 is seen by nobody."


class MaskRankError(BatisteError, ValueError, AssertionError):
    """Masks that are to be combined have different numbers of axes."""

    code = "attention/mask-rank"
    message = "combine_masks is given masks with different numbers of axes: {shapes}."
    hint = "Give every mask the axes [batch..., heads, queries, keys]; an axis of size 1 stands for all."


class RotaryShapeError(BatisteError, ValueError):
    """Rotary position embedding is asked to turn an odd number of features, or at positions that do not fit."""

    code = "attention/rotary-shape"
    message = "Rotary embedding cannot turn an array of shape {shape}: {problem}."
    hint = "x is [batch..., length, heads, depth] with an even depth, and positions are [length] or [batch..., length]."


class WindowError(LayerError):
    """A sliding window that no token is in, or that is asked for where attention looks both ways."""

    code = "attention/window"
    message = "{path} has window={window} with causal={causal}."
    hint = "A window is a number of tokens, at least 1, that a token sees up to and with itself: it needs causal=True."


class LinenDeprecationWarning(BatisteWarning, DeprecationWarning):
    """A name or an argument is used that Flax Linen has deprecated; it works as it does there."""
