"""Who owns which memory: the one place that says it for all of training.

JAX shares memory wherever it may. ``jax.device_put`` of an array to where it lies already, or to a mesh with that
device, returns the same memory as another array; on a CPU it may also return that of a NumPy array. A compiled step
takes the memory of its state for its result (*donation*): memory that is in the state twice, or in the state and in the
batch, would be written while it is read. On several devices that ends the process. So:

* **The state** is the loop's from the call on. Its arrays are given up to the first step. What shares memory with an
  earlier leaf, or with the first batch, is copied, and so is every NumPy array; other arrays are taken as they are. The
  caller's names for them are names of deleted arrays afterwards, which ``DeletedArrayError`` says.
* **What the loop hands out** (``loop.state``, the state in ``evaluate``) lives until the next step. Who keeps it
  copies it. What is put in its place, ``loop.state = ...``, is the loop's from then on, like the state at the start.
* **A batch** is the caller's. A NumPy array is copied when it is taken, since its owner may fill it again as soon as
  the next batch is asked for, which is before the step has read this one. An array of JAX is never written by anyone:
  it is taken as it is, and still the caller's after the step. The loop takes no batch ahead of its step.
* **Metrics** are outputs of the step, which no later step takes.
* **A save in the background** has copied the state before it returns (``batiste.checkpoint``), so that the next step
  may take the memory.

A copy of a NumPy batch costs one pass over its memory. It is made in the dtype that JAX computes in, and begins where
JAX on a CPU wants its arrays to begin (at a multiple of 64 bytes), so that JAX takes it as it is. NumPy's own arrays
seldom do, and JAX copies them itself: a batch of 100 MB takes 24 ms with this copy and 112 ms without it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from batiste.core import is_tracer
from batiste.errors import BatchError, DeletedArrayError, LoopArgumentError
from batiste.tree import flatten, path_string

__all__ = ["apart", "check_there", "explain_batch", "give_up", "has_arrays", "own_batch", "own_state"]

State = TypeVar("State")
_NUMBERS = (bool, int, float, complex)
_WIDE = 8  # bytes of a dtype that JAX may not compute in
_ALIGNED = 64
_LARGE = 1 << 16  # bytes, from which on to find the place costs less than a second copy


class _UnfitError(Exception):
    """A leaf that cannot be computed with.

    Args:
      given: what it is.
      why: why it cannot be computed with, and what to give instead.
    """

    def __init__(self, *, given: str, why: tuple[str, str]) -> None:
        super().__init__(given)
        self.given = given
        self.reason, self.cure = why


def own_state(state: State) -> State:
    """Return a state as the compiled step may use it up: arrays of JAX, each with memory of its own, on one mesh.

    Numbers of Python stay numbers, so that they promote as such, unless the state is on several devices.

    Raises:
      DeletedArrayError: an array was used up by an earlier step.
      LoopArgumentError: a leaf is no array and no number, or is one that JAX's dtypes cannot hold.
    """
    try:
        leaves: list[Any] = jax.tree.leaves(state)
    except (TypeError, ValueError) as error:  # keys of a dict that cannot be put in an order
        cure = "Give dicts with strings as keys, lists, tuples and classes that are registered with JAX."
        reason = f"JAX takes no such container ({_first_line(error)})"
        raise LoopArgumentError(name="state", value=_described(state), reason=reason, cure=cure) from error
    check_there(state, "The state that the loop was given")
    shardings = [leaf.sharding for leaf in leaves if isinstance(leaf, jax.Array)]
    mesh = next((it.mesh for it in shardings if isinstance(it, NamedSharding) and it.num_devices > 1), None)
    everywhere = None if mesh is None else NamedSharding(mesh, PartitionSpec())
    for number, leaf in enumerate(leaves):
        if isinstance(leaf, jax.Array):
            if everywhere is not None and not leaf.committed:
                leaves[number] = _placed(leaf, everywhere)
            continue
        try:
            host = _computable(leaf)
        except _UnfitError as unfit:
            value = f"one whose {_path(state, number)} is {unfit.given}"
            raise LoopArgumentError(name="state", value=value, reason=unfit.reason, cure=unfit.cure) from None
        if everywhere is not None:
            leaves[number] = _placed(jnp.asarray(host), everywhere)
        elif host is not leaf:
            leaves[number] = jnp.asarray(host)
    return _filled(state, _apart(leaves, set()))


def _placed(leaf: jax.Array, everywhere: NamedSharding) -> jax.Array:
    """Return an array on all devices of a mesh; of several processes, each has a copy of its own to begin with."""
    if everywhere.is_fully_addressable or not leaf.is_fully_addressable:
        return jax.device_put(leaf, everywhere)
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        data: Any = _placed(jax.random.key_data(leaf), everywhere)
        return cast("Any", jax.random).wrap_key_data(data, impl=jax.random.key_impl(leaf))
    host = np.asarray(leaf)
    return jax.make_array_from_callback(host.shape, everywhere, host.__getitem__)


def apart(state: State, batch: Any = ()) -> State:
    """Return a state of which no array has memory of another one, or of an array in ``batch``."""
    taken: set[Any] = set()
    for leaf in jax.tree.leaves(batch):
        if _is_array(leaf):
            taken.update(_places(leaf))
    leaves: list[Any] = jax.tree.leaves(state)
    changed = _apart(leaves, taken)
    return state if changed is leaves else _filled(state, changed)


def own_batch(batch: Any, step: int) -> Any:
    """Return a batch whose NumPy arrays are copies, in the dtypes that JAX computes in.

    Args:
      batch: any tree of arrays and numbers.
      step: the number of the step that it is for.

    Raises:
      BatchError: a leaf is none of these, or one that JAX's dtypes cannot hold.
    """
    if hasattr(batch, "__next__"):
        reason, cure = _why_not(batch)
        raise BatchError(step=step, where="it", given=_described(batch), reason=reason, cure=cure)
    try:
        leaves, structure = cast("Any", jax.tree).flatten(batch)
    except (TypeError, ValueError) as error:  # keys of a dict that cannot be put in an order
        reason = f"JAX takes no such container ({_first_line(error)})"
        cure = "Give dicts with strings as keys, lists and tuples of arrays."
        raise BatchError(step=step, where="it", given=_described(batch), reason=reason, cure=cure) from error
    changed = False
    for number, leaf in enumerate(leaves):
        if isinstance(leaf, jax.Array):
            continue
        try:
            leaves[number] = _computable(leaf)
        except _UnfitError as unfit:
            where = _path(batch, number, "it")
            raise BatchError(step=step, where=where, given=unfit.given, reason=unfit.reason, cure=unfit.cure) from None
        changed = changed or leaves[number] is not leaf
    return structure.unflatten(leaves) if changed else batch


def explain_batch(batch: Any, error: Exception) -> None:
    """Raise an error where a step cannot be traced because of its batch; return where nothing is known of that.

    Raises:
      BatchError: the batch is None, or has lists of numbers in the place of arrays.
    """
    if batch is None:
        reason = "the step asks for something in it"
        cure = "A function that ends without `return` gives None: let it return the batch."
        raise BatchError(step=1, where="it", given="None", reason=reason, cure=cure) from error
    leaves = cast("Any", jax.tree_util.tree_flatten_with_path)(batch, is_leaf=_is_list_of_numbers)[0]
    for path, leaf in leaves:
        if _is_list_of_numbers(leaf):
            where = repr(path_string(path)) if path else "it"
            reason = "JAX takes each of its numbers as an argument of its own, and no array is made of them"
            cure = "Make arrays: np.asarray(x); lists of several lengths are padded to one first."
            raise BatchError(step=1, where=where, given="a list of numbers", reason=reason, cure=cure) from error


def _is_list_of_numbers(node: Any) -> bool:
    if not isinstance(node, list) or not node:
        return False
    return all(type(it) in _NUMBERS or _is_list_of_numbers(it) for it in cast("list[Any]", node))


def has_arrays(batch: Any) -> bool:
    """Say whether a batch has arrays of JAX, whose memory may be someone else's."""
    return any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(batch))


def check_there(tree: Any, where: str, cause: BaseException | None = None) -> None:
    """Refuse a tree of which arrays are deleted.

    Args:
      tree: any tree.
      where: what it is, at the beginning of a sentence.
      cause: the error that it has led to.

    Raises:
      DeletedArrayError: an array was deleted, or used up by a step.
    """
    leaves: list[Any] = jax.tree.leaves(tree)
    gone = [number for number, leaf in enumerate(leaves) if _is_array(leaf) and leaf.is_deleted()]
    if gone:
        more = f" and {len(gone) - 1} more" if len(gone) > 1 else ""
        raise DeletedArrayError(where=where, paths=f"{_path(tree, gone[0], 'itself')}{more}") from cause


def give_up(state: Any) -> None:
    """Free the arrays of a state that another takes the place of, as the step would have done."""
    for leaf in jax.tree.leaves(state):
        if isinstance(leaf, jax.Array) and not leaf.is_deleted():
            leaf.delete()


def _filled(tree: Any, leaves: list[Any]) -> Any:
    whole = cast("Any", jax.tree)
    return whole.unflatten(whole.structure(tree), leaves)


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and not is_tracer(leaf)


def _apart(leaves: list[Any], taken: set[Any]) -> list[Any]:
    """Return the leaves with copies of those whose memory is taken; the same list where there are none."""
    found = leaves
    for number, leaf in enumerate(leaves):
        if not _is_array(leaf):
            continue
        places = _places(leaf)
        if not taken.isdisjoint(places):
            found = list(leaves) if found is leaves else found
            found[number] = leaf.copy()
        else:
            taken.update(places)
    return found


def _places(array: jax.Array) -> Iterable[Any]:
    """Return where the parts of an array lie; what cannot be known is the array itself."""
    try:
        shards: Any = [array] if array.sharding.num_devices == 1 else [it.data for it in array.addressable_shards]
        return [(*part.devices(), part.unsafe_buffer_pointer()) for part in shards]
    except (RuntimeError, AttributeError, NotImplementedError):  # a backend that does not tell, or a deleted array
        return [id(array)]


def _computable(leaf: Any) -> Any:
    """Return a number of Python as it is, and anything of NumPy as a copy in a dtype of JAX.

    Raises:
      _UnfitError: it is neither, or JAX has no dtype for its values.
    """
    kind = cast("type[Any]", type(leaf))
    if kind is np.ndarray or isinstance(leaf, np.ndarray | np.generic):
        return _copied(leaf)
    if kind in _NUMBERS:
        if kind is int and not _fits(leaf):
            raise _UnfitError(given=f"the number {leaf}", why=(_TOO_LARGE, _WIDER))
        return leaf
    raise _UnfitError(given=_described(leaf), why=_why_not(leaf))


_TOO_LARGE = "JAX computes with integers of 32 bits, which do not hold it"
_WIDER = (
    'Fold such numbers into 32 bits first (`x % 2**31`), or compute with 64: jax.config.update("jax_enable_x64", True).'
)


def _fits(number: int) -> bool:
    info = np.iinfo(jax.dtypes.canonicalize_dtype(np.int64))
    return info.min <= number <= info.max


def _copied(leaf: Any) -> Any:
    dtype: Any = leaf.dtype
    if type(leaf) is np.ndarray and dtype.kind in "biuf" and dtype.itemsize < _WIDE and dtype.isnative:
        return _duplicate(leaf, dtype)  # nearly always, and the rest would take longer than a small copy
    if isinstance(leaf, np.ma.MaskedArray):
        why = "its mask would be lost", "Give the values, `x.filled(0)`, and the mask as two arrays."
        raise _UnfitError(given="a masked array", why=why)
    if not (dtype.kind in "biufc" or jnp.issubdtype(dtype, jnp.number)) or dtype.char in "gG":  # long double
        raise _UnfitError(given=f"an array of dtype {dtype}", why=_why_not(leaf))
    target: Any = jax.dtypes.canonicalize_dtype(dtype).newbyteorder("=")
    if target == dtype:
        return _duplicate(leaf, target)
    try:
        with np.errstate(over="raise"):
            found = _duplicate(leaf, target)
    except FloatingPointError:
        reason = f"JAX computes it in {target}, in which values of it are infinite"
        cure = 'Scale it first, or compute with 64 bits: jax.config.update("jax_enable_x64", True).'
        raise _UnfitError(given=f"an array of dtype {dtype}", why=(reason, cure)) from None
    if dtype.kind in "iu" and not np.array_equal(found, leaf):
        raise _UnfitError(given=f"an array of dtype {dtype} with large numbers", why=(_TOO_LARGE, _WIDER))
    return found


def _duplicate(leaf: Any, dtype: Any) -> Any:
    size = leaf.size * dtype.itemsize
    if size < _LARGE:
        return np.array(leaf, dtype=dtype, order="C", subok=False)
    memory: Any = np.empty(size + _ALIGNED, np.uint8)
    start = -memory.ctypes.data % _ALIGNED
    found = memory[start : start + size].view(dtype).reshape(leaf.shape)
    np.copyto(found, leaf, casting="unsafe")
    return found


def _described(leaf: Any) -> str:
    kind = cast("type[Any]", type(leaf))
    if kind in (str, bytes):
        text = repr(leaf)
        return f"the text {text if len(text) < 40 else text[:36] + '...'}"
    top = kind.__module__.partition(".")[0]
    return f"a {kind.__name__}" if top in ("builtins", "__main__") else f"a {top}.{kind.__name__}"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


def _why_not(leaf: Any) -> tuple[str, str]:
    """Return why a leaf cannot be computed with, and what to give instead."""
    top = type(leaf).__module__.partition(".")[0]
    dtype: Any = getattr(leaf, "dtype", None)
    if top == "torch":
        cure = "Convert each tensor: (jax.tree.map(lambda tensor: tensor.numpy(), batch) for batch in loader)."
        return "JAX computes with arrays of NumPy and its own, and not with tensors of PyTorch", cure
    if top == "tensorflow":
        return "JAX computes with arrays of NumPy and its own", "Let tf.data give them: dataset.as_numpy_iterator()."
    if isinstance(leaf, str | bytes) or getattr(dtype, "kind", "") in ("U", "S", "T"):
        cure = "Leave texts out, or give numbers in their place."
        return "JAX computes with numbers only", cure
    if isinstance(leaf, np.ndarray | np.generic):
        if dtype.kind == "O":
            cure = "Pad or cut what is of several lengths, and stack it: np.stack(...) has a dtype of numbers."
            return "its entries are objects of Python", cure
        if dtype.names:
            return "JAX has no arrays with fields", "Give each field as an array by itself: x['name']."
        return "JAX has no such dtype", "Convert it to numbers first."
    if hasattr(leaf, "__next__"):
        return "an iterator is not a batch", "Give the iterator itself as the data, and not a function that returns it."
    if callable(leaf):
        return "JAX computes with numbers only", "Give what it returns, or leave it out."
    if hasattr(leaf, "shape") and hasattr(leaf, "dtype") and not hasattr(leaf, "__array__"):
        return "it is the form of an array without values", "Give the array."
    if hasattr(leaf, "__array__"):
        return "JAX computes with arrays of NumPy and its own", "Convert it: np.asarray(x)."
    return "JAX computes with arrays and numbers only", "Leave it out, or give an array in its place."


def _path(tree: Any, number: int, root: str = "only leaf") -> str:
    """Return the path of a leaf, in quotes; ``root`` where it is the tree itself."""
    path = list(flatten(tree))[number]
    return repr(path) if path else root
