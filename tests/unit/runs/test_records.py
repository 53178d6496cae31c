"""Records of a run's files: read and written again they give the same bytes, and nothing unknown gets in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from aftermix.errors import AftermixError
from aftermix.runs.input_records import LockRecord, SourceRecord, SplitRecord
from aftermix.runs.json_record import JsonRecord
from aftermix.runs.landscape_records import CosinesRecord, LandscapeRecord
from aftermix.runs.mixture_records import (
    LevelDesignRecord,
    LevelRecord,
    MixtureDesignRecord,
    MixtureRecord,
    SearchedLevelRecord,
    TreeDesignRecord,
    TreeRecord,
)
from aftermix.runs.records import BestRecord, ScoresRecord
from aftermix.runs.share_records import SharesRecord
from aftermix.runs.trials import dump_trial, parse_items, parse_trial
from aftermix.runs.verification_records import TrainingRecord, VerificationRecord

FIXTURE = Path(__file__).parents[2] / "data" / "runs-0a1294b"
KINDS: dict[str, type[JsonRecord]] = {
    "*/lock.json": LockRecord,
    "*/model/lock.json": LockRecord,
    "*/items/split.json": SplitRecord,
    "*/cosines.json": CosinesRecord,
    "*/shares.json": SharesRecord,
    "search/best.json": BestRecord,
    "mixture/best.json": MixtureRecord,
    "mixture/design.json": MixtureDesignRecord,
    "mixture/landscape.json": LandscapeRecord,
    "mixture/verification.json": VerificationRecord,
    "tree/best.json": TreeRecord,
    "tree/design.json": TreeDesignRecord,
    "tree/levels/*/best.json": SearchedLevelRecord,
    "tree/levels/*/design.json": LevelDesignRecord,
    "trained/*/train.json": TrainingRecord,
}
"""By end of the path."""
OURS = [
    path
    for path in sorted(FIXTURE.rglob("*.json"))
    if path.relative_to(FIXTURE).parts[0] in ("search", "mixture", "tree", "killed")
    and path.name not in ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")
]
"""Files of runs that are not a model's own."""
RECORDS = [path for path in OURS if path.name == "split.json" or "items" not in path.parts]
ITEMS = [path for path in OURS if path not in RECORDS]
JOURNALS = sorted(FIXTURE.rglob("trials.jsonl"))


def named(paths: list[Path]) -> dict[str, Any]:
    return {"argvalues": paths, "ids": [path.relative_to(FIXTURE).as_posix() for path in paths]}


def kind_of(path: Path) -> type[JsonRecord]:
    return next(kind for pattern, kind in KINDS.items() if path.match(pattern))


@pytest.mark.parametrize("path", **named(RECORDS))
def test_record_read_and_written_gives_the_same_bytes(path: Path, tmp_path: Path) -> None:
    kind_of(path).read(path).write(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("path", **named(ITEMS))
def test_item_scores_read_and_written_give_the_same_bytes(path: Path) -> None:
    content = path.read_bytes()
    assert f"{json.dumps(parse_items(content), indent=2)}\n".encode() == content


@pytest.mark.parametrize("path", **named(JOURNALS))
def test_trials_read_and_written_give_the_same_bytes(path: Path) -> None:
    lines = path.read_bytes().splitlines()
    assert [json.dumps(dump_trial(parse_trial(line))).encode() for line in lines] == lines


def test_every_kind_of_file_is_in_the_fixture() -> None:
    assert {kind_of(path) for path in RECORDS} == set(KINDS.values())


def numbers_as_integers(value: Any) -> Any:
    """Whole numbers without their `.0`, as an older version or a hand may have written them."""
    if isinstance(value, dict):
        return {key: numbers_as_integers(part) for key, part in value.items()}
    if isinstance(value, list):
        return [numbers_as_integers(part) for part in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


@pytest.mark.parametrize("path", **named(RECORDS))
def test_integers_stay_integers(path: Path) -> None:
    text = json.dumps(numbers_as_integers(json.loads(path.read_text())), indent=2) + "\n"
    assert kind_of(path).parse(text, where=path.name).to_bytes() == text.encode()


def objects_in(value: Any) -> list[dict[str, Any]]:
    """All objects of a JSON value, itself first."""
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [value] * isinstance(value, dict) + [found for part in parts for found in objects_in(part)]


@pytest.mark.parametrize("path", **named([path for path in RECORDS if "killed" not in path.parts]))
@given(data=st.data())
def test_unknown_keys_are_refused_or_are_names(path: Path, data: st.DataObject) -> None:
    values = json.loads(path.read_text())
    target = data.draw(st.sampled_from(objects_in(values)))
    target["from the future"] = {"a": [1]}

    # An object whose keys are names of vectors, tasks or files takes any key, but none has such a value.
    free = path.name == "train.json" and target is not values
    if not free:
        with pytest.raises(AftermixError):
            kind_of(path).parse(json.dumps(values), where=path.name)


def test_unknown_key_is_named_with_its_place() -> None:
    values = json.loads((FIXTURE / "search/best.json").read_text())
    values["test"]["from_the_future"] = 1

    with pytest.raises(AftermixError, match=r"best.json: test.from_the_future: expected no such key"):
        BestRecord.parse(json.dumps(values), where="best.json")


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_numbers_that_json_lacks_are_refused(number: float) -> None:
    with pytest.raises(ValidationError, match="finite"):
        ScoresRecord(objective=(number,), interval=(None,))
    with pytest.raises(AftermixError, match=r"scores: objective.0: Input should be a finite number"):
        ScoresRecord.parse(json.dumps({"objective": [number], "interval": [None]}), where="scores")


def test_absent_is_absent_and_null_is_null(tmp_path: Path) -> None:
    ScoresRecord(objective=(1.0,), interval=(None,)).write(tmp_path / "without")
    ScoresRecord(objective=(1,), interval=(None,), utility=None).write(tmp_path / "with")

    assert json.loads((tmp_path / "without").read_text()) == {"objective": [1.0], "interval": [None]}
    assert '"utility": null' in (tmp_path / "with").read_text()
    for name in ("without", "with"):
        assert ScoresRecord.read(tmp_path / name).to_bytes() == (tmp_path / name).read_bytes()


def test_what_is_built_has_the_numbers_it_was_built_from() -> None:
    winner = json.loads((FIXTURE / "search/best.json").read_text())["winner"]
    options = {"a": 1, "b": 1.0, "c": True, "d": None, "e": ["x", "y"], "f": {"ja": 0.5, "it": 1}, "g": "sum"}
    record = BestRecord.model_fields["winner"].annotation(**winner | {"options": options})
    assert json.loads(record.to_bytes())["options"] == options
    assert [type(value) for value in record.options.values()] == [int, float, bool, type(None), tuple, dict, str]


def test_text_is_written_as_it_is_or_escaped() -> None:
    record = SourceRecord(run="/läufe")
    assert record.to_bytes() == '{\n  "run": "/läufe"\n}\n'.encode()
    assert record.to_bytes(escaped=True) == b'{\n  "run": "/l\\u00e4ufe"\n}\n'


def test_group_without_a_search_has_three_keys() -> None:
    kept = LevelRecord(level="left", shares={"b": 0.5, "c": 0.5}, note="has less than 0.5% of the whole")
    assert list(json.loads(kept.to_bytes())) == ["level", "shares", "note"]
    assert list(SearchedLevelRecord.model_fields)[:4] == ["level", "shares", "note", "winner"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[1]", "expected a JSON object, found list"),
        (b"{", "Invalid JSON: EOF"),
        (b"\xff", "cannot be read"),
        (None, "cannot be read"),
        (b'{"run": 1}', "from.json: run: Input should be a valid string"),
        (b"{}", "from.json: run: Field required"),
    ],
)
def test_damaged_file_is_refused_with_its_place(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "from.json").write_bytes(content)
    with pytest.raises(AftermixError, match=message) as caught:
        SourceRecord.read(tmp_path / "from.json")
    assert str(tmp_path / "from.json") in caught.value.problem.where
    assert caught.value.problem.remedy
