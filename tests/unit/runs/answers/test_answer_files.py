"""Files of kept answers: the same answers are the same bytes, and what is damaged is refused by place."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from aftermix.errors import AftermixError
from aftermix.runs import journal
from aftermix.runs.answers.candidate import TaskAnswers, read_answers
from aftermix.runs.answers.reading import (
    has_answers,
    keeps_answers,
    read_kept_answers,
    read_loglikelihoods,
    read_requests,
    take_answers,
)
from aftermix.runs.answers.requests import SplitRequests, TaskRequests, write_requests
from aftermix.runs.trials import Trial


def make_requests(sizes: list[int], gold: list[int]) -> SplitRequests:
    total = sum(sizes)
    return SplitRequests(
        np.array([0, *np.cumsum(sizes)], np.int64),
        np.array(gold, np.int32),
        np.arange(total, dtype=np.int32) + 2,
        np.arange(total, dtype=np.int32) + 1,
    )


TABLE = {
    "quiz": TaskRequests("choice", "acc_norm,none", "characters", {"search": make_requests([2, 3], [1, 0])}),
    "sums": TaskRequests("none", "exact_match,strict", None, {"search": make_requests([0, 1, 0], [-1, -1, -1])}),
}
TEXTS = (("sums/0", "19\u2028\n"), ("sums/1", "日本"), ("sums/4", ""))
ANSWERS = {
    "quiz": TaskAnswers(np.array([-1.5, -2, -3, -0.25, -9], np.float32), np.array([0, 0, 0, 1, 0], np.uint8)),
    "sums": TaskAnswers(
        np.array([np.nan], np.float32),
        np.array([0], np.uint8),
        (("sums/0", "19\u2028\n"), ("sums/1", "日本"), ("sums/4", "")),
    ),
}
SCORES: dict[str, list[float | None]] = {"quiz": [1.0, 0.0], "sums": [1.0, 0.0, 0.0]}


def make_trial(number: int) -> Trial:
    return Trial(number=number, state="complete", weights={"a": 0.5}, scores={"quiz": 0.5}, objective=(0.5,))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with one trial, whose answers it keeps."""
    write_requests(tmp_path, TABLE)
    journal.append_trial(tmp_path, make_trial(0), SCORES, answers=ANSWERS)
    return tmp_path


def test_documents_are_kept_where_items_share_them_and_absent_else(run: Path) -> None:
    assert "documents" not in (run / "items" / "requests.json").read_text()
    assert read_requests(run)["quiz"].splits["search"].documents is None

    quiz = TABLE["quiz"]
    shared = replace(quiz.splits["search"], documents=np.array([0, 0], np.int32))
    write_requests(run, {**TABLE, "quiz": replace(quiz, splits={"search": shared})})
    documents = read_requests(run)["quiz"].splits["search"].documents
    assert documents is not None
    assert documents.tolist() == [0, 0]
    assert json.loads((run / "items" / "requests.json").read_text())["quiz"]["splits"]["search"]["documents"] == 1
    # They decide no answer: those of a run that knew of no documents are as good.
    assert read_requests(run) == TABLE

    arrays = load_file(run / "items" / "requests.safetensors")
    save_file({**arrays, "search/quiz/documents": np.array([0, -1], np.int32)}, run / "items" / "requests.safetensors")
    with pytest.raises(AftermixError, match="search/quiz/documents: expected numbers of documents from 0, found -1"):
        read_requests(run)


def test_what_is_written_is_read(run: Path) -> None:
    assert read_requests(run) == TABLE
    found = read_loglikelihoods(run, "search", 0)
    assert {task: values.dtype for task, values in found.items()} == {"quiz": np.float32, "sums": np.float32}
    assert found["quiz"].tolist() == [-1.5, -2, -3, -0.25, -9]
    assert np.isnan(found["sums"]).tolist() == [True]

    kept = read_kept_answers(run, "search", 0)
    assert kept is not None
    assert kept["quiz"].greedy.tolist() == [0, 0, 0, 1, 0]
    assert kept["sums"].generated == ANSWERS["sums"].generated


def test_the_files_have_the_keys_that_others_read(run: Path) -> None:
    arrays = load_file(run / "items/requests.safetensors")
    assert {name: (str(array.dtype), array.tolist()) for name, array in arrays.items() if "quiz" in name} == {
        "search/quiz/offsets": ("int64", [0, 2, 5]),
        "search/quiz/gold": ("int32", [1, 0]),
        "search/quiz/bytes": ("int32", [2, 3, 4, 5, 6]),
        "search/quiz/characters": ("int32", [1, 2, 3, 4, 5]),
    }
    assert json.loads((run / "items/requests.json").read_text())["quiz"] == {
        "kind": "choice",
        "metric": "acc_norm,none",
        "length": "characters",
        "splits": {"search": {"items": 2, "requests": 5}},
    }
    assert set(load_file(run / "items/search/00000.safetensors")) == {
        f"{task}/{part}" for task in TABLE for part in ("loglikelihood", "greedy")
    }
    lines = gzip.decompress((run / "items/search/00000.answers.jsonl.gz").read_bytes()).decode().split("\n")
    assert json.loads(lines[1]) == {"task": "sums", "item": "sums/1", "text": "日本"}


def test_the_same_answers_are_the_same_bytes_and_nothing_half_stays(run: Path) -> None:
    journal.append_trial(run, make_trial(1), SCORES, answers=ANSWERS)
    for suffix in (".safetensors", ".answers.jsonl.gz"):
        first, second = (run / f"items/search/{number:05d}{suffix}" for number in (0, 1))
        assert first.read_bytes() == second.read_bytes()
    assert sorted(path.suffix for path in (run / "items").rglob("*") if path.is_file()) == [
        *[".gz"] * 2, *[".json"] * 3, *[".safetensors"] * 3
    ]  # fmt: skip


def test_the_answers_are_there_before_the_scores_that_count_them(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(journal, "write_json", fail)
    with pytest.raises(OSError, match="no space left"):
        journal.append_trial(run, make_trial(1), SCORES, answers=ANSWERS)
    assert has_answers(run, "search", 1)
    assert len(journal.read_trials(run)) == 1


def test_a_run_without_any_says_so(tmp_path: Path) -> None:
    journal.append_trial(tmp_path, make_trial(0), SCORES)
    assert not keeps_answers(tmp_path)
    assert not has_answers(tmp_path, "search", 0)
    assert read_kept_answers(tmp_path, "search", 0) is None
    with pytest.raises(AftermixError) as error:
        read_loglikelihoods(tmp_path, "search", 0)
    assert str(error.value) == (
        f"{tmp_path}: expected log-likelihoods, found a run that keeps none. "
        "Start a new run: `aftermix search FILE -o NEW`."
    )


def test_a_group_of_a_tree_reads_the_requests_of_its_run(run: Path) -> None:
    group = run / "levels" / "left"
    journal.append_trial(group, make_trial(0), SCORES, answers=ANSWERS)
    assert keeps_answers(group)
    assert read_loglikelihoods(group, "search", 0)["quiz"].tolist() == [-1.5, -2, -3, -0.25, -9]


def change(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    arrays = load_file(path)
    edit(arrays)
    save_file(arrays, path)


NO_NUMBER = np.array([-1, np.nan, -3, 0, -9], np.float32)
CANDIDATE = "items/search/00000.safetensors"
REQUESTS = "items/requests.safetensors"
DAMAGES: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "missing": (CANDIDATE, Path.unlink, "expected the log-likelihoods of trial 0 on search items, found no such file"),
    "cut": (
        CANDIDATE,
        lambda path: path.write_bytes(path.read_bytes()[:-3]),
        "expected the log-likelihoods of trial 0 on search items, found Error while deserializing",
    ),
    "a missing task": (
        CANDIDATE,
        lambda path: change(path, lambda arrays: arrays.pop("quiz/loglikelihood")),
        ": quiz/loglikelihood: expected 5 numbers of float32, found no such array",
    ),
    "another length": (
        CANDIDATE,
        lambda path: change(path, lambda arrays: arrays.update({"quiz/greedy": np.zeros(4, np.uint8)})),
        ": quiz/greedy: expected 5 numbers of uint8, found 4 of uint8",
    ),
    "another type": (
        CANDIDATE,
        lambda path: change(path, lambda arrays: arrays.update({"quiz/loglikelihood": np.zeros((5, 1))})),
        ": quiz/loglikelihood: expected 5 numbers of float32, found 5 x 1 of float64",
    ),
    "a task too many": (
        CANDIDATE,
        lambda path: change(path, lambda arrays: arrays.update({"more/greedy": np.zeros(4, np.uint8)})),
        ": more/greedy: expected no such array: no task of this run has it",
    ),
    "no number": (
        CANDIDATE,
        lambda path: change(path, lambda arrays: arrays.update({"quiz/loglikelihood": NO_NUMBER})),
        ": quiz/loglikelihood: expected finite numbers, found nan at request 1",
    ),
    "requests that are gone": (REQUESTS, Path.unlink, "expected the requests of a run, found no such file"),
    "offsets that fall": (
        REQUESTS,
        lambda path: change(path, lambda arrays: arrays.update({"search/sums/offsets": np.array([0, 1, 0, 1])})),
        ": search/sums/offsets: expected offsets that rise from 0 to 1, found 0 to 1, 1 falling",
    ),
    "offsets that end early": (
        REQUESTS,
        lambda path: change(path, lambda arrays: arrays.update({"search/quiz/offsets": np.array([0, 2, 4])})),
        ": search/quiz/offsets: expected offsets that rise from 0 to 5, found 0 to 4, 0 falling",
    ),
    "a choice that an item does not have": (
        REQUESTS,
        lambda path: change(path, lambda arrays: arrays.update({"search/quiz/gold": np.array([2, 0], np.int32)})),
        ": search/quiz/gold: expected -1 or one of 2 choices at item 0, found 2",
    ),
    "an unknown kind": (
        "items/requests.json",
        lambda path: path.write_text(path.read_text().replace('"choice"', '"choise"')),
        ": quiz.kind: Input should be 'choice', 'reference' or 'none'",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_refused_by_place(run: Path, name: str) -> None:
    file, damage, expected = DAMAGES[name]
    damage(run / file)
    with pytest.raises(AftermixError) as error:
        read_loglikelihoods(run, "search", 0)
    assert str(error.value).startswith(str(run / file))
    assert expected in str(error.value)
    assert "Restore the file from a backup" in str(error.value)


GENERATED: dict[str, tuple[bytes, str]] = {
    "no gzip": (b"19", ": expected generated answers, found Not a gzipped file (b'19')"),
    "cut": (gzip.compress(b"{}\n" * 99)[:-9], ": expected generated answers, found Compressed file ended before"),
    "a line of something else": (gzip.compress(b'{"task": "sums"}\n'), ", line 1: item: Field required"),
    "an unknown task": (
        gzip.compress(b'{"task": "more", "item": "more/1", "text": ""}\n'),
        ", line 1: expected a task of this run, found 'more'",
    ),
}


@pytest.mark.parametrize("name", GENERATED)
def test_damaged_texts_are_refused_by_place(run: Path, name: str) -> None:
    content, expected = GENERATED[name]
    path = run / "items/search/00000.answers.jsonl.gz"
    path.write_bytes(content)
    with pytest.raises(AftermixError) as error:
        read_answers(run / "items/search/00000.json", TABLE, "search", noun="them")
    assert str(error.value).startswith(str(path) + expected)
    assert read_loglikelihoods(run, "search", 0)["quiz"][0] == -1.5


def test_answers_are_taken_where_all_requests_are_the_same(run: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    fewer, other, bare = (tmp_path_factory.mktemp(name) for name in ("fewer", "other", "bare"))
    write_requests(fewer, {"quiz": TABLE["quiz"]})
    taken = take_answers(run, "search", 0, run=fewer)
    assert taken is not None
    assert list(taken) == ["quiz"]
    assert taken["quiz"].loglikelihood.tolist() == [-1.5, -2, -3, -0.25, -9]

    changed = TaskRequests("choice", "acc_norm,none", "characters", {"search": make_requests([2, 3], [1, 1])})
    write_requests(other, {**TABLE, "quiz": changed})
    assert take_answers(run, "search", 0, run=other) is None
    assert take_answers(run, "search", 0, run=bare) is None
    assert take_answers(run, "search", 1, run=run) is None
    assert take_answers(bare, "search", 0, run=run) is None
