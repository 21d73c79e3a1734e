"""The bare base of modules, and the state of one module instance. Names are the scope's.

Everything in this package that must know "is this a module?" tests against ``Blueprint``; ``_module.py`` comes last and
puts the parts together. A module is *unbound* while it has no scope: it is a description and nothing more. It is
*bound* when it has a scope, which happens inside of ``init``, ``apply`` and ``bind``, and then lives as long as that
call.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Final, dataclass_transform

from batiste.core import Scope
from batiste.errors import InvalidInstanceModuleError

__all__ = ["UNSPECIFIED", "Blueprint", "ModuleState", "Unspecified", "check_module"]


class Unspecified:
    """The type of ``UNSPECIFIED``: no parent was given, so the module that is being run is taken.

    Example:
      >>> import copy
      >>> from batiste import module
      >>> module.UNSPECIFIED, copy.deepcopy(module.UNSPECIFIED) is module.UNSPECIFIED
      (<the module that is being run>, True)
    """

    def __repr__(self) -> str:
        return "<the module that is being run>"

    def __copy__(self) -> Unspecified:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Unspecified:
        return self

    def __reduce__(self) -> str:
        return "UNSPECIFIED"


UNSPECIFIED: Final = Unspecified()
"""As a parent: the module whose method is being run."""


class ModuleState:
    """What one module instance remembers while it is bound.

    Attributes:
      in_setup: whether ``setup`` is running.
      in_compact: whether a compact method is running.
      was_called: whether a compact method has run, so that the next run starts with no names taken.
      is_set_up: whether ``setup`` has run.
      is_attached: whether construction is complete, so that attributes are frozen.
      assigned: the attributes that ``setup`` has set.
      reuses_names: whether ``setup`` runs once more, so that the names it takes are taken already.

    Example:
      >>> from batiste import module
      >>> state = module.ModuleState()
      >>> state.is_attached = True
      >>> state.allows_children, state.setup_called
      (False, False)
    """

    __slots__ = (
        "assigned",
        "in_compact",
        "in_setup",
        "is_attached",
        "is_set_up",
        "reuses_names",
        "was_called",
    )

    def __init__(self) -> None:
        self.in_setup = False
        self.in_compact = False
        self.was_called = False
        self.is_set_up = False
        self.is_attached = False
        self.assigned: set[str] = set()
        self.reuses_names = False

    @property
    def setup_called(self) -> bool:
        """Whether ``setup`` has run, by Flax's name."""
        return self.is_set_up

    @property
    def allows_children(self) -> bool:
        """Whether submodules and variables may be made now."""
        return self.in_setup or self.in_compact or not self.is_attached


_INSIDE = frozenset(
    {
        "adoptable_fields_",
        "blueprint_names_",
        "fingerprint_by_place",
        "fingerprint_skips",
        "lifted_by_",
        "lifted_from_",
        "slotted_fields_",
        "variables_as_",
    }
)
"""Names in a module that are the library's own."""


@dataclass_transform(eq_default=True, field_specifiers=(dataclasses.field,))
class Blueprint:
    """The bare base of modules: what each of them has, and nothing that they do.

    Attributes:
      name: the name within the parent.
      parent: the module that this one is part of, the scope that it is bound to, or None.
      scope: the cursor over the variables, or None while the module is unbound.
      blueprint_names_: the fields that the constructor takes, without name and parent; one tuple a class.
      adoptable_fields_: those fields, each with its default if no module is in that (else with ``UNSPECIFIED``).
      slotted_fields_: those fields that lie in slots, and not in the module's dict.
      variables_as_: what is done to variables that ``init`` and ``apply`` return; None, nothing, but for one switch of
        Flax.
      lifted_from_: the class that a lifted transform has made this class from.

    Example:
      >>> from batiste import module, nn
      >>> layer = nn.Dropout(0.5)
      >>> isinstance(layer, module.Blueprint), layer.scope, layer.blueprint_names_[0]
      (True, None, 'rate')
    """

    name: str | None
    parent: Blueprint | Scope | Unspecified | None
    scope: Scope | None = None
    _state: ModuleState
    blueprint_names_: ClassVar[tuple[str, ...]] = ()
    slotted_fields_: ClassVar[tuple[str, ...]] = ()
    fingerprint_by_place: ClassVar[bool] = True
    fingerprint_skips: ClassVar[frozenset[str]] = frozenset(
        {"adoptable_fields_", "blueprint_names_", "slotted_fields_", "variables_as_"}
    )
    adoptable_fields_: ClassVar[tuple[tuple[str, Any], ...]] = ()
    lifted_from_: ClassVar[type[Blueprint] | None] = None
    variables_as_: ClassVar[Callable[[Any], Any] | None] = None

    if TYPE_CHECKING:  # so that a field ``layer: nn.Module`` may be called; each module says what it takes

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            """Run the module."""
            ...

    def __dir__(self) -> list[str]:
        """Return the names that users may use: what the library keeps in a module is left out."""
        return [name for name in super().__dir__() if name not in _INSIDE]

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """Show the module in a notebook, where a bound one says that it is."""
        text = f"{type(self).__name__}(...)" if cycle else repr(self)
        printer.text(text if self.scope is None else f"{text}, bound at {self.scope.path_text}")

    def _attach(self) -> None:
        """Bind this module to the scope that its parent gives."""
        raise TypeError(type(self).__name__)

    def _set_up(self) -> None:
        """Run ``setup`` unless it has run."""
        raise TypeError(type(self).__name__)

    def _try_setup(self, shallow: bool = False) -> None:
        """Run ``setup`` unless it has run; where a library overrides this method of Flax's, its own is called.

        Args:
          shallow: whether what ``setup`` would make is left for later.
        """
        if not (shallow or self._state.is_set_up or self._state.in_setup):
            self._set_up()

    def _name_scope(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:  # noqa: ARG002 - an interface
        """Return what runs ``function`` of this module as the child ``name``."""
        raise TypeError(type(self).__name__)


def check_module(value: Any, call: str) -> None:
    """Refuse what is no module.

    Raises:
      InvalidInstanceModuleError: it is something else; ``call`` is the name of the function that was given it.
    """
    if not isinstance(value, Blueprint):
        raise InvalidInstanceModuleError(call=call, given=repr(value))
