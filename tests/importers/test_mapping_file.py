"""Mappings in files: what is written is what is read, and nothing but a mapping is."""

import json

import pytest

from batiste.errors import MappingFileError, MappingRuleError
from batiste.importers import (
    AttentionIn,
    BatchNorm,
    Conv,
    ConvTranspose,
    FlattenLinear,
    Identity,
    Linear,
    Lstm,
    Rule,
    Transpose,
    WeightNorm,
    dump_mapping,
    load_mapping,
)

RULES = (
    Rule("h.*.fc", "params/h_{1}", Linear()),
    Rule("bn", "params/bn", BatchNorm("moments"), optional=True),
    Rule("q", "params/q", AttentionIn(heads=12)),
    Rule("fc", "params/fc", FlattenLinear((2, 3, 4))),
    Rule("lstm", "params/lstm", Lstm(1, reverse=True), tied=True),
    Rule("a", "a", Transpose((1, 0))),
    Rule("normed", "normed", WeightNorm(Conv())),
    Rule("up.*", "up_{1}", WeightNorm(ConvTranspose(groups=2), dim=None)),
    Rule("b", "b", Identity()),
    Rule("position_ids", None, optional=True),
    Rule("head.weight", None, same_as="embed.weight"),
)


def test_there_and_back(tmp_path):
    (tmp_path / "mapping.json").write_text(dump_mapping(RULES), encoding="utf-8")
    assert load_mapping(tmp_path / "mapping.json") == RULES
    rows = json.loads(dump_mapping(RULES))["rules"]
    assert rows[0] == {"source": "h.*.fc", "target": "params/h_{1}", "layout": "linear"}
    assert rows[2]["layout"] == {"name": "attention_in", "heads": 12}
    assert rows[6]["layout"] == {"name": "weight_norm", "layout": "conv"}
    assert rows[9] == {"source": "position_ids", "target": None, "optional": True}
    assert dump_mapping([("h.*.fc", "params/h_{1}", Linear())]).count("\n") == 5


RULE = {"source": "a", "target": "b"}


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("{", "it is not JSON"),
        ("[" * 100_000, "it is not JSON"),
        ([], "it has no list `rules`"),
        ({"rules": {}}, "it has no list `rules`"),
        ({"rules": [RULE, 1]}, "in rule 1 stands no object"),
        ({"rules": [{"source": "a"}]}, "in rule 0 there is no source or no target"),
        ({"rules": [{**RULE, "sauce": 1}]}, "in rule 0 is 'sauce', which no rule has"),
        ({"rules": [{**RULE, "tied": "yes"}]}, "in rule 0 'tied' cannot be 'yes'"),
        ({"rules": [{**RULE, "layout": "convolution"}]}, "is the layout 'convolution'; known are attention, "),
        ({"rules": [{**RULE, "layout": {"heads": 3}}]}, "is the layout None"),
        ({"rules": [{**RULE, "layout": {"name": "linear", "heads": 3}}]}, "the layout linear cannot have heads=3"),
        ({"rules": [{**RULE, "layout": {"name": "reshape"}}]}, "the layout reshape needs original, shape"),
        ({"rules": [{**RULE, "layout": {"name": "attention", "heads": {}}}]}, "cannot have heads"),
        ({"rules": [{**RULE, "layout": {"name": "transpose", "axes": ["0"]}}]}, "cannot have axes"),
        ({"rules": [{**RULE, "layout": {"name": "linear", "transposed": 1}}]}, "cannot have transposed=1"),
        ({"rules": [{**RULE, "layout": {"name": "weight_norm", "layout": "x"}}]}, "is the layout 'x'"),
        ({"rules": [{**RULE, "layout": {"name": "weight_norm", "layout": "weight_norm"}}]}, "cannot have layout="),
    ],
    ids=range(17),
)
def test_what_is_no_mapping(tmp_path, body, says):
    path = tmp_path / "mapping.json"
    path.write_text(body if isinstance(body, str) else json.dumps(body), encoding="utf-8")
    with pytest.raises(MappingFileError, match=says):
        load_mapping(path)


def test_other_mistakes(tmp_path):
    with pytest.raises(MappingFileError, match="No such file"):
        load_mapping(tmp_path / "absent.json")
    (tmp_path / "mapping.json").write_text(json.dumps({"rules": [{"source": "{", "target": "b"}]}), encoding="utf-8")
    with pytest.raises(MappingRuleError):
        load_mapping(tmp_path / "mapping.json")
    with (tmp_path / "large.json").open("wb") as file:
        file.truncate(1 << 25)
    with pytest.raises(MappingFileError, match="larger than any mapping"):
        load_mapping(tmp_path / "large.json")
