"""Pools of recorded merges: the design, a recording that goes on after a kill, and the file that is read back."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from benchmarks.pools import FOLDER, load_pool
from benchmarks.pools.check import measure_fit
from benchmarks.pools.design import list_design
from benchmarks.pools.generated import write_generated_tasks
from benchmarks.pools.record import record_pool
from benchmarks.pools.worlds import POOLS, PoolRecipe
from safetensors.numpy import load_file, save_file

from aftermix.config import Config
from aftermix.config.file import parse_config

Family = dict[str, Path]
POOL_BYTES = 12_000_000
NATS = 0.02
WRITTEN = """task: written
dataset_path: json
dataset_kwargs: {data_files: {test: colours.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{choices[gold]}}"
target_delimiter: " "
generation_kwargs: {until: ["\\n"], max_gen_toks: 2}
metric_list:
  - metric: exact_match
"""


def test_a_longer_design_begins_with_a_shorter_one() -> None:
    long = list_design(3, 70, seed=1)

    np.testing.assert_array_equal(long[:20], list_design(3, 20, seed=1))
    assert not np.array_equal(long[8:], list_design(3, 70, seed=2)[8:])


def test_a_design_begins_with_what_everybody_tries_and_fills_both_boxes() -> None:
    design = list_design(2, 6 + 64, seed=0)

    np.testing.assert_array_equal(design[:5], [[0, 0], [1, 0], [0, 1], [0.5, 0.5], [0.5, 0.5]])
    assert list_design(4, 3, seed=0).tolist() == [[0, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0]]
    rest = design[5:]
    assert np.sum(np.abs(rest.sum(axis=1) - 1) < 1e-6) == 4
    assert rest.min() >= 0 <= rest.max() <= 1
    assert 0.4 < np.mean(rest.max(axis=1) > 0.5) < 0.6


@pytest.fixture
def recipe(family: Family, tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A pool of two vectors: a task by likelihood, one by likelihood a character, and one whose answers are written."""

    def prepare(folder: Path, tiny: bool) -> Config:
        names = ["colours", {"task": "numbers", "metric": "acc_norm"}, "written"]
        vectors = {name: {"model": str(family[name])} for name in "ab"}
        values = {"base": str(family["base"]), "vectors": vectors, "merge": {"method": "task_arithmetic"}}
        evaluate = {"tasks": names, "include_path": str(tasks), "batch_size": 8}
        return parse_config({**values, "evaluate": evaluate}, where="pool", folder=tmp_path)

    (tasks / "written.yaml").write_text(WRITTEN)
    monkeypatch.setitem(POOLS, "test", PoolRecipe(merges=7, items=5, prepare=prepare))
    return "test"


@pytest.fixture
def record(recipe: str, tmp_path: Path) -> Callable[..., Path]:
    """Record the pool and write its file."""

    def run(*, merges: int = 7, items: int = 5) -> Path:
        arrays, facts = record_pool(recipe, tmp_path, merges=merges, items=items, tiny=False)
        file = tmp_path / "recorded.safetensors"
        save_file(arrays, file, facts)
        return file

    return run


def test_a_recorded_pool_reads_back_to_a_fiftieth_of_a_nat(record: Callable[..., Path], tmp_path: Path) -> None:
    pool = load_pool(record())

    assert (pool.name, pool.method, pool.vectors, pool.merges) == ("test", "task_arithmetic", ("a", "b"), 7)
    np.testing.assert_array_equal(pool.weights_MV, list_design(2, 7, seed=0))
    assert [(task.kind, task.metric, task.items) for task in pool.tasks.values()] == [
        ("multiple_choice", "acc", 5),
        ("multiple_choice", "acc_norm", 5),
        ("generate_until", "exact_match", 5),
    ]
    for name, task in pool.tasks.items():
        measured = [load_file(file) for file in sorted((tmp_path / "test" / "merges").iterdir())]
        expected_MR = np.stack([each[f"{name}/loglikelihood"] for each in measured])
        np.testing.assert_allclose(task.loglikelihood_MR, expected_MR, atol=NATS)
        np.testing.assert_array_equal(task.score_MN, np.stack([each[f"{name}/score"] for each in measured]))
        assert task.offsets[-1] == task.loglikelihood_MR.shape[1]
    assert json.loads(pool.facts["merge"]) == {"method": "task_arithmetic"}


def test_scores_follow_from_log_likelihoods_gold_and_length(record: Callable[..., Path]) -> None:
    pool = load_pool(record())

    for name in ("colours", "numbers"):
        task = pool.tasks[name]
        per_unit_MR = task.loglikelihood_MR / task.length_R
        for item, gold in enumerate(task.gold_N):
            choices_MC = per_unit_MR[:, task.offsets[item] : task.offsets[item + 1]]
            np.testing.assert_array_equal(choices_MC.argmax(axis=1) == gold, task.score_MN[:, item] == 1)
    assert set(pool.tasks["colours"].length_R) == {1}
    assert set(pool.tasks["numbers"].length_R) == {4}
    assert list(pool.tasks["written"].offsets) == [0, 1, 2, 3, 4, 5]


def test_a_killed_recording_goes_on_and_ends_with_the_same_bytes(record: Callable[..., Path], tmp_path: Path) -> None:
    whole = load_file(record())
    merges = sorted((tmp_path / "test" / "merges").iterdir())
    kept = merges[0].stat().st_mtime_ns
    for lost in merges[4:]:
        lost.unlink()

    again = load_file(record())

    assert merges[0].stat().st_mtime_ns == kept
    assert whole.keys() == again.keys()
    for name, values in whole.items():
        np.testing.assert_array_equal(values, again[name])


def test_a_folder_with_merges_of_other_items_is_refused(record: Callable[..., Path], tmp_path: Path) -> None:
    record(merges=2)

    with pytest.raises(SystemExit, match=r"its merges are of other items; name another --folder"):
        record(merges=2, items=6)


def test_a_pool_that_is_not_there_names_those_that_are() -> None:
    with pytest.raises(
        FileNotFoundError, match=r"nothing\.safetensors: no such pool; there are: .*`record\.py` makes one"
    ):
        load_pool("nothing")


@pytest.mark.parametrize("name", [file.stem for file in sorted(FOLDER.glob("*.safetensors"))])
def test_a_committed_pool_agrees_with_itself(name: str) -> None:
    pool = load_pool(name)

    design = list_design(len(pool.vectors), pool.merges, seed=int(pool.facts["seed"]))
    np.testing.assert_allclose(pool.weights_MV, design, atol=1e-6)
    for task in pool.tasks.values():
        assert task.loglikelihood_MR.shape == (pool.merges, task.offsets[-1]) == (pool.merges, len(task.length_R))
        assert np.isfinite(task.loglikelihood_MR).all()
        assert task.score_MN.shape == (pool.merges, task.items)
        if task.kind == "multiple_choice":
            choices = [task.split_requests(item) for item in range(task.items)]
            right_MN = np.stack([each.argmax(axis=1) for each in choices], axis=1) == task.gold_N
            assert np.mean(right_MN == (task.score_MN == 1)) > 0.999


def test_committed_pools_are_small() -> None:
    assert sum(file.stat().st_size for file in FOLDER.glob("*.safetensors")) < POOL_BYTES


def test_written_answers_are_beginnings_of_the_true_continuation(tmp_path: Path) -> None:
    rows = [
        {"context": "a", "choices": ["x y", "n"], "answer": 0},
        {"context": "b", "choices": ["n", " wörd. z"], "answer": 1},
        {"context": "c", "choices": ["\nline", "n"], "answer": 0},
        {"context": "d", "choices": ["", "..."], "answer": 1},
    ]
    (tmp_path / "continue_code.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")

    assert write_generated_tasks(tmp_path, tmp_path / "to", "code") == "write_code"

    written = (tmp_path / "to" / "write_code.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line) for line in written] == [
        {"context": "a", "answer": "x"},
        {"context": "b", "answer": " wör"},
        {"context": "d", "answer": "."},
    ]


def test_a_quadratic_is_fitted_by_a_quadratic() -> None:
    weights_MV = list_design(2, 40, seed=0)
    w, v = weights_MV.T.astype(float)
    values_MN = np.stack([1 + w - 2 * v * w + v**2, np.sin(9 * w)], axis=1)

    exact, curved = measure_fit(weights_MV, values_MN, 2)

    assert exact == pytest.approx(1)
    assert curved < 0.9
    assert np.isnan(measure_fit(weights_MV[:6], values_MN[:6], 2)).all()
