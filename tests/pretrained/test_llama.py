"""The Llama of the examples beside that of transformers: the same logits from the same weights."""

import jax
import numpy as np
import torch
import transformers

from batiste.importers import from_torch
from examples import llama


def test_logits_are_those_of_transformers():
    config = llama.TOY
    torch.manual_seed(0)
    settings = transformers.LlamaConfig(
        vocab_size=config.vocab,
        hidden_size=config.features,
        intermediate_size=config.hidden,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.kv_heads,
        rms_norm_eps=config.epsilon,
        rope_theta=config.rotary_base,
        rope_parameters={"rope_type": "default", "rope_theta": config.rotary_base},
        tie_word_embeddings=False,
    )
    theirs = transformers.LlamaForCausalLM(settings).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))  # scales of ones would hide a wrong name
    tokens = np.random.default_rng(0).integers(0, config.vocab, (2, 24)).astype(np.int32)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(tokens).long()).logits.numpy()
    model = llama.Llama(config)
    target = jax.eval_shape(model.init, jax.random.key(0), tokens)
    variables = from_torch(theirs.state_dict(), target, llama.HUGGING_FACE)
    found = np.asarray(model.apply(variables, tokens))
    assert np.abs(found - expected).max() <= 1e-5 * max(1.0, np.abs(expected).max())
