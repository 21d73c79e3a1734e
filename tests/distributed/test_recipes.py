"""The recipes of the documentation, as far as one machine can check them: who is told what by which variable."""

import os
import subprocess
import sys

import pytest

from tests.processes.support import SECONDS, free_port

MEETS = """
import os
import jax
jax.distributed.initialize(heartbeat_timeout_seconds=20{more})
from batiste import _processes
print(sorted(_processes.gather("place", f"process {{jax.process_index()}}", what="a test")))
"""
INDEXED = ', num_processes=int(os.environ["PROCESSES"]), process_id=int(os.environ["JOB_COMPLETION_INDEX"])'
WAYS = {
    "slurm": (
        "",
        lambda rank, port: {
            "SLURM_JOB_ID": str(port),  # from which JAX makes a port
            "SLURM_STEP_NODELIST": "localhost",
            "SLURM_NTASKS": "2",
            "SLURM_PROCID": str(rank),
            "SLURM_LOCALID": str(rank),
            "SLURM_STEP_NUM_NODES": "1",
        },
    ),
    "jobset": (
        INDEXED,
        lambda rank, port: {
            "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
            "PROCESSES": "2",
            "JOB_COMPLETION_INDEX": str(rank),
        },
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_two_processes_find_each_other(way):
    more, variables = WAYS[way]
    port = free_port()
    others = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", MEETS.format(more=more)],
            env={**others, **variables(rank, port)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said = [process.communicate(timeout=SECONDS)[0] for process in running]
    assert [text.splitlines()[-1] for text in said] == ["['process 0', 'process 1']"] * 2
