"""``python -m batiste``: the command line, where the ``batiste`` command is not on the path."""

from __future__ import annotations

from batiste.cli import main

__all__ = ["main"]

if __name__ == "__main__":
    main()
