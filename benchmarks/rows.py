"""The rows of the benchmark: what each measures, on which model, who takes part, and the bar it is held against.

A `Row` with ``base`` has its ratios taken to that contender. A `Bar` is a limit on a median of ratios: a figure of one
contender to the same figure of another, in this row or in another one, or to another figure of its own.
"""

import dataclasses
import fnmatch
from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.models.contract import Spec, mlp, resnet, transformer

LIBRARIES = ("raw", "batiste", "linen", "nnx", "haiku", "equinox")
REPEATS = ("repeat_loop", "repeat_scan", "repeat_stacked")
RESNET_50 = resnet((3, 4, 6, 3))
SMALL_RESNET = resnet((1, 1), width=8, size=32, classes=10)


@dataclasses.dataclass(frozen=True)
class Bar:
    """A limit on a median of ratios.

    Attributes:
      figure: which figure is held.
      limit: the ratio that is still met.
      against: the contender that the ratio is taken to; "" for another figure of the same contender.
      contender: who is held.
      other: the figure of ``against``, where it has another name.
      row: the row of ``against``, where it is another one.
      words: what the ratio is taken to, for people.
    """

    figure: str
    limit: float
    against: str = "raw"
    contender: str = "batiste"
    other: str = ""
    row: str = ""
    words: str = ""


@dataclasses.dataclass(frozen=True)
class Row:
    """One row: a name for the command line, a title for people, and all that its workers are told.

    Attributes:
      name: its name on the command line, and its file among the results.
      title: its name for people.
      measure: a name of `benchmarks.measures.MEASURES`.
      figures: which figures the table shows.
      spec: the model; None for what needs none.
      quick: the small model of ``--quick``, and of the check of gradients.
      bars: the limits it is held to.
      contenders: who takes part.
      long: who takes part only with ``--long``: what compiles for minutes.
      base: whom ratios are taken to.
      repeats: how often a worker repeats what is warm.
      environment: variables that its workers have beside the usual.
    """

    name: str
    title: str
    measure: str
    figures: tuple[str, ...]
    spec: Spec | None = None
    quick: Spec | None = None
    bars: tuple[Bar, ...] = ()
    contenders: tuple[str, ...] = LIBRARIES
    long: tuple[str, ...] = ()
    base: str = "raw"
    repeats: int = 5
    environment: tuple[tuple[str, str], ...] = ()


def _init_rows() -> list[Row]:
    rows: list[Row] = []
    programs = Bar("programs", 1.0, "", other="initialisers", words="distinct initialisers")
    for name, title, spec, quick, held in (
        ("24", "24 blocks", transformer(24), transformer(2, 16), False),
        ("48", "48 blocks", transformer(48), transformer(2, 16), True),
        ("resnet", "ResNet-50", RESNET_50, SMALL_RESNET, False),
    ):
        bars = [programs]
        if held:
            bars += [
                Bar("init", 1 / 4, "linen"),
                Bar("init", 1 / 15, "linen", row=f"init_jit_{name}", words="Linen under jit"),
            ]
        rows.append(Row(f"init_{name}", f"cold init, {title}", "init", ("init", "programs"), spec, quick, tuple(bars)))
        bars = [Bar("init", 1 / 15, "linen")] if held else []
        under_jit = f"cold init under jit, {title}"
        rows.append(Row(f"init_jit_{name}", under_jit, "init_jit", ("init", "programs"), spec, quick, tuple(bars)))
    return rows


def _trace_rows() -> list[Row]:
    rows: list[Row] = []
    for name, title, spec, quick, apply_limit, grad_limit in (
        ("mlp_100", "100 Dense", mlp(100), mlp(3), 1.3, None),
        ("resnet", "ResNet-50", RESNET_50, SMALL_RESNET, None, None),
        ("24", "24 blocks", transformer(24), transformer(2, 16), None, None),
        ("48", "48 blocks", transformer(48), transformer(2, 16), 1.0, 1.0),
    ):
        for kind, words, limit in (("apply", "apply", apply_limit), ("grad", "the gradient", grad_limit)):
            bars = () if limit is None else (Bar("trace", limit),)
            shown = ("trace", "equations")
            rows.append(
                Row(f"trace_{kind}_{name}", f"trace of {words}, {title}", f"trace_{kind}", shown, spec, quick, bars)
            )
    return rows


def _repeat_rows() -> list[Row]:
    """Return the rows by depth: the training step over a hand-written scan, and one block traced once."""
    spec, quick = transformer(48), transformer(3, 16)
    shown, contenders = ("trace", "equations"), ("raw", "repeat_loop", "repeat_scan")
    rows = [
        Row(
            "trace_repeat_apply_48",
            "trace of apply, 48 blocks, Repeat",
            "trace_apply",
            shown,
            spec,
            quick,
            (),
            contenders,
        ),
        Row(
            "trace_repeat_grad_48",
            "trace of the gradient, 48 blocks, Repeat",
            "trace_grad",
            shown,
            spec,
            quick,
            (Bar("trace", 0.4, contender="repeat_loop", words="raw JAX's loop"),),
            contenders,
        ),
    ]
    unrolled = ("raw", "batiste", "repeat_loop")
    for depth in (12, 24, 48, 96):
        bars: list[Bar] = []
        if depth == 48:
            bars = [
                Bar("compile", 1.3, "raw_scan", "repeat_scan", words="the hand-written scan"),
                Bar("compile", 1.3, "raw_scan", "repeat_stacked", words="the hand-written scan"),
                Bar("run", 1.05, "raw_scan", "repeat_stacked", words="the hand-written scan"),
                Bar("run", 1.05, "batiste", "repeat_stacked", words="unrolled"),
            ]
        if depth == 96:
            bars = [
                Bar("compile", 1.1, name, name, row="depth_48", words="48 blocks")
                for name in ("repeat_scan", "repeat_stacked")
            ]
        if depth in {24, 48}:
            bars.append(Bar("run", 1.0, "raw", "repeat_scan", words="unrolled"))
        always = unrolled if depth == 12 else ()
        rows.append(
            Row(
                f"depth_{depth}",
                f"training step, {depth} blocks",
                "step",
                ("trace", "lower", "compile", "run", "instructions"),
                transformer(depth),
                quick,
                tuple(bars),
                ("raw_scan", *always, "repeat_scan", "repeat_stacked"),
                unrolled if depth in {24, 48} else (),
                base="raw_scan",
            )
        )
    return rows


def _call_rows() -> list[Row]:
    return [
        Row("eager_mlp_10", "eager apply, 10 Dense", "eager", ("call",), mlp(10), mlp(3), (Bar("call", 1.0),)),
        Row("call_100", "jitted call, 100 leaves", "call", ("call",), mlp(50, 1), mlp(3, 1)),
        Row("call_1000", "jitted call, 1,000 leaves", "call", ("call",), mlp(500, 1), mlp(3, 1), (Bar("call", 1.05),)),
        Row("train_state", "step with TrainState, 200 leaves", "train_state", ("run",), mlp(100), mlp(3)),
    ]


def _every_row() -> tuple[Row, ...]:
    step = ("trace", "lower", "compile", "run", "instructions")
    return (
        Row(
            "import",
            "import of the layers (batiste.nn, flax.linen, ...)",
            "import",
            ("import", "named"),
            bars=(Bar("import", 1.05, words="import jax"),),
        ),
        *_init_rows(),
        Row(
            "init_peak",
            "peak bytes of init, 50 million parameters",
            "peak",
            ("peak",),
            transformer(4, 1024),
            transformer(1, 64),
            (Bar("peak", 1.0, "", other="allowed", words="variables + the largest leaf"),),
            environment=(("MALLOC_MMAP_THRESHOLD_", "65536"), ("MALLOC_TRIM_THRESHOLD_", "65536")),
        ),
        *_trace_rows(),
        *_call_rows(),
        Row(
            "step_12",
            "training step, 12 blocks, unrolled",
            "step",
            step,
            transformer(12),
            transformer(2, 16),
            (Bar("instructions", 1.0),),
        ),
        *_repeat_rows(),
    )


ROWS = _every_row()


class Program(NamedTuple):
    """A row that is a program of its own, ``benchmarks/NAME.py`` or ``benchmarks/FILE.py``.

    Attributes:
      title: what it measures.
      full: its options.
      quick: its options for a quick run.
      has_rounds: whether it can repeat what it measures.
      is_long: whether it runs only with ``--long``, or by its name.
      file: the name of the program, where it is not that of the row.
    """

    title: str
    full: tuple[str, ...] = ()
    quick: tuple[str, ...] = ("--quick",)
    has_rounds: bool = False
    is_long: bool = False
    file: str = ""


PROGRAMS = {
    "checkpoint": Program("saving and restoring", ("--size-mb", "400"), ("--size-mb", "8"), has_rounds=True),
    "leaves": Program("a state of many leaves", has_rounds=True),
    "overhead": Program("the training loop over the bare step"),
    "kills": Program("a run that is ended at random moments", quick=("--ways", "kill=2", "signal=1")),
    "pipeline": Program("layers in stages, beside the same by hand"),
    "processes": Program(
        "a state that 1, 2 and 4 processes save and restore",
        ("--size-mb", "1024"),
        ("--size-mb", "32", "--processes", "1", "2"),
        has_rounds=True,
    ),
    "plans": Program("plans of 70 and 405 billion parameters"),
    "plans_compiled": Program(
        "a plan of 70 billion parameters, compiled",
        ("--compile",),
        ("--compile", "--quick"),
        is_long=True,
        file="plans",
    ),
    "large": Program("one checkpoint of 10 GB", ("--gb", "10"), ("--gb", "0.25"), is_long=True),
}


def programs(patterns: Sequence[str], *, long: bool) -> list[str]:
    """Return the programs whose names match one of ``patterns``, or all but the long ones if there is none."""
    if not patterns:
        return [name for name, program in PROGRAMS.items() if long or not program.is_long]
    return [name for name in PROGRAMS if any(fnmatch.fnmatch(name, pattern) for pattern in patterns)]


def selected(patterns: Sequence[str]) -> list[Row]:
    """Return the rows whose names match any of the patterns, all of them for none."""
    return [row for row in ROWS if not patterns or any(fnmatch.fnmatch(row.name, each) for each in patterns)]


def partners(row: Row, peers: Sequence[str], *, long: bool) -> list[str]:
    """Return who takes part in a row, of the peers that are asked for: raw JAX and batiste always do."""
    wanted = row.contenders + (row.long if long else ())
    return [name for name in wanted if name in {"raw", "raw_scan", "batiste", *REPEATS} or name in peers]
