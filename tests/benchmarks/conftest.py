"""The benchmark's models are programs for users: rank promotion as JAX has it by default."""

import pytest


@pytest.fixture(autouse=True)
def _as_users_have_it(users_rules):
    """Run every test here under users' rules."""
