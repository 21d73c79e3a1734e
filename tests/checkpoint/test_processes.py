"""A program of two processes restores onto a mesh over both, and saves from one of them or says why it cannot."""

import os
import socket
import subprocess
import sys

import numpy as np

from batiste import checkpoint


def test_two_processes(tmp_path):
    checkpoint.save(tmp_path / "folder", {"w": np.arange(8, dtype=np.float32)})
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    command = [sys.executable, "-m", "tests.checkpoint.several", str(tmp_path), str(port)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "env": environment}
    started = [subprocess.Popen([*command, str(rank)], **pipes) for rank in range(2)]
    try:
        said = [process.communicate(timeout=120)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0, 0], "\n".join(said)
    assert checkpoint.verify(tmp_path / "one.safetensors").leaves == 1
