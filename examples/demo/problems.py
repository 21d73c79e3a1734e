"""What the person at the terminal can put right: each is said in one line."""

import importlib
from types import ModuleType


class DemoError(Exception):
    """A missing file, a folder that cannot be written, a package that is not installed."""


def need(module: str, *, package: str, why: str) -> ModuleType:
    """Return an optional module, or say what to install."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        msg = f"{why} {package}, which is not installed: pip install {package}"
        raise DemoError(msg) from error
