"""Plans: what a model costs on which devices, before any array exists."""

from batiste.plan._costs import Cost, Costs, costs
from batiste.plan._names import Pass

__all__ = ["Cost", "Costs", "Pass", "costs"]
