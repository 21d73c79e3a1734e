"""Why each leaf lies where it lies: the rule that decided, the spec, and the bytes on each device.

It is worked out from shapes, so a tree that does not exist yet (``jax.eval_shape``), on a mesh without devices, is
explained alike.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax.numpy as jnp
from jax.sharding import PartitionSpec

from batiste._arguments import choice
from batiste.core import unbox
from batiste.shard._decide import Decision, Unmatched, shape_of
from batiste.shard._mesh import AnyMesh, axes_of, check_mesh
from batiste.shard._specs import PathRules, decided_specs

__all__ = ["Explanation", "LeafPlacement", "explain"]


@dataclasses.dataclass(frozen=True)
class LeafPlacement:
    """Where one leaf lies, and why.

    Attributes:
      path: its path.
      shape: its shape.
      dtype: the name of its dtype.
      spec: how it is cut.
      why: the pattern that decided; ``"as params/..."`` for what lies as a parameter does, ``"default"`` or ``"box"``.
      parts: into how many parts it is cut.
      bytes: the bytes of the whole.
      device_bytes: the bytes on each device.

    Example:
      >>> import jax
      >>> import numpy as np
      >>> from batiste import shard
      >>> sizes = jax.sharding.AbstractMesh((4,), ("model",))
      >>> params = {"w": np.ones((8, 4), np.float32)}
      >>> found = shard.explain(params, {"w": jax.P("model")}, sizes)
      >>> found.leaves[0].parts, found.leaves[0].bytes, found.leaves[0].device_bytes
      (4, 128, 32)
    """

    path: str
    shape: tuple[int, ...]
    dtype: str
    spec: PartitionSpec
    why: str
    parts: int
    bytes: int
    device_bytes: int


@dataclasses.dataclass(frozen=True)
class Explanation:
    """Where every leaf of a tree lies, and why.

    Attributes:
      leaves: one for each array, in the order of the tree.
      mesh: the size of each mesh axis.

    Example:
      >>> import jax
      >>> import numpy as np
      >>> from batiste import shard
      >>> sizes = jax.sharding.AbstractMesh((4,), ("model",))
      >>> params = {"w": np.ones((8, 4), np.float32)}
      >>> found = shard.explain(params, {"w": jax.P("model")}, sizes)
      >>> found.mesh, found.bytes, found.device_bytes
      ({'model': 4}, 128, 32)
    """

    leaves: tuple[LeafPlacement, ...]
    mesh: dict[str, int]

    @property
    def bytes(self) -> int:
        """The bytes of all leaves, whole."""
        return sum(leaf.bytes for leaf in self.leaves)

    @property
    def device_bytes(self) -> int:
        """The bytes of all leaves on each device."""
        return sum(leaf.device_bytes for leaf in self.leaves)

    def __getitem__(self, path: str) -> LeafPlacement:
        return next(leaf for leaf in self.leaves if leaf.path == path)

    def __str__(self) -> str:
        head = ("path", "shape", "dtype", "spec", "bytes per device", "decided by")
        rows = [
            (leaf.path, str(leaf.shape), leaf.dtype, str(leaf.spec), f"{leaf.device_bytes:,}", leaf.why)
            for leaf in self.leaves
        ]
        foot = ("total", "", "", "", f"{self.device_bytes:,}", f"{self.bytes:,} in all")
        widths = [max(map(len, column)) for column in zip(head, *rows, foot, strict=True)]

        def line(cells: tuple[str, ...]) -> str:
            padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=True)]
            padded[4] = cells[4].rjust(widths[4])
            return "  ".join(padded).rstrip()

        rule = "  ".join("-" * width for width in widths)
        return "\n".join([line(head), rule, *map(line, rows), rule, line(foot)])


def explain(
    tree: Any,
    rules: PathRules | None,
    mesh: AnyMesh,
    *,
    default: PartitionSpec | None = None,
    unmatched: Unmatched = "error",
) -> Explanation:
    """Return for each leaf the rule that decides, its spec, and its bytes on each device.

    Args:
      tree: any pytree of arrays or of shapes; a whole state has its optimiser explained as well.
      rules: as for ``batiste.shard.specs``.
      mesh: the mesh; one without devices is enough.
      default: the spec of a leaf that no rule matches.
      unmatched: whether a rule that no leaf has a use for is an error.

    Raises:
      ArgumentError: ``mesh`` is no mesh, or ``default`` no spec.
      ShardError: what ``batiste.shard.specs`` raises; an axis that is not cut into equal parts is shown as not cut.
      TreeError: likewise.

    Example:
      >>> import jax
      >>> import numpy as np
      >>> from batiste import shard
      >>> sizes = jax.sharding.AbstractMesh((4,), ("model",))
      >>> params = {"up": {"kernel": np.ones((8, 4)), "bias": np.ones(4)}}
      >>> rules = {"**/kernel": jax.P("model")}
      >>> found = shard.explain(params, rules, sizes, default=jax.P())
      >>> [(leaf.path, leaf.why) for leaf in found.leaves]
      [('up/bias', 'default'), ('up/kernel', '**/kernel')]
    """
    choice(unmatched, "unmatched", "explain", ("error", "ignore"))
    check_mesh(mesh, "shard.explain")
    sizes = {str(axis): int(size) for axis, size in mesh.shape.items()}
    found = decided_specs(tree, rules, mesh, default=default, unmatched=unmatched)
    return Explanation(tuple(_leaf(each, sizes) for each in found), sizes)


def _leaf(each: Decision, sizes: dict[str, int]) -> LeafPlacement:
    held = unbox(each.leaf)
    shape = shape_of(each.leaf) or ()
    dtype: Any = getattr(held, "dtype", None) or jnp.result_type(held)
    parts = math.prod(sizes[axis] for entry in each.spec for axis in axes_of(entry))
    size = math.prod(shape) * int(dtype.itemsize)
    return LeafPlacement(each.path, shape, str(dtype), each.spec, each.why, parts, size, size // parts)
