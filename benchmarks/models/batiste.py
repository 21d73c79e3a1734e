"""The models in batiste: the source that Linen runs. Through `nn.Repeat` they are in `benchmarks.repeat`."""

from batiste import TrainState, nn
from benchmarks.models.contract import Spec
from benchmarks.models.interface import InterfaceModel


def build(spec: Spec) -> InterfaceModel:
    return InterfaceModel(spec, nn, TrainState)
