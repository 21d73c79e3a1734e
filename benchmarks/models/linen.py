"""The models in Flax Linen."""

from flax import linen as nn
from flax.training.train_state import TrainState

from benchmarks.models.contract import Spec
from benchmarks.models.interface import InterfaceModel


def build(spec: Spec) -> InterfaceModel:
    return InterfaceModel(spec, nn, TrainState)
