"""The ``batiste`` command: look at checkpoints, compare, check and change them, without a model."""

from batiste.cli._main import main

__all__ = ["main"]
