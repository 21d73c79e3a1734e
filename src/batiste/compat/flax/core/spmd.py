"""Rules from logical names of axes to mesh axes: ``flax.core.spmd``.

What places NNX's variables is not here.
"""

from __future__ import annotations

from batiste.shard import LogicalRules, get_logical_axis_rules, logical_axis_rules, set_logical_axis_rules

__all__ = ["LogicalRules", "get_logical_axis_rules", "logical_axis_rules", "set_logical_axis_rules"]


class _AxisRules:
    """The rules that hold now, as an attribute. Not documented in Flax, but used by libraries.

    Attributes:
      rules: the rules; assigning them is ``set_logical_axis_rules``.
    """

    @property
    def rules(self) -> LogicalRules:
        return get_logical_axis_rules()

    @rules.setter
    def rules(self, rules: LogicalRules) -> None:
        set_logical_axis_rules(rules)


_axis_rules = _AxisRules()
