"""Optimisers by the paths of parameters: which are frozen, which learn at a rate of their own, which decay.

Each function here is one line over ``batiste.tree`` and Optax. A group that is frozen gets ``optax.set_to_zero``, whose
state is empty; a pattern that matches nothing is an error, which names the nearest path.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

import jax

from batiste._arguments import mapping, refused
from batiste.tree import PatternLike, compile_pattern, label

if TYPE_CHECKING:
    import optax  # pyright: ignore[reportMissingTypeStubs]

__all__ = ["by_pattern", "freeze", "matching"]


def by_pattern(rules: Mapping[PatternLike, Any]) -> optax.GradientTransformationExtraArgs:
    """Return an optimiser that updates each parameter by the first rule whose pattern matches its path.

    ``by_pattern({"head/**": optax.adamw(1e-3), "encoder/**": optax.sgd(1e-4), "**": None})``: None freezes.

    Args:
      rules: pattern to optimiser, in order of precedence; None in its place leaves parameters as they are, and keeps no
        state for them. Every parameter must be matched: ``"**"`` takes the rest.

    Raises:
      ArgumentError: it is no mapping, or holds what is no optimiser.
      PatternSyntaxError: a pattern is not well formed.
      UnmatchedPathsError: when the state is made, no pattern matches a parameter.
      UnmatchedPatternError: when the state is made, a pattern matches no parameter.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from batiste import train
      >>> tx = train.by_pattern({"head/**": optax.sgd(1.0), "**": None})
      >>> params = {"head": {"w": jnp.ones(2)}, "body": {"w": jnp.ones(2)}}
      >>> updates, _ = tx.update(params, tx.init(params), params)
      >>> jax.tree.map(lambda update: update.tolist(), updates)
      {'body': {'w': [0.0, 0.0]}, 'head': {'w': [-1.0, -1.0]}}
    """
    import optax  # pyright: ignore[reportMissingTypeStubs]

    mapping(rules, "rules", "by_pattern", what="a mapping from patterns to optimisers")
    transforms: dict[str, Any] = {}
    labels: dict[PatternLike, str] = {}
    for pattern, tx in rules.items():
        name = str(compile_pattern(pattern))
        if tx is not None and not (callable(getattr(tx, "init", None)) and callable(getattr(tx, "update", None))):
            advice = "Give an Optax transformation, called with its settings, or None to freeze."
            raise refused(rules, "rules", "by_pattern", "optimisers by pattern", advice, part=tx)
        labels[pattern] = name
        transforms[name] = cast("Any", optax).set_to_zero() if tx is None else tx
    if not transforms:
        raise refused(rules, "rules", "by_pattern", "a mapping that is not empty")

    def labelled(params: Any) -> Any:
        return label(params, labels)

    return cast("Any", optax).partition(transforms, labelled)


def freeze(tx: optax.GradientTransformation, *patterns: PatternLike) -> optax.GradientTransformationExtraArgs:
    """Return an optimiser that leaves parameters alone whose path matches, and keeps no state for them.

    Args:
      tx: the optimiser of all others.
      *patterns: which parameters are frozen: ``freeze(optax.adam(1e-3), "encoder/**")``.

    Raises:
      ArgumentError: ``tx`` is no optimiser, or there is no pattern.
      PatternSyntaxError: a pattern is not well formed.
      UnmatchedPatternError: when the state is made, a pattern matches no parameter.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from batiste import train
      >>> tx = train.freeze(optax.sgd(1.0), "body/**")
      >>> params = {"head": {"w": jnp.ones(2)}, "body": {"w": jnp.ones(2)}}
      >>> updates, _ = tx.update(params, tx.init(params), params)
      >>> jax.tree.map(lambda update: update.tolist(), updates)
      {'body': {'w': [0.0, 0.0]}, 'head': {'w': [-1.0, -1.0]}}
    """
    if not patterns:
        raise refused((), "patterns", "freeze", "at least one pattern", 'Write freeze(tx, "encoder/**").')
    rules: dict[PatternLike, Any] = dict.fromkeys(patterns)
    return by_pattern({**rules, "**": tx})


def matching(*patterns: PatternLike) -> Callable[[Any], Any]:
    """Return a mask for Optax: a function from parameters to a tree that is true where a path matches.

    ``optax.adamw(1e-3, mask=matching("**/kernel"))`` lets kernels decay, and nothing else.

    Args:
      *patterns: which parameters are meant.

    Raises:
      ArgumentError: there is no pattern.
      PatternSyntaxError: a pattern is not well formed.
      UnmatchedPatternError: when the mask is asked for, a pattern matches no parameter.

    Example:
      >>> from batiste import train
      >>> train.matching("**/kernel")({"up": {"kernel": 1.0, "bias": 2.0}})
      {'up': {'bias': False, 'kernel': True}}
    """
    if not patterns:
        raise refused((), "patterns", "matching", "at least one pattern", 'Write matching("**/kernel").')
    for pattern in patterns:
        compile_pattern(pattern)
    labels: dict[PatternLike, str] = dict.fromkeys(patterns, "yes")

    def mask(params: Any) -> Any:
        return cast("Any", jax.tree).map(_is_yes, label(params, labels, default="no"))

    return mask


def _is_yes(word: str) -> bool:
    return word == "yes"
