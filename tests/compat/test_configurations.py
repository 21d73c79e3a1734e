"""The switches of Flax are there by name; those that batiste does not have are recorded and said."""

import warnings

import flax
import flax.configurations as theirs
import pytest

import batiste.compat.flax as compat
import batiste.compat.flax.configurations as ours
from batiste.errors import FlagExistsError, FlagIgnoredWarning, FlagTruthError, FlagValueError, UnknownFlagError
from tests.compat.pairs import assert_same

HOLDERS = [name for name, value in vars(theirs).items() if isinstance(value, theirs.FlagHolder)]


@pytest.fixture
def config(monkeypatch):
    """Return a fresh object that the module's holders read."""
    fresh = ours.Config()
    for name, value in ours.config._values.items():
        fresh.declare(name, value)
    monkeypatch.setattr(ours, "config", fresh)
    return fresh


def test_the_same_switches_with_the_same_values():
    assert compat.config is ours.config
    if flax.__version__ == compat.__version__:  # another Flax may have others
        assert repr(ours.config) == repr(theirs.config)
        assert [name for name in HOLDERS if not hasattr(ours, name)] == []
    for name in HOLDERS:
        if hasattr(ours, name):
            holder, wanted = getattr(ours, name), getattr(theirs, name)
            assert (holder.name, holder.__name__, holder.value) == (wanted.name, wanted.__name__, wanted.value)
            assert wanted.name in holder.__doc__
            assert wanted.name in dir(ours.config)


def test_update(config):
    config.update("flax_use_orbax_checkpointing", False)
    assert config.flax_use_orbax_checkpointing is False
    assert ours.flax_use_orbax_checkpointing.value is False
    config.update(ours.flax_use_orbax_checkpointing, True)
    assert config.flax_use_orbax_checkpointing is True
    with config.temp_flip_flag("use_orbax_checkpointing", False):
        assert config.flax_use_orbax_checkpointing is False
    assert config.flax_use_orbax_checkpointing is True
    assert config.ignored == {}


def test_what_has_no_effect_is_said(config):
    with pytest.warns(FlagIgnoredWarning, match="flax_fix_rng_separator=True"):
        config.update("flax_fix_rng_separator", True)
    assert config.flax_fix_rng_separator is True
    assert config.ignored == {"flax_fix_rng_separator": True}
    with warnings.catch_warnings(action="error"):
        config.update("flax_profile", True)  # Flax's default
    assert "flax_profile" not in config.ignored


def test_own_switches(config):
    holder = ours.bool_flag("my_switch", default=False, help="Mine.")
    config.update("my_switch", True)
    assert holder.value is True
    assert ours.int_flag("my_number", default=None, help="Mine.").value is None
    with pytest.raises(FlagExistsError):
        ours.bool_flag("my_switch", default=False, help="Mine.")


@pytest.mark.parametrize("value", ["1", "0", "yes", "TRUE", "on", "off", "n", "False", "bad", "", "3", "-2", "x", None])
def test_environment(monkeypatch, config, value):
    if value is None:
        monkeypatch.delenv("MY_SWITCH", raising=False)
    else:
        monkeypatch.setenv("MY_SWITCH", value)
    for default in (True, False):
        assert_same(
            lambda default=default: ours.static_bool_env("MY_SWITCH", default),
            lambda default=default: theirs.static_bool_env("MY_SWITCH", default),
        )
    assert_same(lambda: ours.static_int_env("MY_SWITCH", 5), lambda: theirs.static_int_env("MY_SWITCH", 5))
    if value == "1":
        assert ours.bool_flag("my_switch", default=False, help="Mine.").value is True


def test_errors(config, monkeypatch):
    with pytest.raises(UnknownFlagError, match="Did you mean 'flax_profile'"):
        config.update("profile", False)
    with pytest.raises(UnknownFlagError), config.temp_flip_flag("nothing", True):
        pass
    with pytest.raises(FlagTruthError):
        bool(ours.flax_profile)
    monkeypatch.setenv("MY_SWITCH", "perhaps")
    with pytest.raises(FlagValueError, match="MY_SWITCH is 'perhaps'"):
        ours.static_bool_env("MY_SWITCH", True)
    with pytest.raises(AttributeError, match=r"config\.update"):
        config.flax_profile = False
    with pytest.raises(AttributeError, match="nothing"):
        config.nothing  # noqa: B018 - to be refused
