"""A mapping proposed from shapes, names and order, for people to read before they use it.

What fits only one place, by its shapes, is taken there. Where several layers fit several places, and both sides are a
row of equally many that differ in one number, they are taken in order: ``0``, ``2``, ``4`` of a ``Sequential`` are
``Dense_0``, ``Dense_1``, ``Dense_2``. What is taken says which module of the one side is which of the other, so what
else is in the one is looked for in the other; there, batch normalisations follow each other as their convolutions do.
Else names decide: a pair is taken when each is the other's best match and no other comes as near. Anything else is
*ambiguous*, and is returned as such with every place that it could have.

Shapes do not tell all. A square kernel may be either way round, two equal layers may be exchanged, and a dense layer
behind a flattened image has its inputs in another order than its shape can say: what may be one is ambiguous.

Two tensors that fit one place alone may be *tied*, one array with two names. Only then are values looked at.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias, cast

import numpy as np

from batiste._arguments import refused
from batiste.importers._candidates import Candidate, TorchLayer, candidates, natural, torch_layers
from batiste.importers._compress import compress
from batiste.importers._layouts import BatchNorm, Conv, ConvTranspose, Layout, Linear
from batiste.importers._plan import Target, bare, target_leaves
from batiste.importers._rules import Rule
from batiste.importers._state_dict import PREFIXES, Source, StateDict, open_state_dict
from batiste.importers._weight_norm import WeightNorm

__all__ = ["Ambiguity", "Suggestion", "suggest_mapping"]

_Shape: TypeAlias = tuple[int, ...]

_MARGIN: Final = 0.05
_WORDS: Final = (
    ("attention", "attn", "mha", "selfattention"),
    ("backward", "bwd", "reverse"),
    ("dense", "fc", "linear", "lin", "proj", "projection"),
    ("embedding", "embeddings", "embed", "emb", "wte", "wpe"),
    ("forward", "fwd"),
    ("head", "classifier", "lm"),
    ("key", "k"),
    ("layer", "layers", "h", "block", "blocks", "encoderblock"),
    ("norm", "ln", "layernorm", "bn", "batchnorm", "groupnorm", "gn"),
    ("out", "output", "o"),
    ("query", "q"),
    ("value", "v"),
    ("word", "token", "tok"),
)


@dataclasses.dataclass(frozen=True, slots=True)
class Ambiguity:
    """A layer that fits several places, or fits one in a way that shapes cannot confirm.

    Attributes:
      source: the name of the layer.
      layouts: what it may be.
      targets: the paths where it may belong, the likeliest first.
      reason: why nothing decides.

    Example:
      >>> import numpy as np
      >>> from batiste import importers
      >>> weights = {"a.weight": np.ones((4, 4)), "b.weight": np.ones((4, 4))}
      >>> layers = {name: {"kernel": np.ones((4, 4))} for name in ("one", "two")}
      >>> found = importers.suggest_mapping(weights, {"params": layers})
      >>> [(each.source, each.targets) for each in found.ambiguous]
      [('a', ('params/one', 'params/two')), ('b', ('params/one', 'params/two'))]
    """

    source: str
    layouts: tuple[Layout, ...]
    targets: tuple[str, ...]
    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class Suggestion:
    """A proposed mapping.

    Attributes:
      mapping: the rules that something decides, ready to use.
      reasons: why, ``"shape"``, ``"order"``, ``"name"`` or ``"tied"``, by the name of the layer; ``lstm.l1`` is the
        second one of ``lstm``.
      ambiguous: layers that nothing decides.
      unused: tensors that fit nowhere.
      unfilled: leaves that nothing fits.

    Example:
      >>> import numpy as np
      >>> from batiste import importers
      >>> weights = {"fc.weight": np.ones((4, 3)), "fc.bias": np.ones(4)}
      >>> layer = {"kernel": np.ones((3, 4)), "bias": np.ones(4)}
      >>> found = importers.suggest_mapping(weights, {"params": {"Dense_0": layer}})
      >>> found.mapping[0].target, found.reasons, found.ambiguous
      ('params/Dense_0', {'fc': 'shape'}, ())
    """

    mapping: tuple[Rule, ...]
    reasons: Mapping[str, str]
    ambiguous: tuple[Ambiguity, ...]
    unused: tuple[str, ...]
    unfilled: tuple[str, ...]

    def __str__(self) -> str:
        lines = [
            f"{rule.source} -> {rule.target} ({_text(rule.layout)})"
            if rule.same_as is None
            else f"{rule.source} dropped: the same as {rule.same_as}"
            for rule in self.mapping
        ]
        lines += [
            f"ambiguous: {each.source} ({' or '.join(map(_text, each.layouts))}) -> {' or '.join(each.targets)}: "
            f"{each.reason}"
            for each in self.ambiguous
        ]
        lines += [f"unused: {name}" for name in self.unused]
        lines += [f"unfilled: {path}" for path in self.unfilled]
        return "\n".join(lines)


def suggest_mapping(
    source: Source, target: Target, *, nested: str | None = None, strip: Sequence[str] = PREFIXES
) -> Suggestion:
    """Return a mapping that shapes, names and order suggest.

    Args:
      source: a state dict or a path, as for ``from_torch``; nothing of it is read but what may be tied.
      target: the variables or their shapes.
      nested: which dict within the source is the state dict.
      strip: prefixes to take off where every name has them.

    Raises:
      NestedStateDictError: if the source has several state dicts.
      NotAStateDictError: if it has none.

    Example:
      >>> import numpy as np
      >>> from batiste import importers
      >>> weights = {"fc.weight": np.ones((4, 3)), "fc.bias": np.ones(4)}
      >>> layer = {"kernel": np.ones((3, 4)), "bias": np.ones(4)}
      >>> found = importers.suggest_mapping(weights, {"params": {"Dense_0": layer}})
      >>> variables = importers.from_torch(weights, None, found.mapping)
      >>> variables["params"]["Dense_0"]["kernel"].shape
      (3, 4)
    """
    state = open_state_dict(source, nested=nested, strip=strip)
    found = {path: bare(leaf) for path, leaf in target_leaves(target).items()}
    if not all(hasattr(leaf, "shape") for leaf in found.values()):
        raise refused(target, "target", "suggest_mapping", "variables, or their shapes")
    leaves = {path: tuple(leaf.shape) for path, leaf in found.items()}
    shapes = {name: tensor.shape for name, tensor in state.tensors.items()}
    layers = torch_layers(shapes)
    matching = _Matching(layers, shapes, leaves)
    matching.decide()
    tied = _tied(matching.rivals(), state)
    if tied:
        again = {name for name, _ in tied}
        matching = _Matching([layer for layer in layers if again.isdisjoint(layer.tensors)], shapes, leaves)
        matching.decide()
    return matching.suggestion(state, tied)


def _tied(rivals: Sequence[Sequence[str]], state: StateDict) -> list[tuple[str, str]]:
    """Tensors that are another name of a tensor with which they compete for a place, each with that one."""
    found: list[tuple[str, str]] = []
    for first, *others in rivals:
        array = state.tensors[first].read()
        found += [(name, first) for name in others if np.array_equal(state.tensors[name].read(), array, equal_nan=True)]
    return found


class _Matching:
    """Layers and the places that they fit, while they are paired."""

    def __init__(
        self, layers: list[TorchLayer], shapes: Mapping[str, tuple[int, ...]], leaves: Mapping[str, tuple[int, ...]]
    ) -> None:
        self.layers = layers
        self.shapes = shapes
        self.leaves = leaves
        self.left = candidates(layers, shapes, leaves)
        self.claims: dict[str, set[int]] = {}
        for number, places in self.left.items():
            for leaf in {leaf for place in places for leaf in place.leaves}:
                self.claims.setdefault(leaf, set()).add(number)
        self.choices = {number: len(places) for number, places in self.left.items()}
        self.pairs: dict[int, Candidate] = {}
        self.reasons: dict[str, str] = {}
        self.ambiguous: dict[int, Ambiguity] = {}
        self.undecided: set[str] = set()

    def decide(self) -> None:
        """Pair what can be paired: by shapes, then by order, then by names."""
        self._set_aside_flattened()
        while (
            self._by_shape()
            or self._by_order()
            or self._by_module()
            or self._by_sequence()
            or self._by_name()
            or self._by_plainness()
        ):
            pass
        for number, places in self.left.items():
            layer = self.layers[number]
            bases = sorted((place.base for place in places), key=natural)
            targets = sorted(bases, key=functools.partial(_likeness, layer.wording), reverse=True)
            layouts = tuple(dict.fromkeys(place.layout for place in places))
            self.undecided.update(*(place.leaves for place in places))
            reason = "several layers fit here, and neither names nor order tell them apart"
            self.ambiguous[number] = Ambiguity(layer.name, layouts, tuple(dict.fromkeys(targets)), reason)

    def rivals(self) -> list[list[str]]:
        """Return the tensors, each a layer of its own, that compete for one place alone; the likeliest first."""
        rows: dict[tuple[str, _Shape], list[TorchLayer]] = {}
        for number, each in self.ambiguous.items():
            layer = self.layers[number]
            if len(each.targets) == len(layer.tensors) == 1:
                rows.setdefault((each.targets[0], self.shapes[layer.tensors[0]]), []).append(layer)
        return [
            [layer.tensors[0] for layer in sorted(row, key=lambda layer: -_likeness(layer.wording, target))]
            for (target, shape), row in rows.items()
            if len(row) > 1 and len(shape) > 1
        ]

    def suggestion(self, state: StateDict, tied: Sequence[tuple[str, str]]) -> Suggestion:
        """Return what was found, with rules for tensors that are another name of one."""
        rules = [
            Rule(self.layers[number].name, place.base, place.layout) for number, place in sorted(self.pairs.items())
        ]
        taken = {name for number in (*self.pairs, *self.ambiguous) for name in self.layers[number].tensors}
        taken.update(name for name, _ in tied)
        filled = {leaf for place in self.pairs.values() for leaf in place.leaves} | self.undecided
        return Suggestion(
            (*compress(rules, state.tensors), *(Rule(name, None, same_as=other) for name, other in tied)),
            {**self.reasons, **{name.rpartition(".")[0] or name: "tied" for name, _ in tied}},
            tuple(self.ambiguous[number] for number in sorted(self.ambiguous)),
            tuple(name for name in state.tensors if name not in taken and name not in state.aliases),
            tuple(path for path in self.leaves if path not in filled),
        )

    def _set_aside_flattened(self) -> None:
        """Find linear layers whose inputs may be several positions of a convolution.

        That is the first one behind a convolution, and any whose inputs no other linear layer makes.
        """
        first: dict[int, Layout] = {number: _plain(places[0].layout) for number, places in self.left.items()}
        weights = {
            number: max((self.shapes[name] for name in self.layers[number].tensors), key=len) for number in first
        }
        images = {weights[number][0] for number, layout in first.items() if isinstance(layout, Conv)}
        made = {weights[number][0] for number, layout in first.items() if isinstance(layout, Linear)}
        before = 0
        for number, layout in first.items():
            weight = weights[number]
            if isinstance(layout, Conv):
                before = weight[0]
            if not isinstance(layout, Linear) or len(weight) != 2:
                continue
            several = [before, *(sorted(images, reverse=True) if weight[1] not in made else ())]
            pooled = weight[1] == before  # a mean over all positions
            channels = (
                0
                if pooled
                else next((each for each in several if each and weight[1] > each and weight[1] % each == 0), 0)
            )
            before = 0
            if channels:
                reason = (
                    f"its {weight[1]} inputs are perhaps a flattened image of {channels} channels: FlattenLinear then "
                    "says the image's shape, and Linear is right where PyTorch flattened channels last"
                )
                places = self.left.pop(number)
                self.undecided.update(*(place.leaves for place in places))
                bases = tuple(place.base for place in places)
                self.ambiguous[number] = Ambiguity(self.layers[number].name, (layout,), bases, reason)

    def _take(self, number: int, place: Candidate, reason: str) -> None:
        self.pairs[number] = place
        self.reasons[self.layers[number].label] = reason
        del self.left[number]
        for other in set[int]().union(*(self.claims[leaf] for leaf in place.leaves)) & self.left.keys():
            kept = [each for each in self.left[other] if not each.leaves & place.leaves]
            if kept:
                self.left[other] = kept
            else:
                del self.left[other]

    def _rivals(self, place: Candidate) -> set[int]:
        """Every layer that is left and could fill one of the leaves."""
        near = set[int]().union(*(self.claims[leaf] for leaf in place.leaves)) & self.left.keys()
        return {number for number in near if any(each.leaves & place.leaves for each in self.left[number])}

    def _by_shape(self) -> bool:
        for number, places in self.left.items():
            if len(places) == 1 and self._rivals(places[0]) == {number}:
                self._take(number, places[0], "shape" if self.choices[number] == 1 else "name")
                return True
        return False

    def _by_order(self) -> bool:
        """Take a row of equal layers in order, where both sides are numbered and nothing else differs."""
        rows: dict[frozenset[str], list[int]] = {}
        for number, places in self.left.items():
            rows.setdefault(frozenset(place.base for place in places), []).append(number)
        for bases, row in rows.items():
            ordered = sorted(bases, key=natural)
            names = [self.layers[number].label for number in row]
            if len(row) != len(bases) or len(row) < 2 or not _numbered(names) or not _numbered(ordered):
                continue
            if set[int]().union(*map(self._rivals, self.left[row[0]])) != set(row):
                continue
            row.sort(key=lambda number: natural(self.layers[number].label))
            for number, base in zip(row, ordered, strict=True):
                self._take(number, next(place for place in self.left[number] if place.base == base), "order")
            return True
        return False

    def _by_module(self) -> bool:
        """Look for what is left of a module in the module where the others of it were taken."""
        inside: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
        owners: dict[tuple[str, ...], set[tuple[str, ...]]] = {}
        for number, place in self.pairs.items():
            base = _levels(place.base)
            for above in _modules(self.layers[number].name):
                inside.setdefault(above, []).append(base)
            for depth in range(1, len(base)):
                owners.setdefault(base[:depth], set()).add(tuple(self.layers[number].name.split(".")))
        changed = False
        for number, places in list(self.left.items()):
            for above in _modules(self.layers[number].name):
                module = _common(inside.get(above, []))
                if not module or any(name[: len(above)] != above for name in owners.get(module, ())):
                    continue
                kept = [place for place in places if _levels(place.base)[: len(module)] == module]
                if kept and len(kept) < len(places):
                    self.left[number] = kept
                    changed = True
                break
        return changed

    def _by_sequence(self) -> bool:
        """Take the batch normalisations of a module in order, where it has as many of them as of places by number."""
        rows: dict[tuple[str, ...], list[int]] = {}
        for number, layer in enumerate(self.layers):
            if isinstance(layer.layouts[0], BatchNorm):
                for above in ((), *_modules(layer.name)):
                    rows.setdefault(above, []).append(number)
        for row in rows.values():
            waiting = [number for number in row if number in self.left]
            taken = {self.pairs[number].base for number in row if number in self.pairs}
            bases = sorted({place.base for number in waiting for place in self.left[number]} | taken, key=natural)
            if not waiting or len(bases) != len(row) or not _numbered(bases):
                continue
            pairs = list(zip(row, bases, strict=True))
            found = {
                number: next((place for place in self.left[number] if place.base == base), None)
                for number, base in pairs
                if number in self.left
            }
            kept = all(self.pairs[number].base == base for number, base in pairs if number in self.pairs)
            if not kept or len(set(row)) != len(waiting) + len(taken) or None in found.values():
                continue
            for number, place in found.items():
                if place is not None:
                    self._take(number, place, "order")
            return True
        return False

    def _by_plainness(self) -> bool:
        """Where a convolution fits, do not look for one that is transposed; shapes alone do not tell the two apart."""
        changed = False
        for number, places in list(self.left.items()):
            kept = [place for place in places if not isinstance(_plain(place.layout), ConvTranspose)]
            if kept and len(kept) < len(places):
                self.left[number] = kept
                changed = True
        return changed

    def _by_name(self) -> bool:
        """Take every pair where each is the other's best by a margin."""
        best: dict[int, tuple[float, Candidate]] = {}
        wanted: dict[str, dict[int, float]] = {}
        for number, places in self.left.items():
            name = self.layers[number].wording
            scores = sorted(((_likeness(name, place.base), index) for index, place in enumerate(places)), reverse=True)
            second = scores[1][0] if len(scores) > 1 else 0.0
            if scores[0][0] > second + _MARGIN:
                best[number] = (scores[0][0], places[scores[0][1]])
            for score, index in scores:
                for leaf in places[index].leaves:
                    rivals = wanted.setdefault(leaf, {})
                    rivals[number] = max(score, rivals.get(number, 0.0))
        highest = {leaf: sorted(rivals.values(), reverse=True)[:2] for leaf, rivals in wanted.items()}
        clear: list[tuple[int, Candidate]] = []
        for number, (score, place) in best.items():
            tops = [highest[leaf] for leaf in place.leaves]
            if all(score >= top[0] and (len(top) == 1 or score > top[1] + _MARGIN) for top in tops):
                clear.append((number, place))
        for number, place in clear:
            self._take(number, place, "name")
        return bool(clear)


def _text(layout: Layout) -> str:
    """The name of a layout, with what of it is not its default."""
    fields = dataclasses.fields(cast("Any", layout))
    options = [
        (field.name, getattr(layout, field.name)) for field in fields if getattr(layout, field.name) != field.default
    ]
    texts = [f"{name}={_text(value) if isinstance(value, Layout) else repr(value)}" for name, value in options]
    inner = ", ".join(texts)
    return f"{type(layout).__name__}({inner})" if inner else type(layout).__name__


def _levels(path: str) -> tuple[str, ...]:
    """The levels of a path beneath its collection."""
    return tuple(path.split("/"))[1:]


def _modules(name: str) -> list[tuple[str, ...]]:
    """The modules that a layer of PyTorch lies in, the innermost first."""
    parts = tuple(name.split("."))
    return [parts[:depth] for depth in range(len(parts) - 1, 0, -1)]


def _common(bases: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """The module that all these layers lie in; none where they share none."""
    if not bases:
        return ()
    length = 0
    while all(len(base) > length + 1 and base[length] == bases[0][length] for base in bases):
        length += 1
    return bases[0][:length]


def _plain(layout: Layout) -> Layout:
    return layout.layout if isinstance(layout, WeightNorm) else layout


def _numbered(names: Sequence[str]) -> bool:
    """Whether names differ in one number only."""
    rows = [re.split(r"([0-9]+)", name) for name in names]
    if len({len(row) for row in rows}) > 1:
        return False
    columns = [set(column) for column in zip(*rows, strict=True)]
    differing = [index for index, column in enumerate(columns) if len(column) > 1]
    return len(differing) == 1 and differing[0] % 2 == 1


def _likeness(name: str, path: str) -> float:
    """How alike a name and a path are: words in order, and numbers, which count against where they differ."""
    alike = _alike(_words(name), _words(path.removeprefix("params/")))
    numbers, theirs = _numbers(name), _numbers(path)
    if not numbers or not theirs or not alike:
        return alike
    return alike + (0.5 if numbers == theirs else -0.25 if len(numbers) == len(theirs) else 0.0)


@functools.lru_cache(maxsize=65536)
def _alike(words: tuple[str, ...], others: tuple[str, ...]) -> float:
    return difflib.SequenceMatcher(None, words, others, autojunk=False).ratio()


@functools.lru_cache(maxsize=65536)
def _numbers(name: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"[0-9]+", name))


@functools.lru_cache(maxsize=65536)
def _words(name: str) -> tuple[str, ...]:
    """The words of a name, synonyms as one; numbers are not among them."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    found = [word.lower() for word in re.findall(r"[A-Za-z]+", apart)]
    return tuple(next((group[0] for group in _WORDS if word in group), word) for word in found)
