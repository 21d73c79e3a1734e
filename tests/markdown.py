"""The programs inside a Markdown text: its ```python blocks, and how they are run in order as one program.

A block's information string is `python`, `python no-run` for one that is only compiled, or `python needs=haiku` for one
that is only compiled where that library is not installed.
"""

import importlib.util
import re
import sys
import textwrap
import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

FENCE = re.compile(r"^(?P<indent> *)(?P<fence>`{3,}|~{3,})(?P<info>[^`]*)$")


@dataclass(frozen=True)
class Block:
    """One fenced block: the line of its first statement, its information string and its text."""

    line: int
    info: str
    source: str

    @property
    def needs(self) -> str:
        """The library that the block is about, or ""."""
        return next((word.removeprefix("needs=") for word in self.info.split() if word.startswith("needs=")), "")

    @property
    def runs(self) -> bool:
        is_there = not self.needs or importlib.util.find_spec(self.needs) is not None
        return is_there and "no-run" not in self.info.split()


def fenced_blocks(text: str) -> Iterator[Block]:
    """Yield every fenced block of a Markdown text, in order."""
    opened: re.Match[str] | None = None
    first = 0
    lines = text.splitlines()
    for number, line in enumerate(lines, start=1):
        found = FENCE.match(line)
        if opened is None:
            opened, first = found, number + 1
        elif found and not found["info"].strip() and found["fence"].startswith(opened["fence"]):
            source = textwrap.dedent("\n".join(lines[first - 1 : number - 1]) + "\n")
            yield Block(first, opened["info"].strip(), source)
            opened = None


def python_blocks(text: str) -> list[Block]:
    """Return the blocks whose language is `python`."""
    return [block for block in fenced_blocks(text) if block.info.split()[:1] == ["python"]]


@contextmanager
def program(name: str) -> Iterator[types.ModuleType]:
    """Make an empty module that blocks are executed in, known to `sys.modules` for as long as they run."""
    module = types.ModuleType(name)
    sys.modules[name] = module
    try:
        yield module
    finally:
        del sys.modules[name]


def execute(block: Block, filename: str, module: types.ModuleType) -> None:
    """Execute one block in `module`, or only compile it; tracebacks name the line of the Markdown file."""
    code = compile("\n" * (block.line - 1) + block.source, filename, "exec", dont_inherit=True)
    if block.runs:
        exec(code, vars(module))  # noqa: S102 - the text is the project's own
