"""Every public name of installed `flax.linen` is in `batiste.nn`, or is listed with its reason."""

import types

from flax import linen

from batiste import nn

MODULES = "a module of Flax's layout, which is in batiste.compat.flax.linen"
NAMED_CALL = "operations always carry the names of their modules, so there is nothing to switch"

MISSING = {
    "FrozenDict": "variables are plain dicts; for programs that name it, it is in batiste.compat.flax.core",
    "disable_named_call": NAMED_CALL,
    "enable_named_call": NAMED_CALL,
    "override_named_call": NAMED_CALL,
    **dict.fromkeys(
        (
            "activation",
            "attention",
            "batch_apply",
            "combinators",
            "dtypes",
            "kw_only_dataclasses",
            "linear",
            "meta",
            "module",
            "normalization",
            "partitioning",
            "pooling",
            "recurrent",
            "spmd",
            "stochastic",
            "summary",
            "transforms",
        ),
        MODULES,
    ),
}


def public(module):
    return {name for name in vars(module) if not name.startswith("_")}


def test_every_name_of_linen():
    missing = public(linen) - public(nn)
    # `linen.partitioning` is there once some test has imported it.
    assert missing - {"partitioning"} == set(MISSING) - {"partitioning"}


def test_every_reason_is_true():
    for name, reason in MISSING.items():
        assert isinstance(getattr(linen, name, types), types.ModuleType) == (reason is MODULES)
        assert reason
