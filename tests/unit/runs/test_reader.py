"""Reading a run: what is tolerated, and the error each damage gets."""

from __future__ import annotations

import json

import pytest

from aftermix.errors import AftermixError
from aftermix.report.page import write_report
from aftermix.runs.reader import read_run


def test_records_carry_the_contracts_values(make_run):
    run = read_run(make_run(trials=10, imported=2, failed=(4,), scheme="first"))

    assert [trial.number for trial in run.trials] == list(range(12))
    assert [trial.is_imported for trial in run.trials[:3]] == [True, True, False]
    assert run.trials[4].state == "failed"
    assert run.trials[4].objective is None
    assert len(run.trials[5].objective) == 1
    assert run.items.overlap
    assert run.items.tasks["humaneval"].search == 27
    assert run.best.baselines[0].test.interval_of(0) is not None
    assert run.best.baselines[0].test.interval_of(1) is None
    assert run.model_files == ("aftermix.yaml", "config.json", "model.safetensors")


def test_trial_cut_off_while_it_was_written_has_not_ended(make_run):
    run = make_run(trials=5, finished=False)
    with (run / "trials.jsonl").open("a") as file:
        file.write('{"number": 5, "state": "comp')

    assert len(read_run(run).trials) == 5


def test_item_counts_come_from_the_split_when_there_is_no_result(make_run):
    items = read_run(make_run(trials=4, finished=False, scheme="first")).items

    assert items.scheme == "first"
    assert items.overlap
    assert (items.tasks["gsm8k"].search, items.tasks["gsm8k"].test) == (100, 1019)
    assert items.tasks["humaneval"].note == "164 items: split in proportion"


@pytest.mark.parametrize("name", ["best.json", "lock.json"])
def test_unknown_keys_are_refused(make_run, edit_json, name):
    run = make_run(trials=4)
    edit_json(run / name, lambda values: values.update(from_the_future={"a": 1}))

    with pytest.raises(AftermixError, match=rf"{name}: from_the_future: expected no such key"):
        read_run(run)


def test_trial_with_an_unknown_key_is_refused(make_run):
    run = make_run(trials=1, finished=False)
    trial = json.loads((run / "trials.jsonl").read_text())
    (run / "trials.jsonl").write_text(json.dumps({**trial, "from_the_future": 1}) + "\n")

    with pytest.raises(AftermixError, match=r"line 1: .* found from_the_future: expected no such key"):
        read_run(run)


def test_old_trial_without_settings_has_none(make_run):
    run = make_run(trials=1, finished=False)
    trial = json.loads((run / "trials.jsonl").read_text())
    del trial["settings"]
    (run / "trials.jsonl").write_text(json.dumps(trial) + "\n")

    assert read_run(run).trials[0].settings == {}


def test_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(AftermixError, match=r"expected a run folder, found no such folder. Name the -o folder"):
        write_report(tmp_path / "nothing")
    with pytest.raises(AftermixError, match=r"found no config.yaml in it"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_damaged_trial_is_refused_with_its_line(make_run):
    run = make_run(trials=3, finished=False)
    lines = (run / "trials.jsonl").read_text().splitlines(keepends=True)
    (run / "trials.jsonl").write_text(lines[0] + "{nonsense}\n" + lines[2])

    with pytest.raises(AftermixError, match=r"line 2: expected the record of trial 1, found Invalid JSON: .* Restore"):
        read_run(run)


def test_trial_with_a_wrong_value_is_refused_with_its_place(make_run):
    run = make_run(trials=1, finished=False)
    trial = json.loads((run / "trials.jsonl").read_text())
    (run / "trials.jsonl").write_text(json.dumps({**trial, "weights": {"it": "heavy"}}) + "\n")

    with pytest.raises(AftermixError, match=r"line 1: .* found weights: it: Input should be a valid number"):
        read_run(run)


def test_nan_is_refused(make_run):
    run = make_run(trials=1, finished=False)
    trial = json.loads((run / "trials.jsonl").read_text())
    (run / "trials.jsonl").write_text(json.dumps({**trial, "objective": float("nan")}) + "\n")

    with pytest.raises(AftermixError, match=r"line 1: .* found objective: 0: Input should be a finite number"):
        read_run(run)


def test_trial_that_is_there_twice_is_refused(make_run):
    run = make_run(trials=3, finished=False)
    line = (run / "trials.jsonl").read_text().splitlines(keepends=True)[1]
    with (run / "trials.jsonl").open("a") as file:
        file.write(line)

    with pytest.raises(AftermixError, match=r"trials.jsonl, line 4: expected trial 3, found trial 1"):
        read_run(run)


def test_damaged_result_is_refused_and_the_old_report_kept(make_run, edit_json):
    run = make_run(trials=6)
    before = write_report(run).read_bytes()
    edit_json(run / "best.json", lambda best: best["test"].pop("objective"))

    with pytest.raises(AftermixError, match=r"best.json: test.objective: Field required"):
        write_report(run)
    assert (run / "report.html").read_bytes() == before


def test_baseline_with_another_number_of_objectives_is_refused(make_run, edit_json):
    run = make_run(trials=6)
    edit_json(run / "best.json", lambda best: best["baselines"][1]["test"].update(objective=[0.1, 0.2]))

    with pytest.raises(AftermixError, match=r"baseline 'it': expected 1 objective\(s\), found 2"):
        read_run(run)


@pytest.mark.parametrize("text", ["[1, 2]", "{", "\udcff"])
def test_unreadable_json_is_refused(make_run, text):
    run = make_run(trials=2, finished=False)
    (run / "lock.json").write_bytes(text.encode("utf-8", "surrogateescape"))

    with pytest.raises(AftermixError, match=r"lock.json"):
        read_run(run)


def test_damaged_split_is_refused(make_run):
    run = make_run(trials=2, finished=False)
    (run / "items" / "split.json").write_text('{"gsm8k": {"search": ["a"]}}')

    with pytest.raises(AftermixError, match=r"split.json: gsm8k.select: Field required"):
        read_run(run)
