"""Weights from PyTorch: mappings that leave something out, and files that are not what they are taken for."""

from pathlib import Path

import numpy as np

from batiste.errors import (
    ExportMismatchError,
    ImportMismatchError,
    MappingFileError,
    MappingRuleError,
    NestedStateDictError,
    NotAStateDictError,
    TiedTensorsError,
    UnknownMappingError,
    UnmatchedRuleError,
)
from batiste.importers import Embedding, Linear, Rule, from_torch, load_mapping, pretrained, to_torch
from tests.errors.rows import raises


@raises(ExportMismatchError, "step: int32[], no rule leads to it", "ignore=")
def a_leaf_without_a_rule():
    variables = {"fc": {"kernel": np.ones((3, 2), np.float32)}, "step": np.int32(3)}
    to_torch(variables, [("fc", "fc", Linear())])


@raises(ImportMismatchError, "old.weight: float32[2, 3]", "fc/bias: float32[2]", "ignore=", "keep=")
def a_tensor_too_many_and_one_too_few():
    state = {"fc.weight": np.ones((2, 3), np.float32), "old.weight": np.ones((2, 3), np.float32)}
    target = {"fc": {"kernel": np.zeros((3, 2), np.float32), "bias": np.zeros(2, np.float32)}}
    from_torch(state, target, [("fc", "fc", Linear())])


@raises(MappingFileError, "mapping.json", "known are", "linear")
def an_unknown_layout():
    rule = '{"source": "fc", "target": "params/fc", "layout": "dense"}'
    Path("mapping.json").write_text(f'{{"rules": [{rule}]}}', encoding="utf-8")
    load_mapping("mapping.json")


@raises(MappingRuleError, "h.*", "params/h_{2}", "there is no wildcard 2")
def a_capture_of_nothing():
    from_torch({"h.0.weight": np.ones((2, 3))}, None, [("h.*", "params/h_{2}", Linear())])


@raises(NestedStateDictError, "state_dict, model", "nested=")
def two_state_dicts():
    model = {"fc.weight": np.ones((2, 3))}
    from_torch({"state_dict": model, "model": model}, None, [("fc", "fc", Linear())])


@raises(NotAStateDictError, "no tensors", "state_dict()")
def a_file_without_tensors():
    from_torch({"epoch": 3}, None, [("fc", "fc", Linear())])


@raises(TiedTensorsError, "head.weight and embed.weight", "same_as=")
def two_arrays_taken_for_one():
    state = {"embed.weight": np.ones((5, 3)), "head.weight": np.zeros((5, 3))}
    mapping = [Rule("embed", "embed", Embedding()), Rule("head.weight", None, same_as="embed.weight")]
    from_torch(state, None, mapping)


@raises(UnknownMappingError, "minilm", "Did you mean")
def a_mapping_of_no_model():
    pretrained.ready_mapping("minlim")


@raises(UnmatchedRuleError, "lm_head.weight", "optional=True")
def a_rule_for_nothing():
    state = {"fc.weight": np.ones((2, 3))}
    from_torch(state, None, [("fc", "fc", Linear()), ("lm_head", "head", Linear())])
