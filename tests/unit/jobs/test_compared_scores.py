"""`aftermix compare` on samples that lm-eval wrote: matched by content, whatever order, copies, filters and values."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lm_eval
import numpy as np
import pytest
from lm_eval.loggers import EvaluationTracker
from scipy import stats

import aftermix
from aftermix.errors import EvaluationError
from aftermix.evaluation.samples.scored_documents import hash_as_samples
from aftermix.jobs.paired.command import compare_scores
from conftest import run_cli

Family = Mapping[str, Path]
Samples = list[dict[str, Any]]
TEXTS = """task: texts
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/colours.jsonl}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{question}}"
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, untied_family: Family, tasks: Path) -> dict[str, Path]:
    """Folders in which lm-eval logged its samples of two models on choices and on whole texts."""
    folder = tmp_path_factory.mktemp("samples")
    for name in ("colours.jsonl", "colours.yaml"):
        content = (tasks / name).read_text().replace("test: colours", f"test: {folder}/colours")
        (folder / name).write_text(content)
    (folder / "texts.yaml").write_text(TEXTS.replace("FOLDER", str(folder)))
    manager = lm_eval.tasks.TaskManager(include_path=str(folder), include_defaults=False)
    for side in ("a", "b"):
        results = lm_eval.simple_evaluate(
            "hf",
            model_args={"pretrained": str(untied_family[side]), "dtype": "float32"},
            tasks=["colours", "texts"],
            task_manager=manager,
            device="cpu",
            bootstrap_iters=0,
        )
        tracker = EvaluationTracker(output_path=str(folder / side))
        samples = results.pop("samples")
        tracker.save_results_aggregated(results=results, samples=samples)
        for task, of_task in samples.items():
            tracker.save_results_samples(task_name=task, samples=of_task)
    return {side: folder / side for side in ("a", "b")}


def test_from_python(written: dict[str, Path]) -> None:
    found = aftermix.compare(written["a"], str(written["b"]))
    assert found == compare_scores(written["a"], written["b"])
    row = found.tasks["colours"]
    assert row.difference == pytest.approx(row.a - row.b)


def read(folder: Path, task: str) -> Samples:
    (file,) = folder.rglob(f"samples_{task}_*.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.fixture
def rewrite(written: dict[str, Path], tmp_path: Path) -> Callable[..., Path]:
    """A file of the samples of one side on one task, changed."""

    def write(side: str, change: Callable[[Samples], Samples] = lambda each: each, task: str = "colours") -> Path:
        path = tmp_path / f"{side}{len(list(tmp_path.iterdir()))}" / f"samples_{task}_2026-11-29T00-00-00.jsonl"
        path.parent.mkdir()
        path.write_text("".join(json.dumps(sample) + "\n" for sample in change(read(written[side], task))))
        return path

    return write


def test_the_hash_is_that_of_lm_eval(written: dict[str, Path]) -> None:
    assert all(hash_as_samples(each["doc"]) == each["doc_hash"] for each in read(written["a"], "colours"))


def test_two_folders_are_tested_as_scipy_tests_them(written: dict[str, Path]) -> None:
    found = compare_scores(written["a"], written["b"])
    ours, theirs = ([each["acc"] for each in read(written[side], "colours")] for side in ("a", "b"))
    expected = stats.ttest_rel(ours, theirs)
    colours = found.tasks["colours"]
    assert colours.metric == "acc,none"
    assert set(colours.metrics) == {"acc,none", "acc_norm,none"}
    assert colours.difference == pytest.approx(np.mean(ours) - np.mean(theirs))
    assert colours.p == pytest.approx(expected.pvalue)
    assert colours.interval == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert (colours.documents, colours.clusters, colours.prompts_differ) == (60, 60, 0)
    assert colours.unmatched.model_dump() == {"a": 0, "b": 0}
    assert (found.only_a, found.only_b, found.split) == ((), (), None)

    texts = found.tasks["texts"]
    assert texts.metric == "bits_per_byte,none"
    assert texts.not_compared == ("word_perplexity,none", "byte_perplexity,none")
    sums = [np.sum([each["bits_per_byte"] for each in read(written[side], "texts")], axis=0) for side in ("a", "b")]
    assert (texts.a, texts.b) == pytest.approx([total[0] / total[1] / np.log(2) for total in sums])


def test_order_decides_nothing(rewrite: Callable[..., Path]) -> None:
    def shuffle(samples: Samples) -> Samples:
        return random.Random(1).sample(samples, len(samples))

    straight, shuffled = (compare_scores(rewrite("a"), rewrite("b", change)) for change in (lambda each: each, shuffle))
    before, after = straight.tasks["colours"], shuffled.tasks["colours"]
    assert (after.difference, after.p, after.interval) == (
        pytest.approx(before.difference), pytest.approx(before.p), pytest.approx(before.interval),
    )  # fmt: skip


def test_what_one_side_lacks_is_counted(rewrite: Callable[..., Path]) -> None:
    """Other halves of the data, copies, NaN, another prompt."""

    def change(samples: Samples) -> Samples:
        samples[20]["acc"] = float("nan")
        samples[21]["prompt_hash"] = "another"
        return [*samples[10:], samples[30], samples[30]]

    found = compare_scores(rewrite("a", lambda samples: samples[:50]), rewrite("b", change)).tasks["colours"]
    assert found.unmatched.model_dump() == {"a": 10, "b": 12}
    assert found.without_value.model_dump() == {"a": 0, "b": 1}
    assert (found.documents, found.prompts_differ) == (39, 1)
    assert found.metrics["acc_norm,none"].documents == 40


def test_repeated_documents_are_one_cluster(rewrite: Callable[..., Path]) -> None:
    once = compare_scores(rewrite("a"), rewrite("b")).tasks["colours"]
    doubled = compare_scores(*(rewrite(side, lambda samples: samples * 2) for side in ("a", "b"))).tasks["colours"]
    assert (doubled.documents, doubled.clusters) == (120, 60)
    assert (doubled.p, doubled.interval) == (pytest.approx(once.p), pytest.approx(once.interval))


def test_a_field_makes_clusters_and_a_missing_one_is_refused(rewrite: Callable[..., Path]) -> None:
    a, b = rewrite("a"), rewrite("b")
    found = compare_scores(a, b, cluster="gold").tasks["colours"]
    assert (found.documents, found.clusters) == (60, 3)
    with pytest.raises(EvaluationError) as caught:
        compare_scores(a, b, cluster="topic")
    assert str(caught.value) == (
        "--cluster: task 'colours': expected the field 'topic' in every document, found one with: question, choices, "
        "gold. Name a field that all documents have."
    )


def test_filters_are_compared_by_name(rewrite: Callable[..., Path]) -> None:
    def filter_twice(samples: Samples) -> Samples:
        return [{**each, "filter": name} for name in ("strict", "none") for each in samples]

    found = compare_scores(rewrite("a", filter_twice), rewrite("b")).tasks["colours"]
    assert set(found.metrics) == {"acc,none", "acc_norm,none"}
    assert found.not_compared == ("acc,strict", "acc_norm,strict")
    assert found.documents == 60


def test_where_nothing_matches_it_says_what_differs(rewrite: Callable[..., Path], tmp_path: Path) -> None:
    def refuse(a: Path, b: Path) -> str:
        with pytest.raises(EvaluationError) as caught:
            compare_scores(a, b)
        return str(caught.value)

    assert "expected a task of both, found colours in the first and texts in the second" in refuse(
        rewrite("a"), rewrite("b", task="texts")
    )

    def rename(samples: Samples) -> Samples:
        return [{**each, "doc_hash": f"other {number}"} for number, each in enumerate(samples)]

    assert "expected a document of both on colours" in refuse(rewrite("a"), rewrite("b", rename))

    def refilter(samples: Samples) -> Samples:
        return [{**each, "filter": "strict"} for each in samples]

    assert "expected a metric of both on task 'colours', found acc,none, acc_norm,none in the first" in refuse(
        rewrite("a"), rewrite("b", refilter)
    )
    (tmp_path / "empty").mkdir()
    assert "holds neither a run nor a file `samples_*.jsonl`" in refuse(rewrite("a"), tmp_path / "empty")
    assert "there is no such file or folder" in refuse(rewrite("a"), tmp_path / "absent")
    (tmp_path / "samples_colours.jsonl").write_text('{"doc": 1\n')
    assert "samples_colours.jsonl, line 1: is no JSON" in refuse(rewrite("a"), tmp_path / "samples_colours.jsonl")


def test_the_command_prints_lines_or_json(
    written: dict[str, Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run_cli("compare", written["a"], written["b"], "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["tasks"]["colours"]["unmatched"] == {"a": 0, "b": 0}
    assert run_cli("compare", written["a"], written["b"]) == 0
    lines = capsys.readouterr().out.splitlines()
    entry = document["tasks"]["colours"]
    assert lines[2].startswith(
        f"colours acc,none: A {entry['a']:.4f}  B {entry['b']:.4f}  A - B {entry['difference']:+.4f}"
    )
    assert "  not compared: word_perplexity,none, byte_perplexity,none" in lines
    assert run_cli("compare", written["a"], tmp_path) == 2
