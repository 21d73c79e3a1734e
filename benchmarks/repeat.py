"""The transformer through ``nn.Repeat``: one block for all layers, in the ways that are measured.

======================  ===================================  ==================
contender               stored                               run
======================  ===================================  ==================
``repeat_loop``         each layer by itself, ``h_0/..``     unrolled
``repeat_scan``         each layer by itself                 as one scan
``repeat_stacked``      stacked, ``h/..`` with a layer axis  as one scan
======================  ===================================  ==================

The rows that they take part in are in ``rows.py``: the trace of 48 blocks, and the training step by depth, beside a
loop and a scan written by hand.
"""

from typing import Any

import jax
import jax.numpy as jnp

from batiste import TrainState, nn
from benchmarks.models.contract import Spec, Tree
from benchmarks.models.interface import InterfaceModel, transformer_block
from benchmarks.models.raw import EPSILON_LAYER

NAME = "h"


def transformer(spec: Spec, run: str) -> Any:
    """Return the blueprint of the transformer, its blocks made by ``Repeat``."""
    block = transformer_block(nn)

    class Transformer(nn.Module):
        blocks: int
        heads: int

        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            x = nn.Repeat(block(self.heads), self.blocks, run=run, name=NAME)(x)
            return nn.LayerNorm(epsilon=EPSILON_LAYER, name="norm")(x)

    return Transformer(spec.depth, spec.heads)


class RepeatModel(InterfaceModel):
    """The transformer through ``Repeat``.

    Attributes:
      stacked: whether its variables are kept stacked.
    """

    def __init__(self, spec: Spec, run: str, *, stacked: bool = False) -> None:
        super().__init__(spec, nn, TrainState)
        self.module = transformer(spec, run)
        self.stacked = stacked

    def pack(self, params: Tree, stats: Tree) -> tuple[Any, Any]:
        if self.stacked:
            blocks = [params[f"{NAME}_{index}"] for index in range(self.spec.depth)]
            params = {NAME: jax.tree.map(lambda *each: jnp.stack(each), *blocks), "norm": params["norm"]}
        return super().pack(params, stats)


def build_loop(spec: Spec) -> RepeatModel:
    return RepeatModel(spec, "loop")


def build_scan(spec: Spec) -> RepeatModel:
    return RepeatModel(spec, "scan")


def build_stacked(spec: Spec) -> RepeatModel:
    return RepeatModel(spec, "scan", stacked=True)
