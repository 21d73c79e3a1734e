"""The accelerator's models in PyTorch: GPT-2 and ResNet, as its users write them, with the weights of the layout."""

import math
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks.models.contract import EXPANSION, Spec, Tree, bottlenecks, flatten
from benchmarks.models.raw import EPSILON_BATCH, EPSILON_LAYER, MOMENTUM


class Attention(nn.Module):
    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.heads = spec.heads
        self.qkv, self.out = nn.Linear(spec.width, 3 * spec.width), nn.Linear(spec.width, spec.width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        parts = (part.view(batch, length, self.heads, -1).transpose(1, 2) for part in self.qkv(x).split(width, dim=2))
        mixed = functional.scaled_dot_product_attention(*parts, is_causal=True)
        return self.out(mixed.transpose(1, 2).reshape(batch, length, width))


class Block(nn.Module):
    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.attention = Attention(spec)
        self.norm_1, self.norm_2 = (nn.LayerNorm(spec.width, eps=EPSILON_LAYER) for _ in range(2))
        self.up, self.down = (
            nn.Linear(spec.width, EXPANSION * spec.width),
            nn.Linear(EXPANSION * spec.width, spec.width),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.norm_1(x))
        return x + self.down(functional.gelu(self.up(self.norm_2(x)), approximate="tanh"))


class GPT2(nn.Module):
    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.depth = spec.depth
        self.wte, self.wpe = nn.Embedding(spec.classes, spec.width), nn.Embedding(spec.length, spec.width)
        for index in range(spec.depth):
            self.add_module(f"h_{index}", Block(spec))
        self.norm = nn.LayerNorm(spec.width, eps=EPSILON_LAYER)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1], device=tokens.device))
        for index in range(self.depth):
            x = getattr(self, f"h_{index}")(x)
        return functional.linear(self.norm(x), self.wte.weight)


def conv(inputs: int, features: int, size: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, features, size, stride, padding=size // 2, bias=False)


def batch_norm(features: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(features, eps=EPSILON_BATCH, momentum=1 - MOMENTUM)


class Bottleneck(nn.Module):
    def __init__(self, inputs: int, features: int, stride: int) -> None:
        super().__init__()
        outputs = features * EXPANSION
        self.conv_1, self.norm_1 = conv(inputs, features, 1, 1), batch_norm(features)
        self.conv_2, self.norm_2 = conv(features, features, 3, stride), batch_norm(features)
        self.conv_3, self.norm_3 = conv(features, outputs, 1, 1), batch_norm(outputs)
        self.projects = inputs != outputs or stride != 1
        if self.projects:
            self.conv_project, self.norm_project = conv(inputs, outputs, 1, stride), batch_norm(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = functional.relu(self.norm_1(self.conv_1(x)))
        y = functional.relu(self.norm_2(self.conv_2(y)))
        y = self.norm_3(self.conv_3(y))
        if self.projects:
            x = self.norm_project(self.conv_project(x))
        return functional.relu(x + y)


class ResNet(nn.Module):
    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.stem, self.stem_norm = conv(3, spec.width, 7, 2), batch_norm(spec.width)
        self.blocks = [name for name, _, _, _ in bottlenecks(spec)]
        outputs = spec.width
        for name, inputs, features, stride in bottlenecks(spec):
            self.add_module(name, Bottleneck(inputs, features, stride))
            outputs = features * EXPANSION
        self.head = nn.Linear(outputs, spec.classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.max_pool2d(functional.relu(self.stem_norm(self.stem(x))), 3, 2, 1)
        for name in self.blocks:
            x = getattr(self, name)(x)
        return self.head(x.mean((2, 3)))


def build(spec: Spec, params: Tree, stats: Tree) -> nn.Module:
    """Return the model that a spec describes, with these weights."""
    model: nn.Module = GPT2(spec) if spec.kind == "gpt2" else ResNet(spec)
    names = {"kernel": "weight", "scale": "weight", "embedding": "weight", "mean": "running_mean", "var": "running_var"}
    given: dict[str, Any] = {}
    for path, leaf in (flatten(params) | flatten(stats)).items():
        module, _, name = path.rpartition("/")
        value = np.asarray(leaf)
        if name == "kernel":
            value = value.T if value.ndim == 2 else value.transpose(3, 2, 0, 1)
        given[f"{module.replace('/', '.')}.{names.get(name, name)}"] = torch.from_numpy(np.array(value, order="C"))
    missing, unexpected = model.load_state_dict(given, strict=False)
    if unexpected or any(not name.endswith("num_batches_tracked") for name in missing):
        message = f"weights do not fit: {missing}, {unexpected}"
        raise ValueError(message)
    return model


def objective(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the cross entropy over all tokens or images."""
    return functional.cross_entropy(logits.float().view(-1, logits.shape[-1]), targets.reshape(-1).long())


def size(model: nn.Module) -> int:
    """Return how many parameters a model has."""
    return sum(math.prod(parameter.shape) for parameter in model.parameters())
