"""The note on an exception that leaves a module: path, options and inputs, once, and nothing else changes."""

import contextlib
import gc
import pickle
import traceback
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from batiste import nn
from batiste.errors import BatisteError, BlueprintAsArrayError, MergeParamError, ModuleNotCallableError

KEY = jax.random.key(0)
X = jnp.ones((4, 8))


class Boom(Exception):
    """What the module below raises."""


def fail(*_):
    raise Boom


def fail_in_jax(x):
    return x + jnp.ones(3)


def fail_in_optax(x):
    return optax.sgd(0.1).update({"a": x}, None, x)[0]["b"]


def fail_in_numpy(x):
    return np.reshape(np.ones(4), (3, *x.shape))


class Block(nn.Module):
    """Fails as it is told."""

    width: int = 3
    how: object = fail

    @nn.compact
    def __call__(self, x):
        return self.how(nn.Dense(self.width)(x))


class BySetup(nn.Module):
    def setup(self):
        self.blocks = [Block(width=5)]

    def __call__(self, x):
        return self.blocks[0](x)


class InSetup(nn.Module):
    def setup(self):
        fail()

    def __call__(self, x):
        return x


class Within(nn.Module):
    """Holds a module, within a transform or not."""

    inner: type = Block

    @nn.compact
    def __call__(self, x):
        return self.inner(name="block")(x)


class ByMethod(nn.Module):
    @nn.compact
    def __call__(self, x):
        return self.encode(x, depth=2)

    def encode(self, x, *, depth):
        return fail(x, depth)


class ByProperty(nn.Module):
    @nn.compact
    def __call__(self, x):
        return self.size

    @property
    def size(self):
        return fail()


class Scanned(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return Block(name="block")(x), None


class InScan(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.scan(Scanned, variable_axes={"params": 0}, split_rngs={"params": True}, length=2)()(x, None)


def notes_of(call, kind=Exception):
    """Return the notes of modules on what ``call`` raises, and the exception."""
    with pytest.raises(kind) as caught:
        call()
    return [note for note in getattr(caught.value, "__notes__", ()) if note.startswith("In the module")], caught.value


HOW = (fail, fail_in_jax, fail_in_optax, fail_in_numpy)


@pytest.mark.parametrize("how", HOW, ids=lambda how: how.__name__)
def test_exceptions_of_every_library(how):
    with contextlib.suppress(Exception):
        how(jnp.ones((4, 3)))
    (note,), error = notes_of(lambda: Within(lambda name: Block(3, how, name=name)).init(KEY, X))
    assert not isinstance(error, BatisteError)
    assert f"Block({'' if how is fail else f'how={how.__name__}'})" in note
    assert "at /block, whose __call__ was given x=float32[4,8]." in note


PLACES = {
    "setup": (BySetup, "Block(width=5) at /blocks_0, whose __call__ was given x=float32[4,8]"),
    "in_setup": (InSetup, "InSetup() at /, whose setup was given no inputs"),
    "method": (ByMethod, "ByMethod() at /, whose encode was given x=float32[4,8], depth=2"),
    "property": (ByProperty, "ByProperty() at /, whose size was given no inputs"),
    "compact": (Within, "Block() at /block, whose __call__ was given x=float32[4,8]"),
    "remat": (lambda: Within(nn.remat(Block)), "Block() at /block, whose __call__ was given x=float32[4,8]"),
    "jit": (lambda: Within(nn.jit(Block)), "Block() at /block, whose __call__ was given x=float32[4,8]"),
    "vmap": (
        lambda: Within(nn.vmap(Block, variable_axes={"params": 0}, split_rngs={"params": True})),
        "Block() at /block, whose __call__ was given x=float32[8]",
    ),
    "scan": (InScan, "Block() at /ScanScanned_0/block, whose __call__ was given x=float32[4,8]"),
    "sequential": (lambda: nn.Sequential([nn.relu, Block()]), "Block() at /layers_1, whose __call__"),
}


@pytest.mark.parametrize("place", PLACES)
def test_the_innermost_module_is_named_once(place):
    make, says = PLACES[place]
    model = make()
    for call in (
        lambda: model.init(KEY, X),
        lambda: model.init_with_output(KEY, X),
        lambda: jax.jit(model.init)(KEY, X),
        lambda: jax.eval_shape(model.init, KEY, X),
    ):
        notes, error = notes_of(call, Boom)
        assert len(notes) == 1
        assert says in notes[0]
        assert type(error) is Boom
        assert error.args == ()


def test_apply_and_bind_and_gradients():
    class Model(nn.Module):
        fails: bool = False

        @nn.compact
        def __call__(self, x):
            return Block(how=fail if self.fails else jnp.sum, name="block")(x)

    variables, model = Model().init(KEY, X), Model(fails=True)
    for call in (
        lambda: model.apply(variables, X),
        lambda: model.bind(variables)(X),
        lambda: jax.jit(model.apply)(variables, X),
        lambda: jax.grad(lambda v: model.apply(v, X))(variables),
        lambda: jax.vmap(lambda x: model.apply(variables, x))(X),
    ):
        (note,), _ = notes_of(call, Boom)
        assert " at /block, whose __call__ was given x=float32[" in note


def test_a_model_within_a_model_is_named_from_its_own_top():
    class Outer(nn.Module):
        @nn.compact
        def __call__(self, x):
            return Within().init(KEY, x)

    notes, _ = notes_of(lambda: Outer().init(KEY, X), Boom)
    assert [" at /block," in note for note in notes] == [True]


def test_the_traceback_is_as_it_was():
    _, error = notes_of(lambda: Within().init(KEY, X), Boom)
    names = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
    assert names[-1] == "fail"
    assert names.count("fail") == 1
    assert error.__cause__ is None


def test_one_object_that_is_raised_again_is_noted_anew():
    held = Boom()

    def again(x):
        del x
        raise held

    for name in ("a", "b"):
        class_of = type(name, (nn.Module,), {"__call__": lambda self, x: again(x)})
        notes, _ = notes_of(lambda class_of=class_of: class_of().apply({}, X), Boom)
        assert [f"In the module {name}()" in note for note in notes] == [True]


@pytest.mark.parametrize("kind", [StopIteration, StopAsyncIteration, KeyboardInterrupt, GeneratorExit, SystemExit])
def test_what_ends_loops_and_programs_is_not_noted(kind):
    class Model(nn.Module):
        def __call__(self, x):
            raise kind

    with pytest.raises(kind) as caught:
        Model().apply({}, X)
    assert not hasattr(caught.value, "__notes__") or not any("module" in note for note in caught.value.__notes__)


def test_an_error_that_names_the_path_does_not_hear_it_again():
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dropout(0.5, name="drop")(x)

    (note,), error = notes_of(lambda: Model().init(KEY, X), MergeParamError)
    assert str(error).count("/drop") == 1
    assert "/drop" not in note
    assert "Dropout(rate=0.5), whose __call__ was given inputs=float32[4,8]" in note


def test_notes_survive_pickling():
    (note,), error = notes_of(lambda: nn.Dropout(0.5).init(KEY, X), MergeParamError)
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - its own bytes
    assert note in again.__notes__
    assert str(again) == str(error)


def test_values_are_never_looked_at():
    class Stubborn:
        """Raises at whatever could show its value."""

        shape, dtype = (2, 3), np.dtype("float32")

        def refuse(self, *_):
            raise AssertionError

        __repr__ = __str__ = __iter__ = __len__ = __getitem__ = __bool__ = __eq__ = __array__ = __float__ = refuse
        __hash__ = None

    class Model(nn.Module):
        table: object = None

        def __call__(self, x, tree, flag):
            raise Boom

    deleted = jnp.ones(3)
    deleted.delete()
    call = Model(Stubborn()).apply
    (note,), _ = notes_of(lambda: call({}, Stubborn(), {"a": [deleted, (KEY,)]}, flag=True), Boom)
    assert "Model(table=float32[2,3])" in note
    assert "x=float32[2,3], tree={'a': [float32[3], (key<fry>[],)]}, flag=True" in note


def test_what_cannot_be_described_does_not_hide_what_failed():
    class Hostile:
        @property
        def shape(self):
            raise RuntimeError

    class Model(nn.Module):
        def __call__(self, x):
            raise Boom

    (note,), _ = notes_of(lambda: Model().apply({}, Hostile()), Boom)
    assert note == "In the module Model at /"


def test_long_inputs_are_cut():
    class Model(nn.Module):
        text: str = "x" * 500

        def __call__(self, *many, **more):
            raise Boom

    (note,), _ = notes_of(lambda: Model("y" * 500).apply({}, list(range(900)), {str(i): X for i in range(90)}), Boom)
    assert len(note) < 500


def test_notes_keep_no_array_alive():
    def run():
        array = jnp.ones((5, 5))
        notes, error = notes_of(lambda: Within().init(KEY, array), Boom)
        return weakref.ref(array), notes, error.with_traceback(None)

    alive, notes, error = run()
    error.__context__ = None
    gc.collect()
    assert alive() is None
    assert len(notes) == 1


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # JAX looks in C, which 3.13 reports
def test_hints():
    class Flag(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            return x if train else -x

    (note,), _ = notes_of(lambda: jax.jit(Flag().apply)({}, X, True), jax.errors.TracerBoolConversionError)
    assert "x=float32[4,8], train=bool[]" in note
    assert "static_argnames='train'" in note

    class Value(nn.Module):
        @nn.compact
        def __call__(self, x):
            return x if x.sum() > 0 else -x

    (note,), _ = notes_of(lambda: jax.jit(Value().apply)({}, X), jax.errors.TracerBoolConversionError)
    assert "jnp.where" in note
    assert "nn.cond" in note

    class Uncalled(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.relu(nn.Dense(8))

    (note,), error = notes_of(lambda: Uncalled().init(KEY, X), (TypeError, BlueprintAsArrayError))
    if isinstance(error, TypeError):
        assert "Dense is a layer, and was not called: write Dense(...)(x)." in note
    else:  # JAX 0.10.0 lets the module's own error through
        assert "call it: Dense(...)(x)." in str(error)

    class Cell(nn.Module):
        @nn.compact
        def __call__(self, carry, x):
            return nn.GRUCell(5)(carry, x)

    class OverBatch(nn.Module):
        @nn.compact
        def __call__(self, carry, xs):
            return nn.scan(Cell, variable_broadcast="params", split_rngs={"params": False})()(carry, xs)

    (note,), _ = notes_of(lambda: OverBatch().init(KEY, jnp.ones((4, 5)), jnp.ones((4, 7, 8))), TypeError)
    assert "carry=float32[4,5], inputs=float32[7,8]" in note
    assert "in_axes is the axis of time" in note

    class Items(nn.Module):
        def setup(self):
            self.layers = [nn.Dense(3)]
            self.layers[0] = nn.Dense(4)

        def __call__(self, x):
            return x

    (note,), _ = notes_of(lambda: Items().init(KEY, X), TypeError)
    assert "self.layers: lists that are assigned to a module become tuples" in note


@pytest.mark.parametrize(
    ("given", "hint"), [("relu", "act=nn.relu"), ("tanh", "act=nn.tanh"), (3, "the function itself.")]
)
def test_a_field_that_is_no_function_is_named(given, hint):
    class Model(nn.Module):
        act: object = given

        @nn.compact
        def __call__(self, x):
            return self.act(x)

    with pytest.raises(TypeError, match="not callable") as caught:
        Model().apply({}, jnp.ones(2))
    assert f"The field act={given!r} is called" in caught.value.__notes__[0]
    assert hint in caught.value.__notes__[0]


class Coder(nn.Module):
    """Has no `__call__`."""

    @nn.compact
    def encode(self, x):
        return nn.Dense(2)(x)


def call_made(self, x):
    return Coder()(x)


def call_listed(self, x):
    return self.layers[0](x)


def call_given(self, x):
    return self.given(x)


@pytest.mark.parametrize("call", [call_made, call_listed, call_given])
def test_a_submodule_without_call_is_named_wherever_it_is_held(call):
    class Model(nn.Module):
        given: object = Coder()

        def setup(self):
            self.layers = [Coder()]

        __call__ = nn.compact(call) if call is call_made else call

    wanted = r"(?s)Coder at /\w+ is called, but has no attribute '__call__'.*write \.encode"
    with pytest.raises(ModuleNotCallableError, match=wanted) as caught:
        Model().init(jax.random.key(0), jnp.ones(2))
    assert isinstance(caught.value, TypeError)
    assert isinstance(caught.value, AttributeError)
    assert str(caught.value.__cause__) == "'Coder' object is not callable"
