"""Where the time of a run goes: seconds, FLOP/s and memory by module path, the passes apart.

The model (and its gradient), or a training step, is compiled with marks (``_program.py``) and run a few times under
``jax.profiler``. The trace says how long each operation of the compiled program took (``_timeline.py``), the program
from which module it comes (``_compiled.py``), and the shared count of products how many FLOPs the module has.

Nothing is dropped: what is of no module, of no known operation, or between operations has rows of its own, in brackets,
and all rows together are the time of a run. What was measured is the marked program, which is the same as the one
without marks but for the names in it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import tempfile
from collections.abc import Callable, Generator, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, cast

import jax

from batiste._arguments import function as checked
from batiste._arguments import path as checked_path
from batiste._arguments import whole_number
from batiste.core import call_jaxpr
from batiste.diagnose._compiled import Compiled, read_compiled
from batiste.diagnose._findings import html_table
from batiste.diagnose._flame import Bar, flame
from batiste.diagnose._flops import costed
from batiste.diagnose._gradient import with_gradient
from batiste.diagnose._program import Call, Calls, Place, Program, path_text, subject_of, trace
from batiste.diagnose._timeline import IDLE, WINDOW, Event, read_trace, shared_out, trace_files
from batiste.errors import ProfilerBusyError

__all__ = ["Profile", "ProfileRow", "profile"]

PassName: TypeAlias = Literal["forward", "backward", "recomputed", ""]
"""Which pass something belongs to; "" for what belongs to none."""

OUTSIDE: Final = "[outside of modules]"
UNKNOWN: Final = "[unknown operation]"
BETWEEN: Final = "[no operation]"

_PASSES: Final = ("forward", "backward", "recomputed")
_HEADER: Final = ("path", "module", *_PASSES, "share", "FLOPs", "FLOP/s", "at the peak")


@dataclasses.dataclass(frozen=True)
class ProfileRow:
    """One module in one pass, without the modules below it.

    Attributes:
      path: the path of the module; "" is the outermost. In brackets it is what belongs to no module:
        ``[outside of modules]`` (a loss, an optimiser), ``[unknown operation]`` (nobody knows where it comes from),
        ``[no operation]`` (the time in which none was running).
      kind: the module's class; "" where there is none.
      which: ``"forward"``, ``"backward"``, ``"recomputed"`` (what ``remat`` computes again), or "".
      seconds: of one run, by the clock.
      flops: of matrix products and convolutions in one run.
      peak_bytes: of its results that are alive when most memory is in use, as the compiled program orders it.

    Example:
      >>> from batiste.diagnose import ProfileRow
      >>> row = ProfileRow("mlp/up", "Dense", "forward", 0.5, flops=100, peak_bytes=24)
      >>> row.is_module, row.flops_per_second
      (True, 200.0)
    """

    path: str
    kind: str
    which: PassName
    seconds: float
    flops: int
    peak_bytes: int

    @property
    def is_module(self) -> bool:
        """Whether it is a module, and not what belongs to none."""
        return not self.path.startswith("[")

    @property
    def flops_per_second(self) -> float:
        """The FLOP/s that it achieved; 0 where no time was measured."""
        return self.flops / self.seconds if self.seconds else 0.0


@dataclasses.dataclass(frozen=True)
class Profile:
    """Where the time of a run goes; as text a table, in a notebook a table and a picture.

    Attributes:
      name: what was run.
      device: on what.
      runs: how many runs were measured; every number is of one.
      seconds: how long a run took by the clock, from its call until its results are there.
      rows: the modules and passes, and what belongs to none. Their seconds add up to ``seconds``.
      temporary_bytes: what the compiler says that it needs between arguments and results, and for the results.

    Example:
      >>> from batiste.diagnose import Profile, ProfileRow
      >>> layer = ProfileRow("up", "Dense", "forward", 0.5, flops=100, peak_bytes=24)
      >>> idle = ProfileRow("[no operation]", "", "", 0.25, flops=0, peak_bytes=0)
      >>> found = Profile("Mlp", "cpu", 1, 0.75, (layer, idle), temporary_bytes=24)
      >>> found.attributed, found.unattributed, found.by_path()["up"]
      (0.5, 0.25, {'forward': 0.5})
    """

    name: str
    device: str
    runs: int
    seconds: float
    rows: tuple[ProfileRow, ...]
    temporary_bytes: int

    @property
    def flops(self) -> int:
        """The FLOPs of one run."""
        return sum(row.flops for row in self.rows)

    @property
    def attributed(self) -> float:
        """The seconds of a run that belong to modules."""
        return sum(row.seconds for row in self.rows if row.is_module)

    @property
    def unattributed(self) -> float:
        """The seconds of a run that belong to none."""
        return sum(row.seconds for row in self.rows if not row.is_module)

    def by_path(self, depth: int | None = None) -> dict[str, dict[str, float]]:
        """Return for each path the seconds of each pass, with all modules below it; the outermost module is "".

        Args:
          depth: how many names a path has at most; None for any.

        Raises:
          ArgumentError: ``depth`` is no number of levels.
        """
        depth = None if depth is None else whole_number(depth, "depth", "by_path")
        found: dict[str, dict[str, float]] = {}
        for row in self.rows:
            for path in _above(row.path) if depth is None else _above(row.path)[: depth + 1]:
                passes = found.setdefault(path, {})
                passes[row.which] = passes.get(row.which, 0.0) + row.seconds
        return dict(sorted(found.items(), key=lambda each: (each[0].startswith("["), each[0].split("/"))))

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain dicts and lists, which ``json.dumps`` takes."""
        rows = [{**dataclasses.asdict(row), "flops_per_second": row.flops_per_second} for row in self.rows]
        whole = {"seconds": self.seconds, "attributed": self.attributed, "unattributed": self.unattributed}
        named = {"name": self.name, "device": self.device, "runs": self.runs, "flops": self.flops}
        return {**named, **whole, "temporary_bytes": self.temporary_bytes, "rows": rows}

    def to_svg(self) -> str:
        """Return a picture: the modules as bars under each other, as wide as the time that they took."""
        bars = [
            Bar((self.name, *filter(None, row.path.split("/"))), row.which, row.seconds)
            for row in self.rows
            if row.seconds > 0
        ]
        return flame(bars, self.seconds, f"{self.name}: {_time(self.seconds)} on {self.device}")

    def __str__(self) -> str:
        lines = [_HEADER, *self._cells()]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        table = [
            "  ".join(
                cell.ljust(width) if place < 2 else cell.rjust(width)
                for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
            ).rstrip()
            for cells in lines
        ]
        return "\n".join([self._headline(), *table])

    def _repr_html_(self) -> str:
        return f"{self.to_svg()}{html_table(self._headline(), _HEADER, self._cells())}"

    def _headline(self) -> str:
        share = self.attributed / self.seconds if self.seconds else 0.0
        rate = self.flops / self.seconds if self.seconds else 0.0
        return (
            f"{self.name} on {self.device}: {_time(self.seconds)} a run (mean of {self.runs}), {share:.0%} of it in "
            f"modules, {_number(rate)}FLOP/s, {_number(self.temporary_bytes)}B between arguments and results"
        )

    def _cells(self) -> list[tuple[str, ...]]:
        """The rows of the table, each with all that is below it, the longest first among siblings."""
        times = self.by_path()
        kinds = {row.path: row.kind for row in self.rows}
        flops: dict[str, int] = {}
        peaks: dict[str, int] = {}
        for row in self.rows:
            for path in _above(row.path):
                flops[path] = flops.get(path, 0) + row.flops
                peaks[path] = peaks.get(path, 0) + row.peak_bytes
        cells: list[tuple[str, ...]] = []
        for path in _ordered(times):
            passes = times[path]
            spent = sum(passes.values())
            rate = flops[path] / spent if spent else 0.0
            named = path or ("(all modules)" if not kinds.get("") else kinds[""])
            cells.append(
                (
                    "  " * (path.count("/") + bool(path) if not path.startswith("[") else 0)
                    + (path.rpartition("/")[2] or named),
                    kinds.get(path, ""),
                    *(_time(passes[which]) if passes.get(which) else "" for which in _PASSES),
                    f"{spent / self.seconds:.1%}" if self.seconds else "",
                    f"{_number(flops[path])}" if flops[path] else "",
                    f"{_number(rate)}" if flops[path] else "",
                    f"{_number(peaks[path])}B" if peaks[path] else "",
                )
            )
        return cells


def profile(
    model: Any,
    variables: Any,
    *inputs: Any,
    loss: Callable[..., Any] | None = None,
    backward: bool = True,
    runs: int = 5,
    folder: Any = None,
    rngs: Any = None,
    mutable: Any = None,
    method: Any = None,
    **kwargs: Any,
) -> Profile:
    """Run a model or a training step under JAX's profiler, and return where its time goes by module path.

    It is compiled and run once before it is measured. A short run, or one on a machine with other work, has times that
    differ from run to run by more than small modules take; ``runs`` makes a mean of more of them.

    Args:
      model: a module; or a function, such as a training step, which is run as it is.
      variables: the module's variables; or the function's first argument.
      *inputs: what the module or the function is called with.
      loss: for the backward pass, from the module's output to a number; by default the sum of all that is inexact.
      backward: whether gradients with respect to ``params`` are computed as well.
      runs: how many runs are measured.
      folder: where the trace is kept, for TensorBoard, XProf or Perfetto; by default nowhere.
      rngs: the random streams; those that are asked for and not given get a key.
      mutable: as for ``apply``; by default every collection given but ``params``.
      method: as for ``apply``.
      **kwargs: keyword arguments of the call.

    Raises:
      ArgumentError: ``model`` is no module and no function, or an argument is out of its domain.
      ProfilerBusyError: JAX's profiler is running already.

    Example:
      >>> import jax.numpy as jnp
      >>> from batiste.diagnose import profile
      >>> found = profile(lambda x: jnp.sin(x) @ x, jnp.ones((4, 4)), runs=1)
      >>> found.flops
      128
    """
    if loss is not None:
        checked(loss, "loss", "profile", what="a function of the output")
    count = whole_number(runs, "runs", "profile", low=1)
    place = None if folder is None else Path(checked_path(folder, "folder", "profile"))
    subject = subject_of(
        model, variables, inputs, rngs=rngs, mutable=mutable, method=method, kwargs=kwargs, where="profile"
    )
    function, _ = with_gradient(subject, loss, backward=backward)
    program = trace(function, subject.arguments, Calls(with_options=False))
    given: Any = jax.device_put(program.flat)  # once, and not in each run
    compiled = _compiled(program, given)
    jax.block_until_ready(compiled(*given))
    with _kept(place) as traces:
        before = trace_files(traces)
        with _profiler(traces):
            for _ in range(count):
                with jax.profiler.TraceAnnotation(WINDOW):
                    jax.block_until_ready(compiled(*given))
        windows, operations = read_trace(traces, before)
    rows = _rows(program, read_compiled(str(compiled.as_text())), windows, operations)
    seconds = sum(each.end - each.start for each in windows) / len(windows) / 1e9
    memory: Any = compiled.memory_analysis()
    needed = 0 if memory is None else int(memory.temp_size_in_bytes) + int(memory.output_size_in_bytes)
    device = str(cast("Any", jax.devices()[0]).device_kind)
    return Profile(subject.name, device, len(windows), seconds, rows, needed)


def _compiled(program: Program, given: Any) -> Any:
    """Return the traced program compiled for some arrays, marks and all.

    JAX's cache on the disk takes programs for equal that differ in marks alone, so that the program has a name that no
    other calls have.
    """

    def run(*arguments: Any) -> list[Any]:
        return call_jaxpr(program.closed, *arguments)

    told = repr([(call.path, call.kind, call.method, call.above) for call in program.calls])
    run.__name__ = f"profile_{hashlib.blake2s(told.encode(), digest_size=6).hexdigest()}"
    return cast("Any", jax.jit(run)).lower(*given).compile()


@contextlib.contextmanager
def _kept(place: Path | None) -> Generator[Path]:
    if place is not None:
        yield place
        return
    with tempfile.TemporaryDirectory(prefix="batiste-profile-") as folder:
        yield Path(folder)


@contextlib.contextmanager
def _profiler(folder: Path) -> Generator[None]:
    options: Any = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0  # an event for each call of a Python function, in the middle of what is measured
    try:
        jax.profiler.start_trace(str(folder), profiler_options=options)
    except RuntimeError as error:
        raise ProfilerBusyError(reason=str(error).splitlines()[0]) from error
    try:
        yield
    finally:
        jax.profiler.stop_trace()


class _Named:
    """The names of places: the path and the class of a call's module.

    Args:
      calls: the calls of the trace.
    """

    def __init__(self, calls: list[Call]) -> None:
        self.calls = calls
        roots = {call.number: call.kind if call.above is None else "" for call in self.calls}
        for call in self.calls:  # a call begins after the one that it is made in
            roots[call.number] = roots[call.number] or roots[call.above or 0]
        self.roots = roots
        self.has_several = len(set(roots.values())) > 1

    def of(self, place: Place | None) -> tuple[str, str, PassName]:
        """Return the path, the class and the pass of a place."""
        if place is None:
            return UNKNOWN, "", ""
        which = "recomputed" if place.is_recomputed else "backward" if place.is_backward else "forward"
        if place.call is None or place.call >= len(self.calls):
            return OUTSIDE, "", which
        call = self.calls[place.call]
        path = path_text(call.path)
        if self.has_several:  # two models in one step may have modules of one name
            path = "/".join(filter(None, (self.roots[call.number], path)))
        return path, call.kind, which


def _rows(
    program: Program, compiled: Compiled, windows: list[Event], operations: list[Event]
) -> tuple[ProfileRow, ...]:
    named, known, places = _Named(program.calls), compiled.operations, compiled.places
    spent = shared_out(windows, operations, lambda name: name in known and known[name].is_container)
    found: dict[tuple[str, PassName], list[Any]] = {}  # the class, seconds, FLOPs, bytes

    def add(place: tuple[str, str, PassName], index: int, amount: float) -> None:
        path, kind, which = place
        found.setdefault((path, which), [kind, 0.0, 0, 0])[index] += amount

    for name, nanoseconds in spent.items():
        at: tuple[str, str, PassName] = (BETWEEN, "", "") if name == IDLE else named.of(places.get(name))
        add(at, 1, nanoseconds / len(windows) / 1e9)
    for cost in costed(program.jaxpr):
        if cost.flops:
            add(named.of(cost.place), 2, cost.flops)
    for name, size in compiled.peak().items():
        add(named.of(places.get(name)), 3, size)
    return tuple(
        ProfileRow(path, kind, which, seconds, int(flops), int(size))
        for (path, which), (kind, seconds, flops, size) in sorted(found.items(), key=lambda each: _sorting(each[0]))
    )


def _sorting(key: tuple[str, str]) -> tuple[Any, ...]:
    path, which = key
    return path.startswith("["), path.split("/"), ("forward", "recomputed", "backward", "").index(which)


def _above(path: str) -> list[str]:
    """Return a path and those above it, the outermost first; what belongs to no module is beside them."""
    if path.startswith("["):
        return [path]
    names = path.split("/") if path else []
    return ["/".join(names[:length]) for length in range(len(names) + 1)]


def _ordered(times: Mapping[str, Mapping[str, float]]) -> Iterable[str]:
    """Return the paths, each before those below it, the longest times first."""
    below: dict[str, list[str]] = {}
    for path in times:
        if path and not path.startswith("["):
            below.setdefault(path.rpartition("/")[0], []).append(path)

    def walk(path: str) -> Iterable[str]:
        yield path
        for child in sorted(below.get(path, ()), key=lambda each: -sum(times[each].values())):
            yield from walk(child)

    beside = sorted((path for path in times if path.startswith("[")), key=lambda each: -sum(times[each].values()))
    return [*(walk("") if "" in times else ()), *beside]


def _time(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} us"


def _number(value: float) -> str:
    """Return a number with three digits and the letter of a power of a thousand."""
    for letter, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {letter}"
    return f"{value:.3g} "
