"""What the tests of `batiste.tree` share: small trees, lazy arrays that count reads, and random trees."""

import jax
import numpy as np
from hypothesis import strategies as st

from batiste.tree import LazyArray


class Reads:
    """A lazy array over a known one, with a record of every box that its reader was asked for."""

    def __init__(self, array):
        self.array = np.asarray(array)
        self.boxes = []
        self.lazy = LazyArray(self.array.shape, self.array.dtype, self._read)

    def _read(self, box):
        self.boxes.append(box)
        return self.array.copy() if box is None else self.array[box].copy()

    @property
    def elements(self):
        """How many elements were read."""
        return sum(
            self.array.size if box is None else int(np.prod([part.stop - part.start for part in box]))
            for box in self.boxes
        )


def transformer(layers=3, width=4):
    """Parameters of a small transformer, each leaf with numbers of its own."""
    counter = iter(range(10_000))

    def leaf(*shape):
        return (
            np.full(shape, next(counter), np.float32) + np.arange(np.prod(shape), dtype=np.float32).reshape(shape) / 64
        )

    block = lambda: {  # noqa: E731 - one line a layer
        "attn": {"query": {"kernel": leaf(width, 2, 2)}, "out": {"kernel": leaf(2, 2, width)}},
        "mlp": {"kernel": leaf(width, width), "bias": leaf(width)},
    }
    return {
        "encoder": {f"h_{index}": block() for index in range(layers)} | {"norm": {"scale": leaf(width)}},
        "head": {"kernel": leaf(width, 3), "bias": leaf(3)},
    }


def same(left, right):
    """Whether two trees have the same structure, dtypes and bits."""
    if jax.tree.structure(left) != jax.tree.structure(right):
        return False
    pairs = zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)
    return all(np.array_equal(a, b) and np.asarray(a).dtype == np.asarray(b).dtype for a, b in pairs)


names = st.one_of(st.sampled_from(["a", "b", "h_0", "kernel", "bias"]), st.text("ab/~*[{", max_size=3))
"""Names of levels, hard ones too."""

arrays = st.tuples(st.lists(st.integers(0, 3), max_size=2), st.sampled_from(["float32", "int32", "bfloat16"])).map(
    lambda drawn: np.ones(drawn[0], drawn[1])
)


def trees(leaves=arrays):
    """Nested dicts without empty dicts, never a bare leaf."""
    return st.recursive(
        st.dictionaries(names, leaves, min_size=1, max_size=3),
        lambda inner: st.dictionaries(names, st.one_of(inner, leaves), min_size=1, max_size=3),
        max_leaves=8,
    )
