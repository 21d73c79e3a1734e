"""Generation: what the uncached model would choose, token by token, with one program."""

import itertools

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from batiste import generate, nn
from batiste.errors import ArgumentError, GenerationModelError, GenerationPromptError
from batiste.generation._choose import Sampling
from batiste.generation._loop import run

WORDS = 5


def model_of(nn):
    """Return a language model with the layers of a library, and positions that it counts itself."""

    class Model(nn.Module):
        decode: bool = False

        @nn.compact
        def __call__(self, tokens, flip=False):
            places = jnp.arange(tokens.shape[1])[None]
            if self.decode:
                place = self.variable("cache", "place", lambda: jnp.zeros((), jnp.int32))
                if not self.is_initializing():
                    places = places + place.value
                    place.value = place.value + tokens.shape[1]
            x = nn.Embed(WORDS, 8)(tokens) + nn.Embed(16, 8)(places)
            mask = None if self.decode else nn.make_causal_mask(tokens)
            x = x + nn.MultiHeadDotProductAttention(2, decode=self.decode)(x, mask=mask)
            logits = nn.Dense(WORDS, kernel_init=nn.initializers.normal(1.0))(x)
            return -logits if flip else logits

    return Model


class Grouped(nn.Module):
    """Rotary positions, and a cache that takes the prompt in one call."""

    decode: bool = False

    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(WORDS, 8)(tokens)
        for _ in range(1):
            x = x + nn.GroupedQueryAttention(2, num_kv_heads=1, decode=self.decode, max_length=16)(x)
        return nn.Dense(WORDS, kernel_init=nn.initializers.normal(1.0))(x)


MODELS = {"multi-head": model_of(nn), "Flax's": model_of(flax.linen), "grouped": Grouped}
PROMPT = jax.random.randint(jax.random.key(5), (3, 5), 0, WORDS)
LENGTHS = np.array([5, 2, 4])
NEW = 5
ALIKE = {
    "an end": {"end_token": 3, "pad_token": 0},
    "drawn": {"temperature": 0.7, "top_k": 3, "top_p": 0.8, "key": jax.random.key(3)},
    "beams": {"beams": 3, "end_token": 3, "pad_token": 0, "length_penalty": 1.0},
}


def params_of(name, _known={}):  # noqa: B006 - made once
    if name not in _known:
        _known[name] = {"params": MODELS[name]().init(jax.random.key(0), PROMPT)["params"]}
    return _known[name]


@pytest.mark.usefixtures("users_rules")
@pytest.mark.parametrize(
    ("name", "option"),
    [("multi-head", "drawn"), ("multi-head", "beams"), ("Flax's", "an end"), ("grouped", "beams")],
)
def test_it_is_what_the_model_without_a_cache_chooses(name, option):
    options, variables = ALIKE[option], params_of(name)
    found = generate(MODELS[name](decode=True), variables, PROMPT, max_new_tokens=NEW, lengths=LENGTHS, **options)
    plain = generate(MODELS[name](), variables, PROMPT, max_new_tokens=NEW, lengths=LENGTHS, cache=False, **options)
    np.testing.assert_array_equal(found.tokens, plain.tokens)
    np.testing.assert_array_equal(found.lengths, plain.lengths)
    np.testing.assert_allclose(found.scores, plain.scores, rtol=1e-4, atol=1e-5)
    for row, count in enumerate(LENGTHS):
        np.testing.assert_array_equal(found.tokens[row, :count], PROMPT[row, :count])
        assert (found.tokens[row, found.lengths[row] :] == 0).all()
        assert count < found.lengths[row] <= count + NEW


@pytest.mark.usefixtures("users_rules")
def test_token_by_token_by_hand():
    name = "multi-head"
    found = generate(MODELS[name](decode=True), params_of(name), PROMPT, max_new_tokens=NEW, lengths=LENGTHS)
    apply = jax.jit(lambda tokens: MODELS[name]().apply(params_of(name), tokens))
    for row, count in enumerate(LENGTHS):
        tokens, score = list(np.asarray(PROMPT[row, :count])), 0.0
        for _ in range(NEW):
            padded = jnp.asarray([tokens + [0] * (10 - len(tokens))])
            chances = jax.nn.log_softmax(apply(padded)[0, len(tokens) - 1])
            tokens.append(int(chances.argmax()))
            score += float(chances.max())
        assert list(np.asarray(found.tokens[row, : count + NEW])) == tokens
        assert float(found.scores[row]) == pytest.approx(score, rel=1e-4)


@pytest.mark.usefixtures("users_rules")
def test_wide_beams_find_the_best_of_all():
    name, new = "grouped", 2
    prompt = PROMPT[:1, :2]
    found = generate(MODELS[name](decode=True), params_of(name), prompt, max_new_tokens=new, beams=WORDS)
    every = jnp.asarray([[*np.asarray(prompt[0]), *rest] for rest in itertools.product(range(WORDS), repeat=new)])
    chances = jax.nn.log_softmax(MODELS[name]().apply(params_of(name), every))
    scores = sum(chances[jnp.arange(len(every)), 1 + at, every[:, 2 + at]] for at in range(new))
    np.testing.assert_array_equal(found.tokens[0], every[scores.argmax()])
    np.testing.assert_allclose(found.scores[0], scores.max(), rtol=1e-5)


@pytest.mark.usefixtures("users_rules")
def test_one_program_serves_other_prompts_keys_and_temperatures():
    before = run._cache_size()
    for seed, heat, filters in ((0, 1.0, (3, 0.9)), (1, 0.5, (2, 0.5)), (2, 2.0, (4, 0.7))):
        prompt = jax.random.randint(jax.random.key(seed), (3, 5), 0, WORDS)
        options = {"temperature": heat, "top_k": filters[0], "top_p": filters[1], "key": jax.random.key(seed)}
        model = Grouped(decode=True)
        generate(model, params_of("grouped"), prompt, max_new_tokens=NEW, lengths=LENGTHS, **options)
    assert run._cache_size() == before + 1


@pytest.mark.usefixtures("users_rules")
def test_it_works_within_jit_and_with_the_options_of_the_model():
    name = "multi-head"
    outside = generate(MODELS[name](decode=True), params_of(name), PROMPT, max_new_tokens=3, flip=True)
    inside = jax.jit(
        lambda variables, prompt: generate(MODELS[name](decode=True), variables, prompt, max_new_tokens=3, flip=True)
    )(params_of(name), PROMPT)
    np.testing.assert_array_equal(outside.tokens, inside.tokens)
    straight = generate(MODELS[name](decode=True), params_of(name), PROMPT, max_new_tokens=3)
    assert not np.array_equal(outside.tokens, straight.tokens)


def test_which_tokens_may_be_drawn():
    logits = jnp.log(jnp.array([[0.4, 0.1, 0.3, 0.2], [0.25, 0.25, 0.25, 0.25]]))

    def kept(**numbers):
        sampling = Sampling(draws=True, top_k="top_k" in numbers, top_p="top_p" in numbers)
        found = sampling.filtered(logits, {"temperature": 1.0, **numbers})
        return [np.flatnonzero(np.isfinite(row)).tolist() for row in found]

    assert kept(top_k=2) == [[0, 2], [0, 1]]
    assert kept(top_k=9) == [[0, 1, 2, 3]] * 2
    assert kept(top_p=0.65) == [[0, 2], [0, 1, 2]]
    assert kept(top_p=0.01) == [[0], [0]]
    assert kept(top_k=2, top_p=0.6) == [[0, 2], [0, 1]]
    assert kept(top_k=3, top_p=1.0) == [[0, 2, 3], [0, 1, 2]]
    np.testing.assert_allclose(
        Sampling(draws=True, top_k=False, top_p=False).filtered(logits, {"temperature": 0.5}), 2 * logits
    )


def test_draws_have_the_chances_of_the_model():
    chances = np.array([0.4, 0.1, 0.3, 0.15, 0.05])
    model = nn.Sequential([nn.Embed(WORDS, WORDS, embedding_init=lambda *_: jnp.log(jnp.tile(chances, (WORDS, 1))))])
    prompt = jnp.zeros((2000, 1), jnp.int32)
    variables = model.init(jax.random.key(0), prompt)
    options = {"temperature": 1.0, "key": jax.random.key(1), "cache": False, "max_new_tokens": 2}
    found = generate(model, variables, prompt, **options)
    counts = np.bincount(np.asarray(found.tokens[:, 1:]).reshape(-1), minlength=WORDS) / 4000
    np.testing.assert_allclose(counts, chances, atol=0.03)


WRONG = {
    "a class": (GenerationModelError, {"model": Grouped}),
    "no cache": (GenerationModelError, {"model": Grouped()}),
    "no logits": (
        GenerationModelError,
        {"model": nn.Embed(WORDS, 4), "variables": {"params": {"embedding": jnp.ones((WORDS, 4))}}, "cache": True},
    ),
    "one axis": (GenerationPromptError, {"prompt": PROMPT[0]}),
    "no token": (GenerationPromptError, {"prompt": PROMPT[:, :0]}),
    "fractions": (GenerationPromptError, {"prompt": PROMPT * 1.0}),
    "lengths of others": (GenerationPromptError, {"lengths": np.array([1, 2])}),
    "a length of nothing": (GenerationPromptError, {"lengths": np.array([0, 2, 3])}),
    "a length beyond": (GenerationPromptError, {"lengths": np.array([6, 2, 3])}),
    "nothing new": (ArgumentError, {"max_new_tokens": 0}),
    "no key": (ArgumentError, {"temperature": 1.0}),
    "cold": (ArgumentError, {"temperature": -1.0, "key": jax.random.key(0)}),
    "filters of nothing": (ArgumentError, {"top_k": 3}),
    "no chance": (ArgumentError, {"temperature": 1.0, "key": jax.random.key(0), "top_p": 0.0}),
    "drawn beams": (ArgumentError, {"temperature": 1.0, "key": jax.random.key(0), "beams": 2}),
    "no beams": (ArgumentError, {"beams": 0}),
    "no end": (ArgumentError, {"end_token": "."}),
    "parameters alone": (ArgumentError, {"variables": None}),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments(name):
    kind, given = WRONG[name]
    arguments = {
        "model": Grouped(decode=True),
        "variables": params_of("grouped"),
        "prompt": PROMPT,
        "max_new_tokens": 3,
    }
    arguments |= given
    with pytest.raises(kind):
        generate(arguments.pop("model"), arguments.pop("variables"), arguments.pop("prompt"), **arguments)
