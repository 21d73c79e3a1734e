"""Starts programs of several processes on this machine, and gathers what they say."""

import atexit
import contextlib
import functools
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence

SECONDS = 600  # nothing here takes a tenth of it, unless the machine is busy


@functools.cache
def compiled() -> dict[str, str]:
    """Return variables with which processes keep what they compile until these tests end.

    Of a process that trains, compiling is more than half: 4.7 s of processor time without this, and 2.2 s with it.
    """
    folder = tempfile.mkdtemp(prefix="batiste-compiled-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return {
        "JAX_COMPILATION_CACHE_DIR": folder,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextlib.contextmanager
def started(processes: int, module: str, *arguments: object) -> Iterator[list[subprocess.Popen[str]]]:
    """Start `python -m module PORT PROCESSES RANK ARGUMENTS` for each rank; all are ended at the end of the block."""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    port = free_port()
    running = [
        subprocess.Popen(
            [sys.executable, "-m", module, str(port), str(processes), str(rank), *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment | compiled(),
        )
        for rank in range(processes)
    ]
    try:
        yield running
    finally:
        for process in running:
            process.kill()
            process.wait()
            process.stdout.close()


def ended(running: Sequence[subprocess.Popen[str]], *codes: int) -> list[str]:
    """Return what each has printed, once all have ended with these statuses; by default with 0."""
    said = [process.communicate(timeout=SECONDS)[0] for process in running]
    found = [process.returncode for process in running]
    assert found == list(codes or [0] * len(running)), "\n----\n".join([str(found), *said])
    return said


def run(processes: int, module: str, *arguments: object) -> list[str]:
    """Run a program to its end, and return what each process has printed."""
    with started(processes, module, *arguments) as running:
        return ended(running)


def wait_for(condition, seconds: float = SECONDS) -> None:
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.02)
