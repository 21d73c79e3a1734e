"""Trials of a program with several processes on one machine: ``python -m batiste.launch -n 2 script.py``.

On a cluster, its own scheduler starts the processes. The program is the same, and calls
``jax.distributed.initialize()``.
"""

from batiste.launch._run import launch

__all__ = ["launch"]
