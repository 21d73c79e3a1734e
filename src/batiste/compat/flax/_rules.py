"""The object through which libraries read and set the rules of axes: Flax does not document it."""

from __future__ import annotations

from typing import Final

from batiste.shard import LogicalRules, get_logical_axis_rules, set_logical_axis_rules

__all__ = ["AXIS_RULES", "AxisRules"]


class AxisRules:
    """The rules that hold now, as an attribute.

    Attributes:
      rules: the rules; assigning them is ``set_logical_axis_rules``.
    """

    @property
    def rules(self) -> LogicalRules:
        return get_logical_axis_rules()

    @rules.setter
    def rules(self, rules: LogicalRules) -> None:
        set_logical_axis_rules(rules)


AXIS_RULES: Final = AxisRules()
