"""Several processes of one program on this machine, with their output together, until all of them have ended.

Each process finds its number where JAX looks for that of Open MPI, so that a program says
``jax.distributed.initialize()`` and no more, here as on a cluster. The coordinator listens on the loopback address.

A trial ends as a cluster would end it: SIGTERM and Ctrl-C go to all processes; when one fails, the others have some
seconds to end by themselves, and are then ended. Processes that wait for each other hear no signal: JAX has taken
SIGTERM, and Python would take Ctrl-C after the wait. So a second one ends them at once.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any, Final, TextIO

from batiste._arguments import number, whole_number
from batiste.errors import LaunchError

__all__ = ["launch"]

_POLL: Final = 0.05  # seconds
_PATIENCE: Final = 5.0  # seconds from SIGTERM to SIGKILL
_SAME: Final = 0.2  # seconds within which a signal that comes again is the same one: shells send it twice


def launch(
    command: Sequence[str],
    *,
    processes: int = 2,
    devices: int | None = None,
    grace: float = 30.0,
    output: TextIO | None = None,
) -> int:
    """Run a Python program in several processes on this machine, and return when all of them have ended.

    Args:
      command: what follows ``python``: a script and its arguments, or ``-m`` and a module.
      processes: how many; a number from 1 on.
      devices: how many CPU devices each process has; None for as many as JAX gives it.
      grace: how many seconds the others have to end by themselves when one has failed.
      output: where their lines go, each with the number of its process; by default the standard output.

    Returns:
      0 where all have ended well, or else the status of the first that has not: 128 and the number of a signal where
      it was ended by one.

    Raises:
      LaunchError: if the program is not there.
      ArgumentError: if ``processes``, ``devices`` or ``grace`` are no such numbers.

    Example:
      >>> from batiste import launch  # doctest: +SKIP
      >>> launch.launch(["train.py", "--rate", "0.1"], processes=2)  # doctest: +SKIP
    """
    count = whole_number(processes, "processes", "launch()", low=1)
    each = None if devices is None else whole_number(devices, "devices", "launch()", low=1)
    seconds = float(number(grace, "grace", "launch()", low=0.0))
    _check_command(command)
    port = _free_port()
    out = sys.stdout if output is None else output
    lock = threading.Lock()
    running = [
        subprocess.Popen(  # noqa: S603 - the user's own program, and no shell
            [sys.executable, *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=_environment(rank, count, port, each),
            start_new_session=True,  # Ctrl-C of the terminal reaches them once, through this process
        )
        for rank in range(count)
    ]
    readers = [
        threading.Thread(target=_copy, args=(rank, process, out, lock), daemon=True)
        for rank, process in enumerate(running)
    ]
    try:
        with _forwarded(running):
            for reader in readers:
                reader.start()
            status = _wait(running, seconds, out, lock)
    finally:
        for process in running:
            if process.poll() is None:
                process.kill()
    for reader in readers:
        reader.join(timeout=_PATIENCE)
    return status


def _check_command(command: Sequence[str]) -> None:
    if isinstance(command, str) or not command:
        cure = 'Give a list of words: ["train.py", "--steps", "100"].'
        raise LaunchError(reason="there is no program to run" if not command else "it is one text", cure=cure)
    if command[0] != "-m" and not Path(command[0]).is_file():
        cure = f"Look for it from {Path.cwd()}; a module is run with `-m {command[0]}`."
        raise LaunchError(reason=f"there is no file {command[0]!r}", cure=cure)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _environment(rank: int, count: int, port: int, devices: int | None) -> dict[str, str]:
    address = f"127.0.0.1:{port}"
    found = {
        **os.environ,
        "JAX_COORDINATOR_ADDRESS": address,
        "JAX_COORDINATOR_BIND_ADDRESS": address,
        "OMPI_MCA_orte_hnp_uri": f"0.0;tcp://{address}",
        "OMPI_COMM_WORLD_SIZE": str(count),
        "OMPI_COMM_WORLD_RANK": str(rank),
        "OMPI_COMM_WORLD_LOCAL_RANK": str(rank),
        "PYTHONUNBUFFERED": "1",
    }
    if devices is not None:
        found["JAX_NUM_CPU_DEVICES"] = str(devices)
    return found


def _copy(rank: int, process: subprocess.Popen[str], out: TextIO, lock: threading.Lock) -> None:
    if process.stdout is not None:
        with process.stdout as lines:
            for line in lines:
                _say(f"[{rank}] {line.rstrip()}", out, lock)


def _say(line: str, out: TextIO, lock: threading.Lock) -> None:
    with lock, contextlib.suppress(OSError, ValueError):  # its reader may be gone
        out.write(f"{line}\n")
        out.flush()


@contextlib.contextmanager
def _forwarded(running: Sequence[subprocess.Popen[str]]) -> Generator[None]:
    """Hand SIGTERM and SIGINT on to all processes until the block ends; the second time, kill them."""
    came: list[float] = []

    def forward(number: int, frame: Any) -> None:
        del frame
        again = bool(came) and time.monotonic() - came[0] > _SAME
        came.append(time.monotonic())
        for process in running:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL if again else number)

    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            before[number] = signal.signal(number, forward)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait(running: Sequence[subprocess.Popen[str]], grace: float, out: TextIO, lock: threading.Lock) -> int:
    """Wait for all processes, and return the status of the first that failed."""
    failed: int | None = None
    end = term = float("inf")
    ended: set[int] = set()
    while len(ended) < len(running):
        for rank, process in enumerate(running):
            code = process.poll()
            if rank in ended or code is None:
                continue
            ended.add(rank)
            if code and failed is None:
                failed = 128 - code if code < 0 else code
                end = time.monotonic() + grace
            if code:
                _say(
                    f"[launch] process {rank} was ended by {signal.Signals(-code).name}"
                    if code < 0
                    else f"[launch] process {rank} ended with status {code}",
                    out,
                    lock,
                )
        if time.monotonic() > end:
            _say(f"[launch] the others have not ended within {grace:g} s, and are ended now", out, lock)
            for process in running:
                if process.poll() is None:
                    process.terminate()
            end, term = float("inf"), time.monotonic() + _PATIENCE
        if time.monotonic() > term:
            for process in running:
                if process.poll() is None:
                    process.kill()
            term = float("inf")
        time.sleep(_POLL)
    return failed or 0
