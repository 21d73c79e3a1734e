"""A run ended at random moments, in each of four ways, comes to the rows and the bits of one that is left alone.

The program is that of ``make bench``, which ends the run 200 times: ``benchmarks/kills.py`` says what the run has.
"""

from benchmarks import kills

WAYS = {"kill": 2, "signal": 1, "full disk": 1, "devices": 1}


def test_ended_at_random_moments(tmp_path):
    assert WAYS.keys() == kills.WAYS.keys()
    for way, found in kills.tried(WAYS, tmp_path).items():
        assert found["differences"] == [], way
        assert found["ended"] == WAYS[way]
        assert found["rows"] > 20
    another_way_is_told(kills.outcome(tmp_path / kills.ALONE))


def another_way_is_told(alone):
    assert "eval/loss was best" in alone["kept"]["stopped"]
    assert alone["kept"]["kept"]["dict"]
    other = {**alone, "rows": [{**row, "loss": row.get("loss", 0.0) + 1e-7} for row in alone["rows"]]}
    assert "rows" in kills.differences(alone, other, rounding=0.0)
    other["states"] = {**alone["states"], "best": {}}
    assert kills.differences(alone, other, rounding=1e-3) == ["best: other leaves"]
    swapped = [{**row, "order": 0} if row["step"] == 6 else row for row in alone["rows"]]
    assert "order of the data" in kills.differences(alone, {**alone, "rows": swapped}, rounding=1.0)
