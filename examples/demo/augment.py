"""Augmentation: every image is a little different each time that it is seen, drawn within the compiled step."""

import dataclasses

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates


@dataclasses.dataclass(frozen=True)
class Augment:
    """How far images may be moved: each amount is drawn evenly from its negative to itself.

    Attributes:
      turn: radians.
      scale: a share of the size, for each axis of its own.
      shear: a share of the height.
      shift: pixels, along each axis.
      flip: whether one image in two is mirrored, left to right.
    """

    turn: float = 0.0
    scale: float = 0.0
    shear: float = 0.0
    shift: float = 0.0
    flip: bool = False

    def __call__(self, key: jax.Array, images: jax.Array) -> jax.Array:
        """Return moved images, ``[batch, height, width, 1]``, as ``float32``."""
        moved = jax.vmap(self.move)(jax.random.split(key, len(images)), images[..., 0].astype(jnp.float32))
        return moved[..., None]

    def move(self, key: jax.Array, image: jax.Array) -> jax.Array:
        """Return one image, ``[height, width]``, seen through a random affine map."""
        keys = jax.random.split(key, 5)

        def draw(key: jax.Array, amount: float, shape: tuple[int, ...] = ()) -> jax.Array:
            return jax.random.uniform(key, shape, minval=-amount, maxval=amount)

        angle, shear = draw(keys[0], self.turn), draw(keys[1], self.shear)
        turn = jnp.array([[jnp.cos(angle), -jnp.sin(angle)], [jnp.sin(angle), jnp.cos(angle)]])
        lean = jnp.array([[1.0, shear], [0.0, 1.0]])
        scale = 1 + draw(keys[2], self.scale, (2,))
        if self.flip:
            scale *= jnp.array([1.0, jax.random.rademacher(keys[3], (), jnp.float32)])
        height, width = image.shape
        center = jnp.array([height - 1, width - 1]) / 2
        grid = jnp.stack(jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij"), axis=-1)
        source = (grid - center) @ (turn @ lean * scale).T + center + draw(keys[4], self.shift, (2,))
        return map_coordinates(image, [source[..., 0], source[..., 1]], order=1)
