"""Which layers of a state dict could be which layers of a target, by their tensors and shapes alone.

A layer of PyTorch is told by its tensors: ``running_mean`` makes it a batch normalisation, ``in_proj_weight`` an
attention, a weight of four axes a convolution. Each layout that its tensors allow is tried at each place of the target
that has just the leaves which the layout makes, no more and no fewer; where the shapes are the same, the place is a
*candidate*.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import jax
import numpy as np

from batiste.importers._attention import Attention, AttentionIn, AttentionOut, FusedAttentionIn
from batiste.importers._layouts import (
    BatchNorm,
    Conv,
    ConvTranspose,
    Embedding,
    Identity,
    LayerNorm,
    Layout,
    Linear,
    Misfit,
    Part,
    PReLU,
    Transpose,
)
from batiste.importers._names import join_name
from batiste.importers._recurrent import Gru, Lstm, Rnn
from batiste.importers._resolve import leaf_path
from batiste.importers._weight_norm import WeightNorm

__all__ = ["Candidate", "TorchLayer", "candidates", "natural", "torch_layers"]

_Shape = tuple[int, ...]
_RECURRENT: Final = re.compile(r"(?:weight_[ih]h|bias_[ih]h|weight_hr)(?:_l([0-9]+)(_reverse)?)?")
_PARAMETRIZED: Final = re.compile(r"(?:(.*)\.)?parametrizations\.[^.]+\.original[01]")
_FOLDED: Final = (("weight_g", "weight_v"), ("parametrizations.weight.original0", "parametrizations.weight.original1"))
_TRANSPOSED: Final = re.compile(r"transpose|deconv|upconv|up_conv|upsample", re.IGNORECASE)

_AUTO_CONV: Final = re.compile(r"Conv_[0-9]+")
_AUTO_TRANSPOSED: Final = re.compile(r"ConvTranspose_[0-9]+")


@dataclasses.dataclass(frozen=True, slots=True)
class TorchLayer:
    """A layer of a state dict.

    Attributes:
      name: its name; that of the tensor itself where it is a parameter on its own.
      layouts: what it may be.
      tensors: all that belongs to it.
    """

    name: str
    layouts: tuple[Layout, ...]
    tensors: tuple[str, ...]

    @property
    def label(self) -> str:
        """The name, with the number of the layer where several recurrent layers share it."""
        layout = self.layouts[0]
        if not isinstance(layout, Gru | Lstm | Rnn) or layout.layer is None:
            return self.name
        return join_name(self.name, f"l{layout.layer}{'_reverse' if layout.reverse else ''}")

    @property
    def wording(self) -> str:
        """The label as it is compared with paths: PyTorch's names do not say which direction is the forward one."""
        layout = self.layouts[0]
        forward = isinstance(layout, Gru | Lstm | Rnn) and not layout.reverse
        return f"{self.label}_forward" if forward else self.label


@dataclasses.dataclass(frozen=True, slots=True)
class Candidate:
    """A place where a layer fits.

    Attributes:
      layout: by which layout.
      base: the path of the layer.
      leaves: the leaves that it fills.
    """

    layout: Layout
    base: str
    leaves: frozenset[str]


def torch_layers(shapes: Mapping[str, _Shape]) -> list[TorchLayer]:
    """Return the layers of a state dict, in its order."""
    groups: dict[str, list[str]] = {}
    for name in shapes:
        owner, _, _ = name.rpartition(".")
        above, _, last = owner.rpartition(".")
        if last == "out_proj" and any(join_name(above, part) in shapes for part in ("in_proj_weight", "q_proj_weight")):
            owner = above
        parametrized = _PARAMETRIZED.fullmatch(name)
        if parametrized is not None:
            owner = parametrized[1] or ""
        groups.setdefault(owner, []).append(name)
    found: list[TorchLayer] = []
    for owner, names in groups.items():
        found += _layers_of(owner, names, shapes)
    return found


def _layers_of(owner: str, names: Sequence[str], shapes: Mapping[str, _Shape]) -> Iterator[TorchLayer]:
    own = {name[len(owner) :].lstrip("."): name for name in names}
    recurrent: dict[tuple[str | None, str | None], list[str]] = {}
    for suffix in list(own):
        found = _RECURRENT.fullmatch(suffix)
        if found is not None:
            recurrent.setdefault((found[1], found[2]), []).append(own.pop(suffix))
    for (number, reverse), tensors in recurrent.items():
        end = "" if number is None else f"_l{number}{reverse or ''}"
        rows, columns = shapes.get(join_name(owner, f"weight_hh{end}"), (0, 1))[:2]
        kind = {4: Lstm, 3: Gru, 1: Rnn}.get(rows // columns if columns else 0)
        if kind is not None:
            layer = None if number is None else int(number)
            yield TorchLayer(owner, (kind(layer, reverse=reverse is not None),), tuple(tensors))
    whole = _whole(owner, own, shapes)
    if whole is not None:
        yield whole
        own = {suffix: name for suffix, name in own.items() if name not in whole.tensors}
    for name in own.values():
        single: tuple[Layout, ...] = (Identity(),)
        if len(shapes[name]) > 1:
            single = (Identity(), Transpose())
        yield TorchLayer(name, single, (name,))


def _whole(owner: str, own: Mapping[str, str], shapes: Mapping[str, _Shape]) -> TorchLayer | None:
    """The layer that the tensors of one name make together."""
    layouts: tuple[Layout, ...] = ()
    folded = next((pair for pair in _FOLDED if own.keys() >= set(pair)), None)
    weight = folded[1] if folded is not None else "weight"
    if "running_mean" in own:
        layouts = (BatchNorm(),)
    elif "in_proj_weight" in own or "q_proj_weight" in own:
        layouts = (Attention(),)
    elif weight in own:
        rank = len(shapes[own[weight]])
        if rank == 1:
            layouts = (LayerNorm(), PReLU())
        elif rank == 2:
            layouts = (Linear(), AttentionIn(), AttentionOut(), FusedAttentionIn(), Embedding())
            layouts += (Linear(transposed=True), AttentionOut(transposed=True), FusedAttentionIn(transposed=True))
        elif rank <= 5:
            turned = (ConvTranspose(), ConvTranspose(transpose_kernel=True))
            layouts = turned if _TRANSPOSED.search(owner) else (Conv(), *turned[:1])
        if folded is not None:
            lengths = shapes[own[folded[0]]]
            dim = next((axis for axis, extent in enumerate(lengths) if extent != 1), 0) if lengths else None
            layouts = tuple(WeightNorm(layout, dim=dim) for layout in layouts)
    known = {tensor for layout in layouts for part in layout.parts() for tensor in part.tensors}
    tensors = tuple(own[suffix] for suffix in own if suffix in known)
    return TorchLayer(owner, layouts, tensors) if tensors else None


def candidates(
    layers: Iterable[TorchLayer], shapes: Mapping[str, _Shape], leaves: Mapping[str, _Shape]
) -> dict[int, list[Candidate]]:
    """Return, for the number of each layer, every place of the target that it fits."""
    place = _Target(leaves)
    known: dict[Any, list[Candidate]] = {}  # equal layers have equal places
    found: dict[int, list[Candidate]] = {}
    for number, layer in enumerate(layers):
        key = (layer.layouts, tuple((name[len(layer.name) :], shapes[name]) for name in layer.tensors))
        if key not in known:
            known[key] = _places(layer, shapes, place)
        if known[key]:
            found[number] = list(known[key])
    return found


class _Target:
    """The leaves of a target: in the order of their numbers, and by the level that they are on."""

    def __init__(self, leaves: Mapping[str, _Shape]) -> None:
        self.leaves = {path: leaves[path] for path in sorted(leaves, key=natural)}
        self.levels: dict[str, set[str]] = {}
        for path in leaves:
            self.levels.setdefault(path.rpartition("/")[0], set()).add(path)


def _places(layer: TorchLayer, shapes: Mapping[str, _Shape], target: _Target) -> list[Candidate]:
    """Every place that a layer fits, once: the first layout that fits there is the plainest."""
    found: list[Candidate] = []
    filled: set[str] = set()
    for layout in layer.layouts:
        parts = [part for part in layout.parts() if _has(part, layer)]
        refused = any(part.refusal for part in parts)
        if refused or {tensor for part in parts for tensor in _tensors(part, layer)} != set(layer.tensors):
            continue
        known: dict[Any, bool] = {}
        for base in _bases(parts, target.leaves):
            paths = [leaf_path(base, leaf, part.collection) for part in parts for leaf in part.leaves]
            if not filled.isdisjoint(paths) or not all(path in target.leaves for path in paths):
                continue
            if (
                _suits(layout, base)
                and _covers(paths, target.levels)
                and _fits(parts, layer, base, shapes, target.leaves, known)
            ):
                found.append(Candidate(layout, base, frozenset(paths)))
        filled.update(*(place.leaves for place in found))
    return found


def _tensors(part: Part, layer: TorchLayer) -> list[str]:
    return [join_name(layer.name, tensor) for tensor in part.tensors]


def _has(part: Part, layer: TorchLayer) -> bool:
    return all(name in layer.tensors for name in _tensors(part, layer))


def _bases(parts: Sequence[Part], leaves: Mapping[str, _Shape]) -> Iterator[str]:
    """The paths of layers that have the first leaf of a layout."""
    first = next((part for part in parts if part.leaves and part.collection is None), None)
    if first is None:
        return
    leaf = first.leaves[0]
    for path in leaves:
        if not leaf:
            yield path
        elif path == leaf or path.endswith(f"/{leaf}"):
            yield path[: -len(leaf)].rstrip("/")


def _suits(layout: Layout, base: str) -> bool:
    """Whether a name that says what a layer of convolution is, as the ones given without asking do, says this one."""
    name = base.rpartition("/")[2]
    plain = layout.layout if isinstance(layout, WeightNorm) else layout
    if isinstance(plain, Conv):
        return not _AUTO_TRANSPOSED.fullmatch(name)
    return not (isinstance(plain, ConvTranspose) and _AUTO_CONV.fullmatch(name))


def natural(text: str) -> list[tuple[int, str]]:
    """Return what sorts ``h_2`` before ``h_10``."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]+)", text)]


def _covers(paths: Sequence[str], levels: Mapping[str, set[str]]) -> bool:
    """Whether a layer fills all that is on the levels which it fills at all; single leaves may be among others."""
    if len(paths) == 1 and paths[0].rpartition("/")[2] not in ("kernel", "scale", "embedding"):
        return True
    return set(paths) == set().union(*(levels[path.rpartition("/")[0]] for path in paths))


def _fits(
    parts: Sequence[Part],
    layer: TorchLayer,
    base: str,
    shapes: Mapping[str, _Shape],
    leaves: Mapping[str, _Shape],
    known: dict[Any, bool],
) -> bool:
    for part in parts:
        given = tuple(shapes[name] for name in _tensors(part, layer))
        wanted = tuple(leaves[leaf_path(base, leaf, part.collection)] for leaf in part.leaves)
        key = (part.tensors, given, wanted)
        if key not in known:
            known[key] = _made(part, given, wanted) == list(wanted)
        if not known[key]:
            return False
    return True


def _made(part: Part, given: Sequence[_Shape], wanted: Sequence[_Shape]) -> list[_Shape] | None:
    def forward(arrays: list[Any]) -> list[Any]:
        return part.forward(arrays, wanted)

    try:
        made = jax.eval_shape(forward, [jax.ShapeDtypeStruct(shape, np.float32) for shape in given])
    except (Misfit, TypeError, ValueError):
        return None
    return [tuple(leaf.shape) for leaf in made]
