"""Ready tables of rules: the usual ways to train on many devices.

Each is a ``Rules`` value: print it, put rules before its own (``first``), save it (``to_json``). Several are put
together with ``+``: ``"fsdp+tensor"``. The mesh axes are called ``data``, ``fsdp``, ``tensor``, ``sequence`` and
``expert``; one that a mesh does not have cuts nothing.

* ``data``: each device has all parameters and its part of the batch.
* ``zero1``: the same, with the optimiser's state in parts (ZeRO stage 1, https://arxiv.org/abs/1910.02054).
* ``fsdp``: parameters, gradients and optimiser in parts, each along its longest axis (ZeRO stage 3, same paper).
* ``tensor``: the attention and MLP layers of ``batiste.nn`` by heads and by hidden features, embeddings and heads by
  vocabulary (https://arxiv.org/abs/1909.08053). An MLP is known by the names of its layers, which stand in the table.
* ``sequence``: activations between layers by sequence (https://arxiv.org/abs/2205.05198), where the model names their
  axes with ``with_logical_constraint``.
* ``expert``: the experts of ``nn.MoE`` (https://arxiv.org/abs/2006.16668).
"""

from __future__ import annotations

from types import MappingProxyType

from jax.sharding import PartitionSpec

from batiste._arguments import choice, text
from batiste.shard._rules import Cut, Rule, Rules

__all__ = ["PRESETS", "preset"]

PRESETS = ("data", "zero1", "fsdp", "tensor", "sequence", "expert")
"""The names that ``preset`` takes, alone or with ``+`` between."""

_LEAST = 1024
"""An array of fewer numbers is not worth a gather of its own: scales, biases and counters lie whole."""

_TENSOR: MappingProxyType[str, tuple[str | None, ...]] = MappingProxyType(
    {
        "**/{query,key,value}/kernel": (None, "tensor", None),  # [features, heads, depth]
        "**/{query,key,value}/bias": ("tensor", None),  # [heads, depth]
        "**/{attention,attn,MultiHead*,GroupedQueryAttention_*}/out/kernel": ("tensor", None, None),
        "**/{up,gate,fc1,wi,wi_0,wi_1,in}/kernel": (None, "tensor"),  # [features, hidden]
        "**/{up,gate,fc1,wi,wi_0,wi_1,in}/bias": ("tensor",),
        "**/{down,fc2,wo}/kernel": ("tensor", None),  # [hidden, features]
        "**/embedding": ("tensor", None),  # [vocabulary, features]
        "**/{head,lm_head,logits}/kernel": (None, "tensor"),  # [features, vocabulary]
        "**/{head,lm_head,logits}/bias": ("tensor",),
    }
)
_EXPERT: MappingProxyType[str, tuple[str | None, ...]] = MappingProxyType(
    {
        "**/experts/{up,gate}": ("expert", None, "tensor"),  # [experts, features, hidden]
        "**/experts/down": ("expert", "tensor", None),  # [experts, hidden, features]
    }
)


def preset(name: str) -> Rules:
    """Return a ready table of rules.

    Args:
      name: one of ``PRESETS``, or several with ``+`` between.

    Raises:
      ArgumentError: there is no such table.

    Example:
      >>> from batiste import shard
      >>> rules = shard.preset("fsdp+tensor")
      >>> rules.name, rules.batch
      ('fsdp+tensor', P(('data', 'fsdp'),))
    """
    words = [word.strip() for word in text(name, "name", "preset").split("+")]
    for word in words:
        choice(word, "name", "preset", PRESETS)
    chosen = set(words)
    largest = "fsdp" if "fsdp" in chosen else None
    layers = {**(_EXPERT if "expert" in chosen else {}), **(_TENSOR if "tensor" in chosen else {})}
    cuts = {pattern: [axis if axis in chosen else None for axis in entries] for pattern, entries in layers.items()}
    table: dict[str, Rule] = {}
    if "zero1" in chosen:  # moments lie as their parameters do, and are cut once more
        spread = ("data", "fsdp") if largest else "data"
        for pattern, entries in cuts.items():
            table[f"opt_state/{pattern}"] = Cut(*entries, largest=spread, at_least=_LEAST)
        table["opt_state/**"] = Cut(largest=spread, at_least=_LEAST)
    for pattern, entries in cuts.items():
        table[pattern] = Cut(*entries, largest=largest, at_least=_LEAST if largest else 0)
    table["**"] = Cut(largest=largest, at_least=_LEAST) if largest else PartitionSpec()
    batch = tuple(axis for axis in ("data", "fsdp", "expert") if axis == "data" or axis in chosen)
    tensor = "tensor" if "tensor" in chosen else None
    length = (*("sequence",) * ("sequence" in chosen),)
    activations: tuple[tuple[str, str | tuple[str, ...] | None], ...] = (
        ("batch", batch),
        ("sequence", length or None),
        ("embed", None),
        ("heads", tensor),
        ("mlp", tensor),
        ("vocab", tensor),
        ("expert", "expert" if "expert" in chosen else None),
    )
    return Rules(table, name="+".join(words), batch=PartitionSpec(batch), activations=activations)
