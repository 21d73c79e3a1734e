"""What the shell offers for words that only a checkpoint or the library knows.

A completion must never print or fail, so whatever goes wrong is an empty list, and the shell then offers files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from batiste.checkpoint import open as open_checkpoint
from batiste.errors import BatisteError

__all__ = ["paths_in"]

_MOST: Final = 1000


def paths_in(source: Any, incomplete: str) -> list[str]:
    """Return the paths of a checkpoint that begin as the word does; none where there is no checkpoint.

    Args:
      source: the path of the checkpoint, as far as the shell knows it.
      incomplete: the word so far.
    """
    if not isinstance(source, str | Path):
        return []
    try:
        found = open_checkpoint(source).paths()
    except (BatisteError, OSError):
        return []
    return [path for path in found if path.startswith(incomplete) and path.isprintable()][:_MOST]
