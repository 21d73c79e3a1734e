"""Generation: a model that keeps no cache, prompts that are none, a cache that is too short."""

import jax.numpy as jnp

from batiste import generate, nn
from batiste.errors import GenerationModelError, GenerationPromptError, GenerationResultError
from tests.errors.rows import key, raises


@raises(GenerationModelError, "no collection 'cache'", "decode=True", "cache=False")
def a_model_that_does_not_decode():
    model = nn.Sequential([nn.Embed(5, 4), nn.Dense(5)])
    tokens = jnp.array([[1, 2]])
    generate(model, model.init(key, tokens), tokens, max_new_tokens=3)


@raises(GenerationPromptError, "shape (2,)", "prompt[None]")
def a_prompt_without_a_batch():
    model = nn.Sequential([nn.Embed(5, 4), nn.Dense(5)])
    tokens = jnp.array([1, 2])
    generate(model, model.init(key, tokens), tokens, max_new_tokens=3, cache=False)


@raises(GenerationResultError, "logits that are NaN", "room for 5 tokens")
def a_cache_that_is_too_short():
    attention = nn.GroupedQueryAttention(num_heads=2, decode=True, max_length=3)
    model = nn.Sequential([nn.Embed(5, 4), attention, nn.Dense(5)])
    tokens = jnp.array([[1, 2]])
    generate(model, model.init(key, tokens), tokens, max_new_tokens=3)
