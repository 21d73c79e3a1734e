"""What a row of the catalogue is: the smallest program that raises an error, and what its text must say.

Every file of ``tests/errors/catalogue/`` has the rows of one package. A row is a function without arguments, decorated
with the class that it raises; its source is shown in the documentation, so it is written as a user would write it. The
names ``key`` and ``x`` stand for a random key and an input. It runs in an empty folder.
"""

import dataclasses
import importlib
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from batiste.errors import BatisteError, BatisteWarning

key = jax.random.key(0)
x = jnp.ones((2, 3))

FOLDER = Path(__file__).parent / "catalogue"


@dataclasses.dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
      kind: the class of the error, or of the warning.
      says: what its text must contain: the path of the module, what was given, what was expected, the nearest name.
      program: raises it.
    """

    kind: type[BatisteError] | type[BatisteWarning]
    says: tuple[str, ...]
    program: Callable[[], Any]

    @property
    def name(self) -> str:
        """The name of the program, for people."""
        return f"{self.kind.__name__}-{self.program.__name__}"

    @property
    def source(self) -> str:
        """The statements of the program, as they stand in its file."""
        lines = inspect.getsource(self.program).splitlines()
        first = next(number for number, line in enumerate(lines) if line.startswith("def ")) + 1
        body = [re.sub(r"  # noqa: .*$", "", line) for line in lines[first:]]
        return textwrap.dedent("\n".join(body)).strip("\n")


def raises(kind: type[BatisteError] | type[BatisteWarning], *says: str) -> Callable[[Callable[[], Any]], Row]:
    """Make a row of a program that raises ``kind``."""
    return lambda program: Row(kind, says, program)


def rows() -> Iterator[Row]:
    """Yield every row of every file of the catalogue."""
    for path in sorted(FOLDER.glob("*.py")):
        module = importlib.import_module(f"tests.errors.catalogue.{path.stem}")
        yield from (value for value in vars(module).values() if isinstance(value, Row))
