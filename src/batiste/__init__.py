"""batiste: neural networks for JAX as pure functions over named state.

People write blueprints (``nn.Module``); batiste keeps the books: which arrays exist, in which collection, at which
path, from which random stream. ``from batiste import nn`` has all that a model file needs.
"""

from batiste import core, errors, lift, module, nn, shard, struct, train, tree
from batiste.module import Module
from batiste.train import TrainState

__all__ = ["Module", "TrainState", "core", "errors", "lift", "module", "nn", "shard", "struct", "train", "tree"]
