"""A program to be killed: it saves, overwrites, converts and removes checkpoints until it is.

``python -m tests.checkpoint.killed FOLDER`` reads numbers, one a line. For each it starts a process of its own, says
``pid ...`` and, when that process has ended, ``end``. The process says ``ready``, and after each thing that is complete
``run 12`` or ``kept 12``. Starting a process this way costs nothing: everything is imported once.
"""

import importlib
import os
import sys

import numpy as np

from batiste import checkpoint

KEPT = ("kept", "kept.safetensors", "kept.npz", "kept.msgpack")
CONVERTED = ("converted.safetensors", "converted")


def values(number, count=6, size=30_000):
    """The tree number ``number``: every leaf says which it is."""
    leaves = {f"l{index}": np.full(size, number + index / 100, np.float32) for index in range(count)}
    return {"params": leaves, "step": number}


def say(*words):
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def save_until_killed(folder, seed):
    run = checkpoint.Manager(f"{folder}/run", keep=[checkpoint.KeepLast(2)])
    number = 1000 * (1 + seed)
    for name in KEPT:
        checkpoint.save(f"{folder}/{name}", values(number), overwrite=True)
    say("ready")
    while True:
        number += 1
        if number % 3 == 0:
            run.save_async(number, values(number)).wait()
        else:
            run.save(number, values(number))
        say("run", number)
        for name in KEPT:
            checkpoint.save(f"{folder}/{name}", values(number), overwrite=True)
        for name in CONVERTED:
            checkpoint.save(f"{folder}/{name}", checkpoint.open(f"{folder}/kept"), overwrite=True)
        say("kept", number)


def main(folder):
    importlib.import_module("orbax.checkpoint")
    for line in sys.stdin:
        child = os.fork()
        if not child:
            save_until_killed(folder, int(line))
        say("pid", child)
        os.waitpid(child, 0)
        say("end")


if __name__ == "__main__":
    main(*sys.argv[1:])
