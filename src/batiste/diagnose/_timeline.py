"""The trace of a run as a timeline: how long each operation of the compiled program took.

``jax.profiler`` writes a file in which every event has a thread, a beginning and a length. Those of operations say
which (``hlo_op``), on the CPU as on a GPU. An operation of the CPU may end on another thread than it began on; an event
named ``end: ...`` with the same number then marks its end.

The time of a run is shared out without a rest: at every moment it belongs in equal parts to the operations that are
running; where only a loop or a call is, to that; where none is, to nobody (``IDLE``). Operations that run at the same
time on several threads so share the moment, and the parts add up to the whole.
"""

from __future__ import annotations

import heapq
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

import jax

__all__ = ["IDLE", "WINDOW", "Event", "events_of", "read_trace", "shared_out", "trace_files"]

WINDOW: Final = "batiste.profile"
"""The event of the host that lasts as long as one run."""

IDLE: Final = ""
"""Stands in the place of an operation where none is running."""

_END: Final = "end: "


class Event(NamedTuple):
    """Something that took time, in nanoseconds of the trace's clock.

    Attributes:
      name: the name of the operation.
      start: when it began.
      end: when it ended.
    """

    name: str
    start: float
    end: float


def trace_files(folder: Path) -> dict[Path, int]:
    """Return the files in which ``jax.profiler`` has written traces into a folder, with when they were written.

    It names them after the second, so that a second trace may take the place of the first.
    """
    return {file: file.stat().st_mtime_ns for file in folder.glob("**/*.xplane.pb")}


def read_trace(folder: Path, before: Mapping[Path, int]) -> tuple[list[Event], list[Event]]:
    """Return the runs that a trace holds, in order, and the operations in it.

    Args:
      folder: where ``jax.profiler`` has written.
      before: the files that were there before, as ``trace_files`` gives them.
    """
    windows: list[Event] = []
    operations: list[Event] = []
    with warnings.catch_warnings():
        # Its classes are made at their first use with a warning, which as an error ends the process (JAX 0.12).
        warnings.simplefilter("ignore", DeprecationWarning)
        for file, _ in sorted(trace_files(folder).items() - before.items()):
            data = cast("Any", jax.profiler.ProfileData).from_file(str(file))
            for plane in data.planes:
                found = events_of(plane)
                windows += found[0]
                operations += found[1]
    return sorted(windows, key=lambda each: each.start), operations


def events_of(plane: Any) -> tuple[list[Event], list[Event]]:
    """Return the runs and the operations of one plane of a trace: the host with its threads, or a device."""
    windows: list[Event] = []
    begun: list[tuple[Event, Any]] = []
    ended: dict[Any, float] = {}
    for line in plane.lines:
        for event in line.events:
            if event.name == WINDOW:
                windows.append(Event(WINDOW, event.start_ns, event.start_ns + event.duration_ns))
                continue
            stats = dict(event.stats)
            if event.name.startswith(_END) and "_c" in stats:
                ended[stats["_c"]] = event.start_ns
            elif "hlo_op" in stats:
                name = str(stats["hlo_op"])
                begun.append((Event(name, event.start_ns, event.start_ns + event.duration_ns), stats.get("_p")))
    operations = [
        event._replace(end=max(event.end, ended.get(number, event.end))) if number is not None else event
        for event, number in begun
    ]
    return windows, operations


def shared_out(
    windows: Sequence[Event], operations: Iterable[Event], is_container: Callable[[str], bool]
) -> Mapping[str, float]:
    """Return the nanoseconds of each operation within the windows; they add up to the length of the windows.

    Args:
      windows: the runs, in order and apart.
      operations: the operations of all of them.
      is_container: whether an operation only runs others.
    """
    spent: dict[str, float] = {}
    waiting = sorted(operations, key=lambda each: each.start)
    place = 0
    running: list[tuple[float, int, str]] = []  # a heap by the end
    counts: tuple[dict[str, int], dict[str, int]] = ({}, {})  # of operations, of containers
    for window in windows:
        now = window.start
        while now < window.end:
            while place < len(waiting) and waiting[place].start <= now:
                event = waiting[place]
                place += 1
                heapq.heappush(running, (event.end, place, event.name))
                held = counts[is_container(event.name)]
                held[event.name] = held.get(event.name, 0) + 1
            while running and running[0][0] <= now:
                name = heapq.heappop(running)[2]
                held = counts[is_container(name)]
                held[name] -= 1
                if not held[name]:
                    del held[name]
            ends = running[0][0] if running else window.end
            begins = waiting[place].start if place < len(waiting) else window.end
            until = min(window.end, ends, begins)
            _give(spent, counts[0] or counts[1], until - now)
            now = until
    return spent


def _give(spent: dict[str, float], running: Mapping[str, int], time: float) -> None:
    if not running:
        spent[IDLE] = spent.get(IDLE, 0.0) + time
        return
    whole = sum(running.values())
    for name, count in running.items():
        spent[name] = spent.get(name, 0.0) + time * count / whole
