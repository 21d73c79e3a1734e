"""PyTorch's layers as formulas in NumPy, in double precision, and state dicts with its names and shapes.

Images are ``[batch, channels, positions...]`` here, as PyTorch has them.
"""

import itertools

import numpy as np


def tensors(seed=0, **shapes):
    """Draw a state dict: tensors by name, with `__` for a dot."""
    rng = np.random.default_rng(seed)
    drawn = {}
    for name, shape in shapes.items():
        values = rng.standard_normal(shape)
        drawn[name.replace("__", ".")] = (np.abs(values) + 0.5 if name.endswith("var") else values).astype(np.float32)
    return drawn


def draw(*shape, seed=1):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def linear(state, x):
    return x @ state["weight"].T.astype(np.float64) + state.get("bias", 0.0)


def weight_norm(state, dim=0):
    """The state dict with the weight that length and direction make."""
    direction = state["weight_v"].astype(np.float64)
    axes = tuple(axis for axis in range(direction.ndim) if axis != dim)
    weight = state["weight_g"] * direction / np.sqrt(np.square(direction).sum(axes, keepdims=True))
    return {**state, "weight": weight}


def to_last(x):
    return np.moveaxis(x, 1, -1)


def to_first(x):
    return np.moveaxis(x, -1, 1)


def conv(state, x, stride=1, padding=0, groups=1):
    weight = state["weight"].astype(np.float64)
    outputs, inputs, *size = weight.shape
    x = np.pad(x, [(0, 0), (0, 0), *[(padding, padding)] * len(size)])
    extents = [(n - k) // stride + 1 for n, k in zip(x.shape[2:], size, strict=True)]
    y = np.zeros((x.shape[0], outputs, *extents))
    for place in itertools.product(*map(range, extents)):
        window = x[(..., *[slice(p * stride, p * stride + k) for p, k in zip(place, size, strict=True)])]
        for output in range(outputs):
            first = output // (outputs // groups) * inputs
            part = window[:, first : first + inputs]
            y[(slice(None), output, *place)] = (part * weight[output]).reshape(len(x), -1).sum(-1)
    return y + state["bias"].reshape(1, -1, *[1] * len(size))


def conv_transpose(state, x, stride=1, padding=0, groups=1):
    weight = state["weight"].astype(np.float64)
    if groups > 1:
        parts = zip(*(np.split(part, groups) for part in (weight, x.swapaxes(0, 1), state["bias"])), strict=True)
        apart = [
            conv_transpose({"weight": own, "bias": bias}, channels.swapaxes(0, 1), stride, padding)
            for own, channels, bias in parts
        ]
        return np.concatenate(apart, axis=1)
    _, outputs, *size = weight.shape
    extents = [(n - 1) * stride + k for n, k in zip(x.shape[2:], size, strict=True)]
    y = np.zeros((x.shape[0], outputs, *extents))
    for place in itertools.product(*map(range, x.shape[2:])):
        where = (..., *[slice(p * stride, p * stride + k) for p, k in zip(place, size, strict=True)])
        y[where] += np.tensordot(x[(..., *place)], weight, axes=1)
    inner = [slice(padding, n - padding) for n in extents]
    return y[(..., *inner)] + state["bias"].reshape(1, -1, *[1] * len(size))


def batch_norm(state, x, epsilon=1e-5):
    y = (x - state["running_mean"]) / np.sqrt(state["running_var"].astype(np.float64) + epsilon)
    return y * state["weight"] + state["bias"]


def layer_norm(state, x, epsilon=1e-5):
    y = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.astype(np.float64).var(-1, keepdims=True) + epsilon)
    return y * state["weight"] + state["bias"]


def softmax(x):
    grown = np.exp(x - x.max(-1, keepdims=True))
    return grown / grown.sum(-1, keepdims=True)


def attention(query, key, value, heads):
    """Of ``[batch, length, heads * size]`` each, without projections."""

    def apart(x):
        return x.reshape(*x.shape[:2], heads, -1).transpose(0, 2, 1, 3)

    query, key, value = map(apart, (query, key, value))
    mixed = softmax(query @ key.swapaxes(-1, -2) / np.sqrt(query.shape[-1])) @ value
    return mixed.transpose(0, 2, 1, 3).reshape(len(mixed), mixed.shape[2], -1)


def multihead(state, query, key, value, heads):
    biases = np.split(state["in_proj_bias"], 3)
    if "in_proj_weight" in state:
        weights = np.split(state["in_proj_weight"], 3)
    else:
        weights = [state[f"{role}_proj_weight"] for role in "qkv"]
    projected = [
        linear({"weight": weight, "bias": bias}, x)
        for weight, bias, x in zip(weights, biases, (query, key, value), strict=True)
    ]
    out = {"weight": state["out_proj.weight"], "bias": state["out_proj.bias"]}
    return linear(out, attention(*projected, heads))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def gates(state, x, h, end):
    one = linear({"weight": state[f"weight_ih{end}"], "bias": state[f"bias_ih{end}"]}, x)
    two = linear({"weight": state[f"weight_hh{end}"], "bias": state[f"bias_hh{end}"]}, h)
    return one, two


def lstm(state, x, end=""):
    features = state[f"weight_hh{end}"].shape[1]
    h = c = np.zeros((x.shape[0], features))
    outputs = []
    for step in range(x.shape[1]):
        i, f, g, o = np.split(np.add(*gates(state, x[:, step], h, end)), 4, axis=-1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        outputs.append(h)
    return np.stack(outputs, axis=1)


def gru(state, x, end=""):
    h = np.zeros((x.shape[0], state[f"weight_hh{end}"].shape[1]))
    outputs = []
    for step in range(x.shape[1]):
        of_x, of_h = gates(state, x[:, step], h, end)
        (r, z, n), (rh, zh, nh) = np.split(of_x, 3, axis=-1), np.split(of_h, 3, axis=-1)
        z = sigmoid(z + zh)
        h = (1 - z) * np.tanh(n + sigmoid(r + rh) * nh) + z * h
        outputs.append(h)
    return np.stack(outputs, axis=1)


def rnn(state, x, end=""):
    h = np.zeros((x.shape[0], state[f"weight_hh{end}"].shape[1]))
    outputs = []
    for step in range(x.shape[1]):
        h = np.tanh(np.add(*gates(state, x[:, step], h, end)))
        outputs.append(h)
    return np.stack(outputs, axis=1)
