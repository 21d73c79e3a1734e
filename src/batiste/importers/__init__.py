"""Weights from PyTorch, and back: a mapping as data, checked to the last tensor and the last leaf."""

from batiste.importers._attention import Attention, AttentionIn, AttentionOut, FusedAttentionIn
from batiste.importers._export import to_torch
from batiste.importers._import import from_torch
from batiste.importers._layouts import (
    BatchNorm,
    Conv,
    ConvTranspose,
    Embedding,
    FlattenLinear,
    Identity,
    LayerNorm,
    Layout,
    Linear,
    PReLU,
    Reshape,
    Transpose,
)
from batiste.importers._mapping_file import dump_mapping, load_mapping
from batiste.importers._plan import DTypePolicy, Report, Target, Use, plan_import
from batiste.importers._recurrent import Gru, Lstm, Rnn
from batiste.importers._rules import Rule, RuleLike, WeightMapping
from batiste.importers._state_dict import Source
from batiste.importers._suggest import Ambiguity, Suggestion, suggest_mapping
from batiste.importers._weight_norm import WeightNorm

__all__ = [
    "Ambiguity",
    "Attention",
    "AttentionIn",
    "AttentionOut",
    "BatchNorm",
    "Conv",
    "ConvTranspose",
    "DTypePolicy",
    "Embedding",
    "FlattenLinear",
    "FusedAttentionIn",
    "Gru",
    "Identity",
    "LayerNorm",
    "Layout",
    "Linear",
    "Lstm",
    "PReLU",
    "Report",
    "Reshape",
    "Rnn",
    "Rule",
    "RuleLike",
    "Source",
    "Suggestion",
    "Target",
    "Transpose",
    "Use",
    "WeightMapping",
    "WeightNorm",
    "dump_mapping",
    "from_torch",
    "load_mapping",
    "plan_import",
    "suggest_mapping",
    "to_torch",
]
