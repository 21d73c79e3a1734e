"""Checkpoints that cannot lie: saved whole or not at all, opened without reading, checked to the last bit.

A name's file is loaded when the name is first asked for: to open a checkpoint and look at it takes no JAX.
"""

import typing as _typing

from batiste._later import later as _later

if _typing.TYPE_CHECKING:
    from batiste.checkpoint._background import SaveHandle
    from batiste.checkpoint._checkpoint import Checkpoint, open  # noqa: A004 - `checkpoint.open` is what it does
    from batiste.checkpoint._endings import format_of
    from batiste.checkpoint._files import cleanup, leftovers
    from batiste.checkpoint._manager import Manager
    from batiste.checkpoint._manifest import Manifest
    from batiste.checkpoint._policies import PolicyLike
    from batiste.checkpoint._restore import restore
    from batiste.checkpoint._retention import KeepBest, KeepEvery, KeepLast, KeepRecent, KeepRule, Saved
    from batiste.checkpoint._save import save, save_async
    from batiste.checkpoint._target import ShardingsLike
    from batiste.checkpoint._types import Record
    from batiste.checkpoint._verify import Verification, verify
else:
    __getattr__, __dir__ = _later(
        __name__,
        (),
        {
            "_background": ("SaveHandle",),
            "_checkpoint": ("Checkpoint", "open"),
            "_endings": ("format_of",),
            "_files": ("cleanup", "leftovers"),
            "_manager": ("Manager",),
            "_manifest": ("Manifest",),
            "_policies": ("PolicyLike",),
            "_restore": ("restore",),
            "_retention": ("KeepBest", "KeepEvery", "KeepLast", "KeepRecent", "KeepRule", "Saved"),
            "_save": ("save", "save_async"),
            "_target": ("ShardingsLike",),
            "_types": ("Record",),
            "_verify": ("Verification", "verify"),
        },
    )


__all__ = [
    "Checkpoint",
    "KeepBest",
    "KeepEvery",
    "KeepLast",
    "KeepRecent",
    "KeepRule",
    "Manager",
    "Manifest",
    "PolicyLike",
    "Record",
    "SaveHandle",
    "Saved",
    "ShardingsLike",
    "Verification",
    "cleanup",
    "format_of",
    "leftovers",
    "open",
    "restore",
    "save",
    "save_async",
    "verify",
]
