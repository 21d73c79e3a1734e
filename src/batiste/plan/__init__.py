"""Plans: what a model needs and takes on which devices, before any array exists.

``plan`` gives for a training step the bytes on each device, the FLOPs of each module, what devices send each other, and
how long that takes at best on a chip; ``search`` ranks meshes and rules; ``costs`` is the count behind it, for any
traced program.
"""

from batiste.plan._chips import CHIPS, Chip, chip
from batiste.plan._compile import Compiled
from batiste.plan._costs import Cost, Costs, costs
from batiste.plan._html import as_html
from batiste.plan._lints import Lint
from batiste.plan._names import Pass
from batiste.plan._placement import Collective
from batiste.plan._plan import Memory, Plan, plan
from batiste.plan._render import as_json, as_text, ranking
from batiste.plan._search import search, smallest_mesh

__all__ = [
    "CHIPS",
    "Chip",
    "Collective",
    "Compiled",
    "Cost",
    "Costs",
    "Lint",
    "Memory",
    "Pass",
    "Plan",
    "as_html",
    "as_json",
    "as_text",
    "chip",
    "costs",
    "plan",
    "ranking",
    "search",
    "smallest_mesh",
]
