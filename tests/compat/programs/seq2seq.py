"""Sequence to sequence with LSTMs (Sutskever et al., 2014): a masked scan, a carry between two loops, sampling."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

PRNGKey = Any
LSTMCarry = tuple[Any, Any]


class EncoderLSTM(nn.Module):
    features: int
    eos_id: int

    @functools.partial(
        nn.transforms.scan,
        variable_broadcast="params",
        in_axes=1,
        out_axes=1,
        split_rngs={"params": False},
    )
    @nn.compact
    def __call__(self, carry, x):
        lstm_state, is_eos = carry
        new_lstm_state, y = nn.LSTMCell(self.features)(lstm_state, x)

        def select_carried_state(new_state, old_state):
            return jnp.where(is_eos[:, None], old_state, new_state)

        carried = tuple(select_carried_state(*s) for s in zip(new_lstm_state, lstm_state, strict=True))
        is_eos = jnp.logical_or(is_eos, x[:, self.eos_id] > 0)
        return (carried, is_eos), y


class Encoder(nn.Module):
    hidden_size: int
    eos_id: int

    @nn.compact
    def __call__(self, inputs):
        lstm = EncoderLSTM(self.hidden_size, self.eos_id, name="encoder_lstm")
        cell = nn.LSTMCell(self.hidden_size, parent=None)
        init_lstm_state = cell.initialize_carry(jax.random.key(0), inputs[:, 0].shape)
        init_is_eos = jnp.zeros(inputs.shape[0], dtype=bool)
        (final_state, _), _ = lstm((init_lstm_state, init_is_eos), inputs)
        return final_state


class DecoderLSTMCell(nn.RNNCellBase):
    features: int
    vocab_size: int
    teacher_force: bool = False

    @nn.compact
    def __call__(self, carry, x):
        lstm_state, last_prediction = carry
        if not self.teacher_force:
            x = last_prediction
        lstm_state, y = nn.LSTMCell(self.features)(lstm_state, x)
        logits = nn.Dense(features=self.vocab_size, name="projection")(y)
        categorical_rng = self.make_rng("lstm")
        predicted_token = jax.random.categorical(categorical_rng, logits)
        prediction = jax.nn.one_hot(predicted_token, self.vocab_size, dtype=jnp.float32)
        return (lstm_state, prediction), (logits, prediction)

    @property
    def num_feature_axes(self):
        return 1


class Seq2seq(nn.Module):
    teacher_force: bool
    hidden_size: int
    vocab_size: int
    eos_id: int = 1

    @nn.compact
    def __call__(self, encoder_inputs, decoder_inputs):
        init_decoder_state = Encoder(self.hidden_size, self.eos_id, name="encoder")(encoder_inputs)
        cell = DecoderLSTMCell(self.hidden_size, self.vocab_size, self.teacher_force, name="cell")
        decoder = nn.RNN(cell, split_rngs={"params": False, "lstm": True}, name="decoder")
        logits, predictions = decoder(decoder_inputs[:, :-1], initial_carry=(init_decoder_state, decoder_inputs[:, 0]))
        backwards = nn.Bidirectional(nn.RNN(nn.GRUCell(4)), nn.RNN(nn.OptimizedLSTMCell(4)), name="tags")
        tags = backwards(encoder_inputs, seq_lengths=jnp.array([5, 3]))
        return logits, predictions, tags


def build():
    tokens = jax.random.randint(jax.random.key(3), (2, 5), 0, 7)
    encoder_inputs = jax.nn.one_hot(tokens, 7)
    decoder_inputs = jax.nn.one_hot(jnp.roll(tokens, 1, axis=1), 7)
    rngs = {"params": jax.random.key(0), "lstm": jax.random.key(1)}
    return Seq2seq(True, 6, 7), (encoder_inputs, decoder_inputs), {}, False, rngs
