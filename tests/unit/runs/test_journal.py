"""The journal: what is written reads back to the bit; torn and damaged lines are told apart."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aftermix.errors import SearchError
from aftermix.runs import journal
from aftermix.runs.trials import Trial, check_items, dump_trial, parse_trial

FINITE = st.floats(allow_nan=False, allow_infinity=False)


def trial(number: int, **changes: object) -> Trial:
    values = {"state": "complete", "weights": {"it": 0.1 + number}, "scores": {"t": 0.5}, "objective": (0.5,)}
    return Trial(
        **{"number": number, "feasible": True, "seconds": {"combine": 0.25}, "origin": "sampler", **values, **changes}
    )


@given(st.dictionaries(st.text(max_size=5), FINITE), st.lists(FINITE, min_size=1, max_size=3))
def test_a_trial_survives_json_to_the_bit(weights, objective):
    before = trial(3, weights=weights, objective=tuple(objective))
    assert parse_trial(json.dumps(dump_trial(before)).encode()) == before


def test_a_line_has_the_promised_keys(tmp_path):
    journal.append_trial(tmp_path, trial(0), {"t": [1.0, 0.0]})
    journal.append_trial(
        tmp_path, Trial(number=1, state="failed", weights={"it": 1.0}, error="out of memory", origin="startup"), None
    )
    first, second = map(json.loads, (tmp_path / "trials.jsonl").read_text().splitlines())
    assert first == {
        "number": 0,
        "state": "complete",
        "weights": {"it": 0.1},
        "settings": {},
        "scores": {"t": 0.5},
        "objective": 0.5,
        "feasible": True,
        "seconds": {"combine": 0.25},
        "error": None,
        "origin": "sampler",
    }
    assert list(second) == list(first)
    assert (second["state"], second["objective"], second["error"]) == ("failed", None, "out of memory")
    assert json.loads((tmp_path / "items/search/00000.json").read_text()) == {"t": [1.0, 0.0]}
    assert not (tmp_path / "items/search/00001.json").exists()


def test_several_objectives_are_a_list():
    assert dump_trial(trial(0, objective=(0.5, 0.25)))["objective"] == [0.5, 0.25]


def test_reading_an_absent_journal_gives_no_trials(tmp_path):
    assert journal.read_trials(tmp_path) == []
    assert journal.reopen(tmp_path) == []


def test_a_journal_torn_at_any_byte_keeps_every_whole_line(tmp_path):
    for number in range(3):
        journal.append_trial(tmp_path, trial(number), {"t": [0.5]})
    path = tmp_path / "trials.jsonl"
    content = path.read_bytes()
    for size in range(len(content) + 1):
        path.write_bytes(content[:size])
        whole = content[:size].count(b"\n")
        assert len(journal.read_trials(tmp_path)) == whole
        assert path.stat().st_size == size
        journal.reopen(tmp_path)
        assert path.read_bytes() == b"".join(content.splitlines(keepends=True)[:whole])
    journal.append_trial(tmp_path, trial(3), {"t": [0.5]})
    assert [one.number for one in journal.read_trials(tmp_path)] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("{", "expected the record of trial 1, found Invalid JSON: EOF"),
        ("", "expected the record of trial 1, found Invalid JSON: EOF"),
        ("[]", "found Input should be an object"),
        ('{"number": 1, "state": "complete", "weights": {}}', "found a complete trial without an objective"),
        (
            '{"number": 1, "state": "lost", "weights": {}}',
            "found state: Input should be 'complete', 'failed' or 'pruned'",
        ),
        (
            '{"number": 1, "state": "failed", "weights": {"it": NaN}}',
            "found weights: it: Input should be a finite number",
        ),
        (
            '{"number": 1, "state": "failed", "weights": {"it": "1"}}',
            "found weights: it: Input should be a valid number",
        ),
        (json.dumps(dump_trial(trial(0))), "expected trial 1, found trial 0"),
    ],
)
def test_a_damaged_inner_line_is_named(tmp_path, line, found):
    lines = [json.dumps(dump_trial(trial(0))), line, json.dumps(dump_trial(trial(2)))]
    (tmp_path / "trials.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(SearchError) as caught:
        journal.reopen(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / 'trials.jsonl'}, line 2: ")
    assert found in str(caught.value)
    assert str(caught.value).endswith("or delete this line and all after it, and resume.")


def test_a_value_that_json_lacks_is_never_written(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        journal.append_trial(tmp_path, trial(0, objective=(math.nan,)), None)
    assert journal.read_trials(tmp_path) == []


def test_missing_and_damaged_item_files_are_named(tmp_path):
    with pytest.raises(SearchError, match=r"00004\.json: expected the select item scores of trial 4, found"):
        journal.read_items(tmp_path, "select", 4)
    journal.locate_items(tmp_path, "select", 4).parent.mkdir(parents=True)
    journal.locate_items(tmp_path, "select", 4).write_text('{"t": [0.5, "none"]}')
    with pytest.raises(SearchError, match=r"found t: scores: 1: Input should be a valid number"):
        journal.read_items(tmp_path, "select", 4)


def test_item_scores_are_checked_and_narrowed_to_the_tasks():
    assert check_items({"a": [1, 0], "b": [0.5]}, tasks=["a"], where="x") == {"a": [1.0, 0.0]}
    with pytest.raises(SearchError, match="x: expected item scores of task 'c', found none"):
        check_items({"a": [1.0]}, tasks=["a", "c"], where="x")
    with pytest.raises(SearchError, match="x: expected finite scores of task 'a', found nan at item 1"):
        check_items({"a": [1.0, math.nan]}, tasks=["a"], where="x")
