"""A search keeps the answers of every candidate: what they decide, resumed runs, runs that begin with another's."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file

from aftermix.runs.answers.reading import has_answers, keeps_answers, read_loglikelihoods, read_requests
from conftest import run_cli

SAID = """task: said
dataset_path: json
dataset_kwargs: {data_files: {test: colours.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{choices[gold]}}"
generation_kwargs: {until: ["?"], max_gen_toks: 3, do_sample: false}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
"""


def write_file(
    folder: Path,
    family: Mapping[str, Path],
    tasks: Path,
    *,
    weight: float = 1.0,
    trials: int = 4,
    **evaluate: Any,
) -> Path:
    values = {
        "base": str(family["base"]),
        "vectors": {"a": {"model": str(family["a"]), "role": "instruction"}, "b": {"model": str(family["b"])}},
        "merge": {"method": "task_arithmetic"},
        "evaluate": {
            "tasks": [{"task": "numbers", "metric": "acc_norm"}, "said"],
            "include_path": str(tasks),
            "items": {"search": 8, "select": 8, "test": 8},
            "threads": 1,
            **evaluate,
        },
        "search": {
            "strategy": "tpe",
            "trials": trials,
            "startup": 3,
            "top": 2,
            "objective": {"tasks": {"numbers": weight, "said": 1}},
        },
    }
    path = folder / f"file-{weight:g}.yaml"
    path.write_text(json.dumps(values))
    return path


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tasks: Path) -> Path:
    folder = Path(shutil.copytree(tasks, tmp_path_factory.mktemp("kept") / "tasks"))
    (folder / "said.yaml").write_text(SAID)
    return folder


@pytest.fixture(scope="module")
def finished(world: Path, family: Mapping[str, Path]) -> Path:
    file = write_file(world.parent, family, world)
    assert run_cli("search", file, "-o", world.parent / "run") == 0
    return world.parent / "run"


def files_of(run: Path) -> dict[str, bytes]:
    found = [path for path in sorted((run / "items").rglob("*")) if path.is_file()]
    return {path.relative_to(run).as_posix(): path.read_bytes() for path in found}


def measured_files(run: Path) -> list[Path]:
    return [path for split in ("search", "select", "test") for path in sorted((run / "items" / split).rglob("*.json"))]


def test_every_candidate_of_every_split_is_kept_and_its_scores_follow(finished: Path) -> None:
    files, table = measured_files(finished), read_requests(finished)
    assert len(files) > 4 + 2 + 3
    assert (table["numbers"].kind, table["numbers"].length, table["said"].kind) == ("choice", "characters", "reference")

    for path in files:
        split: Any = path.relative_to(finished / "items").parts[0]
        arrays, scores = load_file(path.with_suffix(".safetensors")), json.loads(path.read_text())
        requests = table["numbers"].splits[split]
        per_character = arrays["numbers/loglikelihood"] / requests.characters_R
        likeliest = per_character.reshape(-1, 3).argmax(axis=1)
        assert (likeliest == requests.gold).astype(float).tolist() == scores["numbers"], path

        assert arrays["said/loglikelihood"].shape == (8,)
        content = path.with_suffix(".answers.jsonl.gz").read_bytes()
        lines = [json.loads(line) for line in gzip.decompress(content).decode().splitlines()]
        items = json.loads((finished / "items" / "split.json").read_text())["said"][split]
        assert [(line["task"], line["item"]) for line in lines] == [("said", item) for item in items]
    assert len({path.with_suffix(".safetensors").read_bytes() for path in files}) > 5


def test_a_run_that_lost_its_end_is_completed_to_the_same_bytes(finished: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    lines = (run / "trials.jsonl").read_bytes().splitlines(keepends=True)
    (run / "trials.jsonl").write_bytes(b"".join(lines[:2]))
    (run / "best.json").unlink()
    for path in [*(run / "items/search").glob("0000[23].*"), *(run / "items/select").rglob("*.*")]:
        path.unlink()
    # Killed between the log-likelihoods and the scores of trial 2.
    (run / "items/search/00002.safetensors").write_bytes((finished / "items/search/00001.safetensors").read_bytes())

    assert run_cli("search", "--resume", run) == 0
    assert files_of(run) == files_of(finished)


def test_another_objective_brings_the_answers_along(
    finished: Path, world: Path, family: Mapping[str, Path], tmp_path: Path
) -> None:
    file = write_file(tmp_path, family, world, weight=3.0, trials=1)
    run = tmp_path / "other"
    assert run_cli("search", file, "-o", run, "--from", finished) == 0
    theirs, ours = files_of(finished), files_of(run)
    for number in range(4):
        for suffix in (".safetensors", ".answers.jsonl.gz"):
            name = f"items/search/{number:05d}{suffix}"
            assert ours[name] == theirs[name]
    assert [has_answers(run, "search", number) for number in range(6)] == [True] * 5 + [False]


def test_answers_to_other_requests_stay_behind(
    finished: Path, world: Path, family: Mapping[str, Path], tmp_path: Path
) -> None:
    file = write_file(tmp_path, family, world, trials=1, reference_loglikelihood=False)
    run = tmp_path / "other"
    assert run_cli("search", file, "-o", run, "--from", finished) == 0
    assert [has_answers(run, "search", number) for number in range(6)] == [False] * 4 + [True, False]
    assert read_loglikelihoods(run, "search", 4)["said"].shape == (0,)


def test_a_run_that_kept_none_goes_on_without(
    finished: Path, world: Path, family: Mapping[str, Path], tmp_path: Path
) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    for path in [*(run / "items").rglob("*.safetensors"), *(run / "items").rglob("*.gz"), run / "items/requests.json"]:
        path.unlink()
    assert not keeps_answers(run)

    file = write_file(tmp_path, family, world, trials=5)
    assert run_cli("search", file, "--resume", run) == 0
    assert (run / "items/search/00004.json").is_file()
    assert {path.suffix for path in (run / "items").rglob("*") if path.is_file()} == {".json"}
    for number in range(4):
        name = f"items/search/{number:05d}.json"
        assert (run / name).read_bytes() == (finished / name).read_bytes()


def test_damaged_requests_are_refused_at_the_resume(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    path = run / "items/requests.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    assert run_cli("search", "--resume", run) == 2
    assert f"{path}: expected the requests of a run, found " in capsys.readouterr().err

    arrays = load_file(finished / "items/requests.safetensors")
    arrays["test/numbers/bytes"][0] += 1
    save_file(arrays, path)
    assert run_cli("search", "--resume", run) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"aftermix: {run / 'items/requests.json'}: answers are kept to other requests than these tasks have. "
        "Restore the versions of its packages (`lock.json`), or start a new run in another folder."
    )
