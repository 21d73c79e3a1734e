"""What the README promises about itself holds: a short program, links that lead somewhere, parts that exist."""

import importlib
import re
from pathlib import Path

import pytest

from tests.markdown import python_blocks

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_a_program_of_forty_lines_and_one_of_fifteen_at_most():
    lengths = [len([line for line in block.source.splitlines() if line.strip()]) for block in python_blocks(README)]
    assert len(lengths) == 2
    assert lengths[0] <= 40
    assert lengths[1] <= 15  # batch norm, dropout, average, accumulation, precision, clipping


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)#:]+)\)", README))))
def test_links_lead_somewhere(target):
    assert (ROOT / target).exists()


@pytest.mark.parametrize("name", re.findall(r"^\| `(batiste\.\w+)` ", README, re.MULTILINE))
def test_parts_exist(name):
    assert importlib.import_module(name).__all__
