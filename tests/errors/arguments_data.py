"""The rows of ``batiste.importers``, ``batiste.struct`` and what is left of ``batiste.tree``: weights as data."""

import dataclasses
import functools
import tempfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from batiste import importers, struct, tree
from batiste.importers import pretrained
from tests.errors.domains import (
    COUNT,
    COUNT_OR_NONE,
    DTYPE,
    FLAG,
    FUNCTION_REQUIRED,
    SIZE,
    TREE,
    Anything,
    Domain,
    Row,
    choice,
    integers_of,
    open_to,
)

NAN = float("nan")
MATRIX = np.ones((2, 3))
STATE = {"fc.weight": np.ones((3, 4), np.float32), "fc.bias": np.zeros(3, np.float32)}
TARGET = {"params": {"fc": {"kernel": jnp.zeros((4, 3)), "bias": jnp.zeros(3)}}}
MAPPING = [("fc", "params/fc", importers.Linear())]

SOURCE = Domain((3, None, 1.5, "", "nowhere.pt", True, Anything(), {"fc": Anything()}))
MAPPINGS = Domain((
    3, None, "fc", True, {}, [3], [None], [("fc",)], [("fc", 3)], [(3, "params/fc")], [("fc", "params/fc", "Linear")],
    [("fc", "params/fc", importers.Linear)], [("[", "params/fc")], [("nothing", "params/fc")], Anything(), [("", "")],
))  # fmt: skip
PATTERNS = Domain((3, None, True, [3], Anything(), b"fc", ["nowhere"], {"fc": 1}))
STRIP = Domain((3, None, True, [3], Anything(), "module."))
NESTED = Domain((3, 1.5, True, "nowhere", Anything(), MATRIX))
IMPORT = {
    "source": SOURCE,
    "target": Domain((3, "params", Anything(), [], MATRIX)),
    "mapping": MAPPINGS,
    "ignore": PATTERNS,
    "keep": PATTERNS,
    "dtype": Domain((3, True, None, "ERROR", "nothing", "", Anything(), "flaot32")),
    "nested": NESTED,
    "strip": STRIP,
}
HEADS = {"heads": COUNT_OR_NONE, "transposed": FLAG}
DIRECTION = {"layer": Domain((*(one for one in SIZE.wrong if one is not None),), integers_of), "reverse": FLAG}
SHAPE = Domain((1.5, True, "1", NAN, None, MATRIX, Anything(), (1, 2.0), (2, "2"), (2, True), (2, -1)), integers_of)
ANY_NAME = Domain((3, 1.5, None, Anything(), MATRIX, True))
TEXT_NAME = Domain((3, 1.5, None, "", Anything(), MATRIX, True))
NAME_OR_NONE = Domain(tuple(one for one in ANY_NAME.wrong if one is not None))


def loaded(path="mapping.json"):
    """Load a mapping that was written."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder, "mapping.json")
        place.write_text(importers.dump_mapping(MAPPING), encoding="utf-8")
        return importers.load_mapping(place if path == "mapping.json" and type(path) is str else path)


IMPORTER_ROWS = {
    "from_torch": Row(importers.from_torch, {"source": STATE, "target": TARGET, "mapping": MAPPING}, IMPORT),
    "plan_import": Row(
        importers.plan_import,
        {"source": STATE, "target": TARGET, "mapping": MAPPING},
        {**IMPORT, "target": open_to("what does not fit is a line of the report")},
    ),
    "suggest_mapping": Row(
        importers.suggest_mapping,
        {"source": STATE, "target": TARGET},
        {"target": Domain((3, "params", Anything())), **{name: IMPORT[name] for name in ("source", "nested", "strip")}},
    ),
    "to_torch": Row(
        importers.to_torch,
        {"variables": TARGET, "mapping": MAPPING},
        {
            "variables": Domain((3, "params", Anything(), MATRIX)),
            "mapping": MAPPINGS,
            "ignore": PATTERNS,
            "tensors": choice("numpy"),
        },
    ),
    "dump_mapping": Row(
        importers.dump_mapping,
        {"mapping": MAPPING},
        {
            "mapping": Domain(
                tuple(
                    one
                    for one in MAPPINGS.wrong
                    if one not in ([("nothing", "params/fc")], [("[", "params/fc")], [("", "")])
                )
            )
        },
    ),
    "load_mapping": Row(
        loaded, {}, {"path": Domain((3, 1.5, None, "", b"m.json", True, Anything(), "nowhere.json", "a\0b"))}
    ),
    "Rule": Row(
        lambda **given: importers.dump_mapping([importers.Rule(**given)]),
        {"source": "fc", "target": "params/fc"},
        {
            "source": ANY_NAME,
            "target": NAME_OR_NONE,
            "layout": Domain((3, None, "Linear", importers.Linear, Anything())),
            "optional": FLAG,
            "tied": FLAG,
            "same_as": NAME_OR_NONE,
        },
    ),
    "Attention": Row(importers.Attention, {"heads": 2}, {"heads": COUNT_OR_NONE}),
    **{
        name: Row(getattr(importers, name), {"heads": 2}, HEADS)
        for name in ("AttentionIn", "AttentionOut", "FusedAttentionIn")
    },
    **{name: Row(getattr(importers, name), {"layer": 1}, DIRECTION) for name in ("Gru", "Lstm", "Rnn")},
    **{
        name: Row(getattr(importers, name), {}, {})
        for name in ("Conv", "Embedding", "Identity", "LayerNorm", "Layout", "PReLU")
    },
    "Linear": Row(importers.Linear, {}, {"transposed": FLAG}),
    "ConvTranspose": Row(importers.ConvTranspose, {"groups": 2}, {"transpose_kernel": FLAG, "groups": COUNT}),
    "BatchNorm": Row(importers.BatchNorm, {}, {"collection": TEXT_NAME}),
    "FlattenLinear": Row(importers.FlattenLinear, {"shape": (2, 3)}, {"shape": SHAPE}),
    "Reshape": Row(importers.Reshape, {"original": (2, 3), "shape": (6,)}, {"original": SHAPE, "shape": SHAPE}),
    "Transpose": Row(
        importers.Transpose,
        {"axes": (1, 0)},
        {
            "axes": Domain(
                (1.5, True, "10", NAN, MATRIX, Anything(), (0, 1.0), (0, "1"), (0, True), (0, 0)), integers_of
            )
        },
    ),
    "WeightNorm": Row(
        importers.WeightNorm,
        {"dim": 0},
        {
            "layout": Domain((3, None, "Linear", importers.Linear, Anything())),
            "tensor": TEXT_NAME,
            "dim": Domain((1.5, True, "1", NAN, MATRIX, Anything()), integers_of),
        },
    ),
    "pretrained.ready_mapping": Row(
        pretrained.ready_mapping,
        {"name": "minilm"},
        {"name": Domain((3, None, "", "mini", "MINILM", Anything(), MATRIX, True))},
    ),
}


@functools.cache
def adapters():
    """Return adapters of low rank for the target."""
    import jax

    return tree.lora_init(jax.random.key(0), TARGET, "**/kernel", 2)


def lazy(**given):
    """Make a lazy array, and read it."""
    usual = {"shape": (2, 3), "dtype": np.float64, "read": lambda index: MATRIX}
    return tree.LazyArray(**{**usual, **given}).read()


TREES = Domain((3, None, "trees", [], [TARGET, {"params": {}}], [TARGET, 3], Anything()))
NUMBER = Domain(("0.5", None, Anything(), {}, len, "half"))
TREE_ROWS = {
    "average": Row(
        tree.average,
        {"trees": [TARGET, TARGET]},
        {
            "trees": TREES,
            "weights": Domain(
                (3, "ab", [1.0], [1.0, "b"], [1.0, None], [0.0, 0.0], [NAN, 1.0], {"a": 1.0}, Anything())
            ),
        },
    ),
    "interpolate": Row(
        tree.interpolate,
        {"first": TARGET, "second": TARGET, "weight": 0.5},
        {"first": TREE, "second": Domain(({"params": {}}, 3, None)), "weight": NUMBER},
    ),
    "add_scaled": Row(
        tree.add_scaled,
        {"tree": TARGET, "other": TARGET, "scale": 0.5},
        {"tree": TREE, "other": Domain(({"params": {}}, 3, None)), "scale": NUMBER},
    ),
    "lora_merge": Row(
        lambda **given: tree.lora_merge(**{"adapters": adapters(), **given}),
        {"params": TARGET},
        {
            "params": Domain((3, None, {}, {"params": {}})),
            "adapters": Domain((3, {"a": MATRIX}, "adapters")),
            "alpha": Domain(("1", Anything(), {}, len)),
        },
    ),
    "LazyArray": Row(lazy, {"shape": (2, 3)}, {"shape": SHAPE, "dtype": DTYPE, "read": FUNCTION_REQUIRED}),
    "cast_loss": Row(
        tree.cast_loss,
        {"array": MATRIX, "dtype": np.dtype("float16")},
        {"array": open_to("any array of NumPy or JAX"), "dtype": DTYPE},
    ),
    "path_string": Row(
        tree.path_string, {"key_path": ()}, {"key_path": open_to("a key path of JAX, whatever its entries are")}
    ),
}


@dataclasses.dataclass
class Plain:
    """Made a pytree by each row anew."""

    x: int = 0


STRUCT_ROWS = {
    "dataclass": Row(
        lambda **given: struct.dataclass(given.get("cls", type("One", (), {"__annotations__": {"x": int}}))),
        {},
        {
            "cls": Domain((3, "One", MATRIX, {}, len)),
            "options": open_to("those of dataclasses.dataclass, which names in its own errors what it does not take"),
        },
    ),
    "field": Row(
        struct.field,
        {},
        {
            "pytree_node": FLAG,
            "metadata": Domain((3, "a", [1], MATRIX)),
            "options": open_to("those of dataclasses.field, likewise"),
        },
    ),
}
