"""Rules from logical names of axes to mesh axes: ``flax.core.spmd``.

What places NNX's variables is not here.
"""

from __future__ import annotations

from batiste.compat.flax._rules import AXIS_RULES, AxisRules
from batiste.shard import LogicalRules, get_logical_axis_rules, logical_axis_rules, set_logical_axis_rules

__all__ = ["LogicalRules", "get_logical_axis_rules", "logical_axis_rules", "set_logical_axis_rules"]

_AxisRules, _axis_rules = AxisRules, AXIS_RULES  # libraries use these
