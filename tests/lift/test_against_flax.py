"""Programs with lifted transforms do the same in Linen and in batiste: variables, keys, results, changes, gradients."""

import pytest

from tests.lift.programs import (  # noqa: F401 - they fill the cases
    boxes,
    branches,
    calls,
    derivatives,
    nesting,
    scan,
    sharing,
    storing,
    variables,
    vmap,
)
from tests.lift.support import CASES, compare


@pytest.mark.parametrize("name", CASES)
def test_as_in_flax(name):
    compare(CASES[name])
