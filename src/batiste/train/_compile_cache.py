"""A folder in which compiled programs outlive the process, so that the next run does not compile them again.

The cache is JAX's own (https://docs.jax.dev/en/latest/persistent_compilation_cache.html); this file decides where it
is and what happens where it cannot be. A program is found again by its text, the versions of JAX and XLA, the options
and the device, so that one folder serves every model. Nothing turns the cache on but a call of ``compile_cache``, and a
training loop for as long as it runs.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import warnings
from collections.abc import Generator
from pathlib import Path
from typing import Any

import jax

from batiste.errors import CompileCacheWarning
from batiste.train._arguments import check_cache

__all__ = ["cache_folder", "compile_cache", "compile_cache_for_now"]


def compile_cache(folder: str | os.PathLike[str] | None = None, *, min_seconds: float = 0.0) -> Path | None:
    """Keep compiled programs in a folder from now on, and take from it what an earlier run has compiled.

    A folder that cannot be written is no failure: a ``batiste.errors.CompileCacheWarning`` says so, and programs are
    compiled as without a cache. Entries are never removed; the folder may be deleted at any time.

    Args:
      folder: a local folder; by default the folder that JAX was given already (``JAX_COMPILATION_CACHE_DIR``), and else
        ``batiste/xla`` in the user's cache folder (``XDG_CACHE_HOME``, or ``~/.cache``). It is made if need be.
      min_seconds: programs that compile faster than this are not kept; a number from 0 on.

    Returns:
      The folder, or None where it cannot be written.

    Raises:
      ArgumentError: ``folder`` is no path, or ``min_seconds`` no such number.

    Example:
      >>> from batiste import train  # doctest: +SKIP
      >>> train.compile_cache()  # once, where the program begins  # doctest: +SKIP
    """
    check_cache(folder, min_seconds)
    config: Any = jax.config
    given: str | None = config.jax_compilation_cache_dir
    if folder is None and given:
        return Path(given)
    try:
        place = Path(_users_folder() if folder is None else folder).absolute()
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=place):
            pass
    except (OSError, RuntimeError) as error:  # a user without a home is a RuntimeError
        reason = getattr(error, "strerror", None) or str(error)
        where = "the user's cache folder" if folder is None else os.fspath(folder)
        text = f"Compiled programs are not kept: {where} cannot be written ({reason}). They are compiled in each run."
        warnings.warn(text, CompileCacheWarning, stacklevel=2)
        return None
    _use(str(place), float(min_seconds))
    return place


@contextlib.contextmanager
def compile_cache_for_now(folder: str | os.PathLike[str] | None) -> Generator[None]:
    """Keep compiled programs in a folder until the block ends; None changes nothing."""
    config: Any = jax.config
    before = config.jax_compilation_cache_dir, config.jax_persistent_cache_min_compile_time_secs
    if folder is not None:
        compile_cache(folder)
    try:
        yield
    finally:
        if config.jax_compilation_cache_dir != before[0]:
            _use(*before)


def cache_folder(run: Any, option: bool | str | os.PathLike[str]) -> str | os.PathLike[str] | None:
    """Return the folder for compiled programs that a loop is to use; None for whatever JAX does by itself."""
    if not isinstance(option, bool):
        return option
    config: Any = jax.config
    chosen = config.jax_compilation_cache_dir is not None
    return None if run is None or chosen or not option else run.folder / "compiled"


def _use(folder: str | None, min_seconds: float) -> None:
    from jax.experimental.compilation_cache import compilation_cache

    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", min_seconds)
    compilation_cache.reset_cache()  # JAX keeps the folder that the first program of the process was looked up in


def _users_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "batiste" / "xla"
