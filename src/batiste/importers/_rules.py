"""What a mapping is: rules in order, each from names of PyTorch to paths here by a layout.

``Rule("encoder.layer.*.attention.self.{query,key,value}", "params/h_{1}/attn/{2}", AttentionIn())`` says that each of
these layers becomes the one at that path. The pattern names a layer and the layout knows its tensors; with
``Identity``, ``Transpose`` and ``Reshape`` pattern and path name a tensor and a leaf themselves. The first rule that
takes a tensor has it. A rule without a path drops tensors by name.

Rules are plain values: they compare, print and are written as JSON (``_mapping_file.py``). How patterns are written is
in ``_names.py``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, TypeAlias, cast

from batiste._arguments import refused, text
from batiste.errors import MappingRuleError
from batiste.importers._layouts import Identity, Layout
from batiste.importers._names import NamePattern, Template, compile_name, compile_template

__all__ = ["Compiled", "Rule", "RuleLike", "WeightMapping", "compile_mapping", "compile_patterns"]


@dataclasses.dataclass(frozen=True, slots=True)
class Rule:
    """One rule of a mapping.

    Attributes:
      source: a pattern over the names of layers, or of tensors where the layout has one tensor or there is no path.
      target: the path of the layer, or of the leaf; ``{1}`` is what the first wildcard matched. None drops tensors.
      layout: how tensors become leaves.
      optional: whether the rule may apply to nothing.
      tied: whether its tensors are used by other rules too: one array of PyTorch, several leaves here.
      same_as: for a rule without a path, the name of the tensor that the dropped one is another name of; that both have
        the same values is checked.

    Example:
      >>> import numpy as np
      >>> from batiste import importers
      >>> rule = importers.Rule("h.*.fc", "params/h_{1}/fc", importers.Linear())
      >>> weights = {f"h.{layer}.fc.weight": np.ones((4, 3)) for layer in range(2)}
      >>> sorted(importers.from_torch(weights, None, [rule])["params"])
      ['h_0', 'h_1']
    """

    source: str
    target: str | None
    layout: Layout = Identity()  # noqa: RUF009 - a frozen value
    optional: bool = False
    tied: bool = False
    same_as: str | None = None

    def __post_init__(self) -> None:
        text(self.source, "source", "Rule", what="a pattern over names", empty=True)
        for name in ("target", "same_as"):
            if getattr(self, name) is not None:
                text(getattr(self, name), name, "Rule", what="a path or None", empty=True)
        layout: Any = self.layout
        if not isinstance(layout, Layout):
            advice = f"Make one: {layout.__name__}()." if isinstance(layout, type) else ""
            raise refused(layout, "layout", "Rule", "a layout, such as Linear()", advice)


RuleLike: TypeAlias = Rule | tuple[str, str] | tuple[str, None] | tuple[str, str, Layout]
"""A rule, or its first two or three attributes as a tuple."""

WeightMapping: TypeAlias = Sequence[RuleLike]
"""Rules in order: the first that takes a tensor has it."""


@dataclasses.dataclass(frozen=True, slots=True)
class Compiled:
    """A rule whose pattern and templates have been read."""

    rule: Rule
    pattern: NamePattern
    target: Template | None
    same_as: Template | None

    def check_backwards(self) -> None:
        """Refuse a rule that does not lead back, because its path does not say what a wildcard matched.

        Raises:
          MappingRuleError: if there is such a wildcard.
        """
        for end in (self.target, self.same_as):
            lost = sorted(set(range(1, len(self.pattern.inner) + 1)) - end.numbers) if end is not None else []
            if lost:
                fields = " and ".join(f"{{{number}}}" for number in lost)
                reason = f"{end.source!r} does not hold {fields}, so that nothing leads back" if end else ""
                cure = "Use every wildcard of the pattern in the path, or write one rule for each case."
                raise MappingRuleError(rule=_text(self.rule), reason=reason, cure=cure)


def compile_mapping(mapping: WeightMapping) -> tuple[Compiled, ...]:
    """Return the rules with their patterns read.

    Raises:
      MappingRuleError: if a rule cannot be read.
    """
    rules: Any = mapping
    if not isinstance(rules, Sequence) or isinstance(rules, str | bytes):
        raise refused(rules, "mapping", "importers", "a list of rules")
    return tuple(map(_compile, map(_as_rule, cast("Sequence[Any]", rules))))


def _as_rule(entry: Any) -> Rule:
    if isinstance(entry, Rule):
        return entry
    parts = cast("Sequence[Any]", entry) if isinstance(entry, tuple | list) else ()
    if not 2 <= len(parts) <= 3:
        raise refused(
            entry, "mapping", "importers", "rules, each a Rule or (source, target) or (source, target, layout)"
        )
    return Rule(*parts)


def compile_patterns(patterns: str | Sequence[str]) -> tuple[NamePattern, ...]:
    """Return patterns over names, read.

    Raises:
      MappingRuleError: if one cannot be read.
    """
    several: Any = (patterns,) if isinstance(patterns, str) else patterns
    if not isinstance(several, list | tuple) or not all(isinstance(one, str) for one in cast("Sequence[Any]", several)):
        raise refused(patterns, "ignore", "importers", "patterns over names")
    return tuple(_pattern(pattern, repr(pattern)) for pattern in cast("Sequence[str]", several))


def _compile(rule: Rule) -> Compiled:
    words = _text(rule)
    pattern = _pattern(rule.source, words)
    if rule.same_as is not None and rule.target is not None:
        reason, cure = "it has both a path and `same_as`", "Leave the path out: the tensor it is the same as has one."
        raise MappingRuleError(rule=words, reason=reason, cure=cure)
    return Compiled(rule, pattern, _template(rule.target, pattern, words), _template(rule.same_as, pattern, words))


def _pattern(source: str, rule: str) -> NamePattern:
    pattern = compile_name(source)
    if isinstance(pattern, str):
        cure = "A pattern knows `*` within a level, `**` for one level or more, and `{a,b}`."
        raise MappingRuleError(rule=rule, reason=pattern, cure=cure)
    return pattern


def _template(source: str | None, pattern: NamePattern, rule: str) -> Template | None:
    if source is None:
        return None
    template = compile_template(source.strip("/"))
    reason = template if isinstance(template, str) else ""
    if isinstance(template, Template):
        unknown = sorted(template.numbers - set(range(1, len(pattern.inner) + 1)))
        reason = f"there is no wildcard {unknown[0]} in {pattern.source!r}" if unknown else ""
        if not reason:
            return template
    cure = "`{1}` is what the first wildcard of the pattern matched."
    raise MappingRuleError(rule=rule, reason=reason, cure=cure)


def _text(rule: Rule) -> str:
    return f"{rule.source!r} -> {rule.target!r}"
