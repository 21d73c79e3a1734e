"""The blueprint as a dataclass and as a value: fields, inheritance, equality, copies, pickles, text."""

import dataclasses
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import jax
import jax.numpy as jnp
import pytest

from batiste.module import Module, compact
from tests.module.libraries import calls, raised, same

X = jnp.arange(6.0).reshape(2, 3)
T = TypeVar("T")


def fields_and_defaults(nn):
    class Model(nn.Module):
        width: int
        depth: int = 2
        names: tuple = ("a", "b")
        hidden: dataclasses.InitVar[int] = 3
        kind: ClassVar[str] = "model"
        sizes: Any = dataclasses.field(default_factory=lambda: [1, 2])
        unseen: int = dataclasses.field(default=7, repr=False)

        def __post_init__(self, hidden):
            self.doubled = hidden * 2
            super().__post_init__()

    models = Model(3), Model(3, 4, hidden=5), Model(width=3, sizes=[])
    return [(m.width, m.depth, m.names, m.doubled, m.kind, m.sizes, m.unseen, m.name) for m in models]


def inheritance_of_fields(nn):
    class Base(nn.Module):
        a: int
        b: int = 2

        @nn.compact
        def __call__(self, x):
            return nn.Dense(self.a)(x) * self.b

    class Derived(Base):
        c: int = 3

        @nn.compact
        def __call__(self, x):
            return super().__call__(x) * self.c

    class Override(Base):
        b: int = 5

    names = [[f.name for f in dataclasses.fields(kind)] for kind in (Base, Derived, Override)]
    return calls(Derived(3, 4, 5), X), calls(Override(3), X), [sorted(n) for n in names]


def name_and_parent_are_keywords_after_inheritance(nn):
    class Base(nn.Module):
        a: int = 1

    class Derived(Base):
        b: int = 2

    model = Derived(5, 6, name="n")
    return model.a, model.b, model.name, Derived(7).b


def kw_only(nn):
    class Base(nn.Module, kw_only=True):
        a: int = 1

        @nn.compact
        def __call__(self, x):
            return x * self.a

    class Derived(Base, kw_only=True):
        b: int

        @nn.compact
        def __call__(self, x):
            return super().__call__(x) * self.b

    class Positional(Base):
        c: int

    with pytest.raises(TypeError):
        Derived(2)
    return calls(Derived(b=3, a=2), X), Positional(4).c, Positional(4, a=2).a


def post_init_changes_fields(nn):
    class Model(nn.Module):
        width: Any = None
        inner: Any = None

        def __post_init__(self):
            if self.width is None:
                self.width = 3
            self.total = self.width + 1
            super().__post_init__()

        @nn.compact
        def __call__(self, x):
            return nn.Dense(self.width)(x) * self.total

    model = Model()
    return calls(model, X), model.clone().total, model.clone(width=4).total, model.width


def post_init_makes_submodules(nn):
    class Model(nn.Module):
        inner: Any = None

        def __post_init__(self):
            if self.inner is None:
                self.inner = nn.Dense(3)
            super().__post_init__()

        def __call__(self, x):
            return self.inner(x)

    class Outer(nn.Module):
        @nn.compact
        def __call__(self, x):
            return Model()(x)

    return calls(Model(), X), calls(Outer(), X)


def post_init_without_super(nn):
    class Model(nn.Module):
        width: int = 3

        def __post_init__(self):
            self.doubled = 6

        @nn.compact
        def __call__(self, x):
            return x

    return raised(nn, lambda: Model().init(jax.random.key(0), X))


def init_false_fields(nn):
    class Model(nn.Module):
        a: int
        b: int = dataclasses.field(init=False, default=4)

        def __post_init__(self):
            self.b = self.a + 1
            super().__post_init__()

        @nn.compact
        def __call__(self, x):
            return x * self.b

    return calls(Model(2), X), Model(2).b


def generic_modules(nn):
    class Model(nn.Module, Generic[T]):
        value: Any

        @nn.compact
        def __call__(self, x):
            return x * self.value

    return calls(Model[int](2), X)


def protocols_and_abstract(nn):
    class Named(Protocol):
        def label(self): ...

    class Model(nn.Module, Named):
        width: int = 3

        def label(self):
            return f"width {self.width}"

        @nn.compact
        def __call__(self, x):
            return nn.Dense(self.width)(x), self.label()

    return calls(Model(), X), Model().label()


def clone_and_copy(nn):
    class Model(nn.Module):
        width: int = 3
        inner: Any = None

        @nn.compact
        def __call__(self, x):
            return nn.Dense(self.width)(x)

    class Outer(nn.Module):
        template: Any

        @nn.compact
        def __call__(self, x):
            first = self.template.copy()
            second = self.template.copy(width=4, name="wide")
            third = nn.Dense(3).clone(parent=self, features=2, name="third")
            return first(x), second(x), third(x), self.template(x)

    model = Model(4, name="n")
    cloned = model.clone(width=5)
    return calls(Outer(Model()), X), (cloned.width, cloned.name, cloned.parent), model.clone(name=None).name


def clones_in_setup(nn):
    class Model(nn.Module):
        layer: Any
        count: int = 3

        def setup(self):
            self.layers = [self.layer.clone() for _ in range(self.count)]

        def __call__(self, x):
            for layer in self.layers:
                x = layer(x)
            return x

    class Copies(nn.Module):
        layer: Any

        def setup(self):
            self.layers = [self.layer.copy() for _ in range(2)]

        def __call__(self, x):
            for layer in self.layers:
                x = layer(x)
            return x

    return calls(Model(nn.Dense(3)), X), calls(Copies(nn.Dense(3)), X)


def assigning(nn):
    class Model(nn.Module):
        width: int = 3

        def setup(self):
            self.value = 3

        def __call__(self, x):
            self.late = x
            return x

    class SetsField(nn.Module):
        width: int = 3

        def setup(self):
            self.width = 4

        def __call__(self, x):
            return x

    class InCompact(nn.Module):
        @nn.compact
        def __call__(self, x):
            self.layer = nn.Dense(3)
            return self.layer(x)

    return [raised(nn, lambda kind=kind: kind().init(jax.random.key(0), X)) for kind in (Model, SetsField, InCompact)]


def name_and_parent_are_reserved(nn):
    def with_parent():
        class Model(nn.Module):
            parent: Any = None

    class Named(nn.Module):
        width: int
        name: str | None = None

    class Required(nn.Module):
        name: str
        width: int = 3

    return raised(nn, with_parent), Named(3).name, Named(3, name="n").name, Required().name, Required(4).width


PROGRAMS = (
    fields_and_defaults, inheritance_of_fields, name_and_parent_are_keywords_after_inheritance, kw_only,
    post_init_changes_fields, post_init_makes_submodules, post_init_without_super, init_false_fields, generic_modules,
    protocols_and_abstract, clone_and_copy, clones_in_setup, assigning, name_and_parent_are_reserved,
)  # fmt: skip


@pytest.mark.parametrize("program", PROGRAMS)
def test_linen_has_dataclasses_so(program):
    same(program)


@pytest.mark.parametrize("name", ["d", "self", "values", "unset"])
def test_a_field_may_have_any_name(name):
    class Other(Module):
        @compact
        def __call__(self, x):
            return x * getattr(self, name)

    cls = type(Other)("Named", (Other,), {"__annotations__": {name: int}, name: 3, "__module__": __name__})
    assert getattr(cls(), name) == 3
    assert cls(**{name: 4}).apply({}, 2) == 8


def fields_that_are_set_by_other_means(nn):
    class Doubling(nn.Module):
        width: int = 3

        def __setattr__(self, name, value):
            super().__setattr__(name, 2 * value if name == "width" else value)

    class Slotted(nn.Module):
        __slots__ = ("features",)
        features: int

        @nn.compact
        def __call__(self, x):
            return nn.Dense(self.features)(x)

    class Stored:
        def __get__(self, instance, owner=None):
            return 7 if instance is None else instance._held

        def __set__(self, instance, value):
            object.__setattr__(instance, "_held", value + 1)

    class Described(nn.Module):
        features: int = Stored()

    noted = []

    class Noting:
        def __setattr__(self, name, value):
            noted.append(name)
            super().__setattr__(name, value)

    class Base(nn.Module):
        first: int = 1

    class Both(Noting, Base):
        second: int = 2

    made = Both(second=5)
    slotted = Slotted(4)
    return (
        (Doubling(3).width, Doubling().width),
        (slotted.features, slotted.clone(features=5).features, calls(slotted, X)),
        (Described(4).features, Described().features),
        (made.first, made.second, [name for name in noted if name in {"first", "second"}]),
    )


def test_linen_sets_fields_so():
    same(fields_that_are_set_by_other_means)


def test_completion_offers_what_users_call():
    class Model(Module):
        features: int = 3

    public = [name for name in dir(Model()) if not name.startswith("_")]
    assert [name for name in public if name.endswith("_") or "fingerprint" in name] == []
    assert {"apply", "features", "init", "name", "scope", "tabulate"} <= set(public)
