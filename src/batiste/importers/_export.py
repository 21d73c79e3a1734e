"""From variables back to a state dict, by the same mapping read backwards."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import numpy as np

from batiste._arguments import choice
from batiste.errors import ExportMismatchError, MissingPackageError, TiedTensorsError, UnmatchedRuleError
from batiste.importers._layouts import Misfit, Part
from batiste.importers._names import join_name
from batiste.importers._plan import bare, target_leaves
from batiste.importers._resolve import leaf_path, resolve
from batiste.importers._rules import Compiled, WeightMapping, compile_mapping
from batiste.tree import LazyArray, PatternLike, compile_pattern

__all__ = ["to_torch"]


def to_torch(
    variables: Any,
    mapping: WeightMapping,
    *,
    ignore: PatternLike | Sequence[PatternLike] = (),
    tensors: Literal["numpy", "torch"] = "numpy",
) -> dict[str, Any]:
    """Return the state dict that ``from_torch`` makes these variables of.

    What a mapping drops is not there again, except another name of a tensor (``same_as``). The two biases of a
    recurrent layer are the sum and zeros.

    Args:
      variables: the variables, or a part of them.
      mapping: the rules, as for ``from_torch``; every wildcard must be used in its rule's path.
      ignore: patterns of leaves that are not wanted.
      tensors: whether to return NumPy arrays or PyTorch's tensors.

    Returns:
      Tensors by name, in the order of the rules, with memory of their own.

    Raises:
      ExportMismatchError: if a leaf has no rule, or what comes out would not lead back; the error lists all.
      TiedTensorsError: if leaves that go into one tensor differ.
      MappingRuleError: if a rule cannot be read backwards.
      MissingPackageError: if PyTorch is asked for and not installed.
      UnmatchedRuleError: if a pattern of ``ignore`` matches no leaf.

    Example:
      >>> import numpy as np
      >>> from batiste import importers
      >>> head = {"kernel": np.ones((3, 2)), "bias": np.ones(2)}
      >>> rules = [("out", "params/head", importers.Linear())]
      >>> weights = importers.to_torch({"params": {"head": head}}, rules)
      >>> {name: weight.shape for name, weight in weights.items()}
      {'out.weight': (2, 3), 'out.bias': (2,)}
    """
    torch = _torch() if choice(tensors, "tensors", "to_torch", ("numpy", "torch")) == "torch" else None
    rules = compile_mapping(mapping)
    for compiled in rules:
        compiled.check_backwards()
    several = ignore if isinstance(ignore, list | tuple) else (ignore,)
    patterns = [compile_pattern(cast("PatternLike", pattern)) for pattern in several]
    found = target_leaves(variables)
    idle = [f"  ignore={pattern.source!r}" for pattern in patterns if not any(map(pattern.matches, found))]
    if idle:
        raise UnmatchedRuleError(source="The tree", lines="\n".join(idle))
    leaves = {
        path: bare(leaf) for path, leaf in found.items() if not any(pattern.matches(path) for pattern in patterns)
    }
    export = _Export(leaves)
    for compiled in rules:
        export.take(compiled)
    for compiled in rules:
        export.repeat(compiled)
    export.check(rules)
    return {name: array if torch is None else _tensor(torch, array) for name, array in export.tensors.items()}


class _Export:
    """A state dict while it is made."""

    def __init__(self, leaves: Mapping[str, Any]) -> None:
        self.leaves = leaves
        self.tensors: dict[str, Any] = {}
        self.problems: list[str] = []
        self.taken: set[str] = set()
        self.sources: dict[str, tuple[str, ...]] = {}

    def take(self, compiled: Compiled) -> None:
        """Make the tensors of a rule's layers."""
        if compiled.target is None:
            return
        backwards = compiled.target.backwards(compiled.pattern)
        parts = compiled.rule.layout.parts()
        layers: dict[str, str] = {}
        for path in self.leaves:
            for base in _bases(path, parts):
                found = backwards.fullmatch(base)
                if found is not None:
                    names = {int(name[1:]): text.replace("/", ".") for name, text in found.groupdict().items()}
                    layers.setdefault(base, compiled.pattern.fill(names))
        for base, layer in layers.items():
            for part in parts:
                self._make(base, layer, part, type(compiled.rule.layout).__name__, tied=compiled.rule.tied)

    def repeat(self, compiled: Compiled) -> None:
        """Give the tensors that a rule drops as another name of a tensor that name again."""
        if compiled.target is not None or compiled.same_as is None:
            return
        captures = compiled.same_as.backwards(compiled.pattern)
        for name in list(self.tensors):
            found = captures.fullmatch(name)
            if found is not None:
                again = {int(group[1:]): text for group, text in found.groupdict().items()}
                self.tensors[compiled.pattern.fill(again)] = self.tensors[name]

    def check(self, rules: Sequence[Compiled]) -> None:
        """Refuse what would not come back as it was."""
        self.problems += [
            f"  {path}: {_text(leaf)}, no rule leads to it"
            for path, leaf in self.leaves.items()
            if path not in self.taken
        ]
        if not self.problems:
            back = resolve(self.tensors, rules)
            for step in back.steps:
                for leaf in step.leaves:
                    if leaf not in self.taken:
                        self.problems.append(f"  {', '.join(step.tensors)} would become {leaf}, which is not there")
            made = {leaf for step in back.steps for leaf in step.leaves}
            self.problems += [
                f"  {path}: the rules do not lead back to it from {', '.join(self.sources[path])}"
                for path in sorted(self.taken - made)
            ]
        if self.problems:
            raise ExportMismatchError(count=len(self.problems), lines="\n".join(self.problems))

    def _make(self, base: str, layer: str, part: Part, layout: str, *, tied: bool) -> None:
        paths = [leaf_path(base, leaf, part.collection) for leaf in part.leaves]
        here = [path for path in paths if path in self.leaves]
        free = [path for path in here if path not in self.taken]
        if not free:
            return
        if len(free) < len(paths):
            gone = next(path for path in paths if path not in free)
            why = f"{gone} is taken by another rule" if gone in self.taken else f"there is no {gone}"
            self.problems.append(f"  {', '.join(free)}: {layout} needs more: {why}")
            self.taken.update(free)
            return
        arrays = [_array(self.leaves[path]) for path in paths]
        if not part.takes([array.shape for array in arrays]):
            return
        self.taken.update(paths)
        names = tuple(join_name(layer, tensor) for tensor in part.tensors)
        self.sources.update(dict.fromkeys(paths, names))
        try:
            made = part.backward(arrays)
        except (Misfit, TypeError, ValueError) as error:
            reason = str(error) if isinstance(error, Misfit) else "its shape is not one that the layout makes"
            self.problems.append(f"  {', '.join(f'{path} {_text(self.leaves[path])}' for path in paths)}: {reason}")
            return
        for name, array in zip(names, made, strict=True):
            known = self.tensors.get(name)
            if known is None:
                self.tensors[name] = np.array(array, order="C")
            elif not tied:
                self.problems.append(f"  {', '.join(paths)}: {name} is made of other leaves already")
            elif not np.array_equal(known, array, equal_nan=True):
                raise TiedTensorsError(lines=f"  {', '.join(paths)} and what {name} is made of: the values differ")


def _bases(path: str, parts: Sequence[Part]) -> list[str]:
    """The layers that a leaf may belong to, by the paths that a rule would name."""
    found: list[str] = []
    for part in parts:
        for leaf in part.leaves:
            if leaf == "":
                found.append(path)
            elif path == leaf or path.endswith(f"/{leaf}"):
                base = path[: -len(leaf)].rstrip("/")
                if part.collection is None:
                    found.append(base)
                elif base == part.collection or base.startswith(f"{part.collection}/"):
                    inner = base[len(part.collection) :].lstrip("/")
                    found += [f"params/{inner}".rstrip("/"), inner]
    return found


def _array(leaf: Any) -> Any:
    return leaf.read() if isinstance(leaf, LazyArray) else np.asarray(leaf)


def _text(leaf: Any) -> str:
    return (
        f"{getattr(leaf.dtype, 'name', leaf.dtype)}{list(leaf.shape)}"
        if hasattr(leaf, "shape")
        else type(leaf).__name__
    )


def _torch() -> Any:
    if importlib.util.find_spec("torch") is None:
        raise MissingPackageError(purpose="Returning PyTorch's tensors", package="torch", install="torch")
    return importlib.import_module("torch")


def _tensor(torch: Any, array: Any) -> Any:
    kind = getattr(torch, array.dtype.name)
    raw = np.frombuffer(bytearray(array.tobytes()), np.uint8)
    return torch.from_numpy(raw).view(kind).reshape(array.shape)
