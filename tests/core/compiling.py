"""Which programs JAX compiles while a test looks: counted by JAX's own log."""

import contextlib
import logging
import re
from collections.abc import Iterator

import jax

_COMPILING = re.compile(r"Compiling (?:jit\()?([\w<>.]+)")


@contextlib.contextmanager
def compiled() -> Iterator[list[str]]:
    """Yield a list that gets the name of every program that is compiled within the context."""
    names: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found = _COMPILING.match(record.getMessage())
            if found:
                names.append(found[1])

    logger = logging.getLogger("jax")
    handler, propagates = Handler(level=logging.DEBUG), logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        with jax.log_compiles():
            yield names
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagates
