"""What chips can do at best: arithmetic, memory, and the links between them, each as its maker says.

FLOPs are those of dense matrix products in bfloat16, links are what one chip can send, in all directions together.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType

from batiste._arguments import choice, number

__all__ = ["CHIPS", "Chip", "chip"]


@dataclasses.dataclass(frozen=True)
class Chip:
    """The figures of a chip.

    Attributes:
      name: what it is called.
      flops: of products in bfloat16, a second.
      memory: bytes.
      bandwidth: of the memory, bytes a second.
      links: what it can send to chips nearby, bytes a second.
      source: where the figures stand.

    Example:
      >>> from batiste.plan import CHIPS
      >>> CHIPS["h100"].memory, CHIPS["h100"].flops > 9e14
      (80000000000.0, True)
    """

    name: str
    flops: float
    memory: float
    bandwidth: float
    links: float
    source: str


CHIPS: Mapping[str, Chip] = MappingProxyType(
    {
        each.name: each
        for each in (
            Chip("a100", 312e12, 80e9, 2.039e12, 300e9, "NVIDIA A100 80GB datasheet: SXM; NVLink 600 GB/s both ways"),
            Chip("h100", 989e12, 80e9, 3.35e12, 450e9, "NVIDIA H100 datasheet: SXM; NVLink 900 GB/s both ways"),
            Chip("h200", 989e12, 141e9, 4.8e12, 450e9, "NVIDIA H200 datasheet: SXM; NVLink 900 GB/s both ways"),
            Chip(
                "b200", 2250e12, 180e9, 8.0e12, 900e9, "NVIDIA DGX B200 datasheet, an eighth; NVLink 1.8 TB/s both ways"
            ),
            Chip("v5e", 197e12, 16e9, 0.800e12, 200e9, "cloud.google.com/tpu/docs/v6e, its column for v5e"),
            Chip("v5p", 459e12, 95e9, 2.765e12, 600e9, "cloud.google.com/tpu/docs/v5p: interchip 4800 Gbit/s"),
            Chip("v6e", 918e12, 32e9, 1.600e12, 400e9, "cloud.google.com/tpu/docs/v6e: interchip 3200 Gbit/s"),
        )
    }
)
"""The chips by name."""


def chip(name: str, *, memory: float | None = None) -> Chip:
    """Return a chip by its name.

    Args:
      name: such as ``"h100"``; a name with ``tpu-`` before it and capitals will do.
      memory: its bytes, where they are others.

    Raises:
      ArgumentError: there is no such chip.

    Example:
      >>> from batiste.plan import chip
      >>> chip("TPU-v5e").name, chip("h100", memory=40e9).memory
      ('v5e', 40000000000.0)
    """
    found: Chip = CHIPS[choice(str(name).lower().removeprefix("tpu-"), "chip", "plan", tuple(CHIPS))]
    return found if memory is None else dataclasses.replace(found, memory=number(memory, "memory", "plan", above=0))
