"""Embeddings: a learned vector for each of a number of ids, and the products of vectors with that table."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from batiste._arguments import array, whole_number
from batiste.dtypes import canonicalize_dtype, cast, promote_dtype
from batiste.errors import EmbeddingIdsError, EmbeddingRangeError
from batiste.module import Module
from batiste.nn._initializers import variance_scaling
from batiste.nn._jitted import jitted, settled
from batiste.nn._linear import PromoteDtype
from batiste.typing import Array, DTypeLike, Initializer

__all__ = ["Embed"]


class Embed(Module):
    """A table of vectors, looked up by id.

    Ids ``[batch...]`` become ``[batch..., features]``. Parameter: ``embedding`` ``[num_embeddings, features]``, drawn
    with variance ``1 / features``. A negative id counts from the end; one out of range gives nan, since JAX cannot
    raise for a value. With ``jax_debug_nans`` switched on, and outside of ``jit``, it is an ``EmbeddingRangeError``
    (Bengio and others, "A neural probabilistic language model", 2003).

    Attributes:
      num_embeddings: how many ids there are.
      features: how many numbers a vector has.
      dtype: what comes out; None takes that of the table.
      param_dtype: what the table is kept in.
      embedding_init: draws the table.
      promote_dtype: brings the table, and in ``attend`` the query, to one dtype.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from batiste import nn
      >>> table = nn.Embed(num_embeddings=10, features=4)
      >>> variables = table.init(jax.random.key(0), jnp.array([[1, 2, 3]]))
      >>> table.apply(variables, jnp.array([[1, 2, 3]])).shape
      (1, 3, 4)
      >>> table.apply(variables, jnp.ones((2, 4)), method="attend").shape
      (2, 10)
    """

    num_embeddings: int
    features: int
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    embedding_init: Initializer = variance_scaling(1.0, "fan_in", "normal", out_axis=0)
    promote_dtype: PromoteDtype = promote_dtype

    def setup(self) -> None:
        """Make the table, so that ``attend`` may be called first.

        Raises:
          ArgumentError: a size is no whole number.
        """
        rows = whole_number(self.num_embeddings, "num_embeddings", self)
        shape = (rows, whole_number(self.features, "features", self))
        self.embedding = self.param("embedding", self.embedding_init, shape, self.param_dtype)

    def __call__(self, inputs: Array) -> Array:
        """Return the vectors ``[batch..., features]`` of the ids ``inputs`` ``[batch...]``.

        Raises:
          ArgumentError: the input is no array.
          EmbeddingIdsError: the ids are no integers.
          EmbeddingRangeError: an id is out of range, where JAX looks for nan (``jax_debug_nans``, outside of ``jit``).
        """
        inputs = array(inputs, "inputs", self)
        if not jnp.issubdtype(inputs.dtype, jnp.integer):
            raise EmbeddingIdsError(path=self.path, dtype=jnp.dtype(inputs.dtype).name)
        if self.promote_dtype is promote_dtype:
            dtype = canonicalize_dtype(self.embedding, dtype=self.dtype, inexact=False)
            return self._looked_up(self.embedding, inputs, np.dtype(dtype))
        (embedding,) = self.promote_dtype(self.embedding, dtype=self.dtype, inexact=False)
        return self._looked_up(embedding, inputs, None)

    def _looked_up(self, table: Array, ids: Array, dtype: np.dtype[Any] | None) -> Array:
        try:
            return _look_up(table, ids, dtype)
        except FloatingPointError as error:  # under jax_debug_nans
            wrong = ids[(ids < -self.num_embeddings) | (ids >= self.num_embeddings)]
            if not wrong.size:
                raise
            raise EmbeddingRangeError(path=self.path, given=int(wrong[0]), rows=self.num_embeddings) from error

    def attend(self, query: Array) -> Array:
        """Return the product of ``query`` ``[batch..., features]`` with every vector: ``[batch..., num_embeddings]``.

        As the last layer of a language model, this shares the table between input and output (Press and Wolf, 2016,
        https://arxiv.org/abs/1608.05859).
        """
        query = array(query, "query", self)
        query, embedding = self.promote_dtype(query, self.embedding, dtype=self.dtype)
        return settled(_product, (query, embedding))


def _product(query: Array, table: Array) -> Array:
    return jnp.dot(query, table.T)


@jitted(arrays=2, lead=1)
def _look_up(embedding: Array, ids: Array, dtype: np.dtype[Any] | None) -> Array:
    table = embedding if dtype is None else cast(embedding, dtype)
    count, features = table.shape
    if count == 0:
        return jnp.full((*ids.shape, features), jnp.nan, table.dtype)
    if count == 1 and jnp.issubdtype(table.dtype, jnp.inexact):  # a broadcast is far cheaper than a gather
        is_there = (ids == 0) | (ids == -1) if jnp.issubdtype(ids.dtype, jnp.signedinteger) else ids == 0
        row = jnp.reshape(table, (*(1,) * ids.ndim, features))
        return jnp.where(jnp.expand_dims(is_there, -1), row, jnp.nan)
    if ids.dtype.itemsize < 4 and jnp.iinfo(ids.dtype).max < count:  # -1 + count would not fit in its dtype
        ids = cast(ids, jnp.int32)
    return jnp.take(table, ids, axis=0)
