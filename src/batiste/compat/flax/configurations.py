"""The switches of Flax: ``flax.config``, accepted by name.

A program may ask for every switch that Flax has, and set it. Three of them act here: ``flax_use_orbax_checkpointing``,
``flax_preserve_adopted_names`` and ``flax_return_frozendict``. The others say something about how Flax itself works
inside, or about a part of it that is not here; setting one to another value than Flax's default gives a
``FlagIgnoredWarning`` and is recorded in ``Config.ignored``.

The switches are state of the process, because that is what they are in Flax, as is the table of types that a program
registers for state dicts (``_states.py``). Nothing below ``batiste.compat`` reads them.
Their first values come from environment variables of the same names in capitals.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, Generic, NoReturn, TypeVar

from batiste.errors import (
    FlagExistsError,
    FlagIgnoredWarning,
    FlagTruthError,
    FlagValueError,
    UnknownFlagError,
    nearest,
)

__all__ = [
    "Config",
    "FlagHolder",
    "bool_flag",
    "config",
    "flax_always_shard_variable",
    "flax_array_ref",
    "flax_filter_frames",
    "flax_fix_rng",
    "flax_hijax_variable",
    "flax_max_repr_depth",
    "flax_preserve_adopted_names",
    "flax_profile",
    "flax_pytree_module",
    "flax_return_frozendict",
    "flax_use_flaxlib",
    "flax_use_orbax_checkpointing",
    "int_flag",
    "nnx_graph_mode",
    "nnx_graph_updates",
    "static_bool_env",
    "static_int_env",
]

T = TypeVar("T")

_ACTING = frozenset({"flax_preserve_adopted_names", "flax_return_frozendict", "flax_use_orbax_checkpointing"})
_OURS = ("flax_", "nnx_")
_TRUE = frozenset({"1", "on", "t", "true", "y", "yes"})
_FALSE = frozenset({"0", "f", "false", "n", "no", "off"})


class Config:
    """The values of all switches, as attributes and by ``update``.

    Attributes:
      ignored: what was set by a name that has no effect here, with the value it was given last.
    """

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}
        self._defaults: dict[str, Any] = {}
        self._followers: dict[str, Callable[[Any], None]] = {}
        self.ignored: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        values: dict[str, Any] = self.__dict__.get("_values", {})
        if name not in values:
            message = f"{type(self).__name__!r} object has no attribute {name!r}"
            raise AttributeError(message)
        return values[name]

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.__dict__.get("_values", {}):
            message = f"switch {name!r} is set by config.update({name!r}, ...)"
            raise AttributeError(message)
        super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self._values})

    def __repr__(self) -> str:
        return "Config(\n" + ", \n".join(f"  {name}={value!r}" for name, value in self._values.items()) + "\n)"

    def declare(self, name: str, default: Any) -> None:
        """Add a switch.

        Raises:
          FlagExistsError: there is one of that name.
        """
        if name in self._values:
            raise FlagExistsError(name=name)
        self._values[name] = self._defaults[name] = default

    def update(self, name_or_holder: str | FlagHolder[Any], value: Any, /) -> None:
        """Set a switch, given by its name or by its holder.

        Raises:
          UnknownFlagError: there is no such switch.
        """
        name = name_or_holder if isinstance(name_or_holder, str) else name_or_holder.name
        if name not in self._values:
            raise UnknownFlagError(name=name, nearest=nearest(name, self._values))
        self._values[name] = value
        if name in self._followers:
            self._followers[name](value)
        if name.startswith(_OURS) and name not in _ACTING:
            self._note(name, value)

    def follow(self, name: str, act: Callable[[Any], None]) -> None:
        """Call ``act`` with the value of a switch, now and whenever it is set.

        Args:
          name: the switch.
          act: what carries the value out.
        """
        self._followers[name] = act
        act(self._values[name])

    @contextmanager
    def temp_flip_flag(self, var_name: str, var_value: bool) -> Generator[None]:
        """Give ``flax_<var_name>`` another value inside a ``with`` block.

        Raises:
          UnknownFlagError: there is no such switch.
        """
        name = f"flax_{var_name}"
        if name not in self._values:
            raise UnknownFlagError(name=name, nearest=nearest(name, self._values))
        before = self._values[name]
        self.update(name, var_value)
        try:
            yield
        finally:
            self.update(name, before)

    def _note(self, name: str, value: Any) -> None:
        if value == self._defaults[name]:
            return
        self.ignored[name] = value
        text = f"batiste has no switch for {name}={value!r}: it is recorded and changes nothing."
        warnings.warn(text, FlagIgnoredWarning, stacklevel=3)


class FlagHolder(Generic[T]):
    """One switch: its name, and its value as ``value``."""

    def __init__(self, name: str, help: str) -> None:  # noqa: A002 - Flax's name
        self.name = name
        self.__name__ = name.removeprefix("flax")
        self.__doc__ = f"The switch ``{name}``.\n\n{help}"

    def __bool__(self) -> NoReturn:
        raise FlagTruthError(name=self.name)

    @property
    def value(self) -> T:
        """The value that the switch has now."""
        return getattr(config, self.name)


config = Config()
"""The switches of this process."""


def static_bool_env(varname: str, default: bool) -> bool:
    """Return the truth value that an environment variable has, or the default where it is not set.

    Raises:
      FlagValueError: it is set to something else.
    """
    text = os.environ.get(varname)
    if text is None:
        return default
    if text.lower() in _TRUE | _FALSE:
        return text.lower() in _TRUE
    raise FlagValueError(name=varname, value=text, wanted="truth value", cure="1 or 0")


def static_int_env(varname: str, default: int | None) -> int | None:
    """Return the integer that an environment variable has, or the default where it is not set.

    Raises:
      FlagValueError: it is set to something else.
    """
    text = os.environ.get(varname)
    if text is None:
        return default
    try:
        return int(text)
    except ValueError:
        raise FlagValueError(name=varname, value=text, wanted="integer", cure="an integer") from None


def bool_flag(name: str, *, default: bool, help: str) -> FlagHolder[bool]:  # noqa: A002 - Flax's name
    """Add a switch that is on or off; an environment variable of its name in capitals goes before ``default``.

    Raises:
      FlagExistsError: there is one of that name.
    """
    config.declare(name, static_bool_env(name.upper(), default))
    return FlagHolder(name, help)


def int_flag(name: str, *, default: int | None, help: str) -> FlagHolder[int]:  # noqa: A002 - Flax's name
    """Add a switch that is an integer; an environment variable of its name in capitals goes before ``default``.

    Raises:
      FlagExistsError: there is one of that name.
    """
    config.declare(name, static_int_env(name.upper(), default))
    return FlagHolder(name, help)


flax_filter_frames = bool_flag(
    "flax_filter_frames", default=True, help="Hide Flax's own frames in tracebacks. No effect here."
)
"""Hide Flax's own frames in tracebacks. No effect here."""

flax_profile = bool_flag("flax_profile", default=True, help="Name operations after modules. Always so here.")
"""Name operations after modules for profilers. Always so here."""

flax_use_orbax_checkpointing = bool_flag(
    "flax_use_orbax_checkpointing", default=True, help="Let save_checkpoint write with Orbax, not MessagePack."
)
"""Let ``training.checkpoints.save_checkpoint`` write with Orbax, not MessagePack."""

flax_preserve_adopted_names = bool_flag(
    "flax_preserve_adopted_names", default=False, help="Keep the names of modules made outside."
)
"""Keep the names of modules that are made outside and adopted, where the class that holds them says nothing."""

flax_return_frozendict = bool_flag(
    "flax_return_frozendict", default=False, help="Let init and apply return frozen dicts."
)
"""Let ``init`` and ``apply`` return frozen dicts."""

flax_fix_rng = bool_flag(
    "flax_fix_rng_separator", default=False, help="Separate the parts that are folded into keys. No effect here."
)
"""Separate the parts of a path where they are folded into random keys. No effect here."""

flax_use_flaxlib = bool_flag("flax_use_flaxlib", default=False, help="Use Flax's C++ code. No effect here.")
"""Use Flax's C++ code. No effect here."""

flax_array_ref = bool_flag("flax_array_ref", default=False, help="Use array references in NNX. No effect here.")
"""Use array references in NNX. No effect here."""

flax_pytree_module = bool_flag("flax_pytree_module", default=True, help="Make NNX modules pytrees. No effect here.")
"""Make NNX modules pytrees. No effect here."""

flax_max_repr_depth = int_flag(
    "flax_max_repr_depth", default=None, help="How deep the text of nested objects goes. No effect here."
)
"""How deep the text of nested NNX objects goes. No effect here."""

flax_always_shard_variable = bool_flag(
    "flax_always_shard_variable", default=True, help="Shard every annotated NNX variable. No effect here."
)
"""Shard every annotated NNX variable. No effect here."""

flax_hijax_variable = bool_flag(
    "flax_hijax_variable", default=False, help="Make NNX variables HiJAX types. No effect here."
)
"""Make NNX variables HiJAX types. No effect here."""

nnx_graph_mode = bool_flag("nnx_graph_mode", default=True, help="Let NNX walk graphs, not trees. No effect here.")
"""Let NNX walk graphs, not trees. No effect here."""

nnx_graph_updates = bool_flag(
    "nnx_graph_updates", default=True, help="Let NNX change graphs inside transforms. No effect here."
)
"""Let NNX change graphs inside transforms. No effect here."""
