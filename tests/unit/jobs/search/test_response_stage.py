"""The response in a search: floors that surely hold, a prior that is good enough, proposals that are left to TPE."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import t as student
from tests.unit.response.response_world import ParabolaWorld, list_design, place_merges

from aftermix.config import Objective, SearchConfig
from aftermix.jobs.search.response_stage import ResponseStage
from aftermix.response.predictions import predict_scores
from aftermix.response.surface.coordinates import Floats
from aftermix.runs import journal
from aftermix.runs.answers.candidate import TaskAnswers
from aftermix.runs.answers.requests import AnswerKind, SplitRequests, TaskRequests, write_requests
from aftermix.runs.trials import Trial
from aftermix.search.objective import ObjectiveSet
from aftermix.search.proposing.expected_best import describe_expected_best
from aftermix.search.proposing.response_fit import build_coordinates, hold_floors
from aftermix.search.proposing.response_proposer import ResponseProposer
from aftermix.search.space import SearchSpace
from aftermix.search.study import suggest_batch

SPACE = SearchSpace({"a": (0.0, 1.0), "b": (0.1, 1.0)})
DESIGN = list_design(2, 10)
PRIOR = 4
"""Number of the trial that is a prior."""


class AnsweredRun:
    """A run of ten trials, the base and single vectors first, with the answers of a world's items."""

    def __init__(
        self, folder: Path, *, kinds: Sequence[AnswerKind] = ("choice", "choice"), items: int = 40, seed: int = 0
    ) -> None:
        self.folder, self.world = folder, ParabolaWorld(tasks=len(kinds), items=items, seed=seed)
        self.tasks = tuple(self.world.tasks)
        self.trials: list[Trial] = []
        write_requests(folder, {task: self._ask(task, kind) for task, kind in zip(self.tasks, kinds, strict=True)})

    def _ask(self, task: str, kind: AnswerKind) -> TaskRequests:
        gold = self.world.tasks[task][3].astype(np.int32)
        lengths = np.ones(4 * len(gold), np.int32)
        requests = SplitRequests(np.arange(0, 4 * len(gold) + 1, 4), gold, lengths, lengths)
        return TaskRequests(kind, "acc,none", None, {"search": requests, "select": requests})

    def measure(self, weights_NV: Floats, *, confused: bool = False) -> None:
        """Write down the trials at `weights_NV`; `confused` merges answer at random, whatever their weights."""
        measured, rng = self.world.measure(weights_NV), np.random.default_rng(3)
        for number, weights in enumerate(weights_NV.tolist()):
            items, answers = {}, {}
            for task, known in measured.items():
                assert known.loglikelihood_NR is not None
                assert known.items is not None
                values = known.loglikelihood_NR[number]
                values = rng.normal(-20, 3, len(values)).astype(np.float32) if confused else values
                right = values.reshape(-1, 4).argmax(axis=1) == known.items.gold_I
                items[task] = right.astype(float).tolist()
                answers[task] = TaskAnswers(values, np.zeros(len(values), np.uint8))
            scores = {task: float(np.mean(values)) for task, values in items.items()}
            trial = Trial(
                number=number, state="complete", weights=dict(zip("ab", weights, strict=True)), scores=scores,
                objective=(float(np.mean([*scores.values()])),), feasible=True,
                origin="prior" if number == PRIOR else "startup",
            )  # fmt: skip
            journal.append_trial(self.folder, trial, items, answers=answers)
            self.trials.append(trial)

    def propose_by(self, *objective: Objective, **options: Any) -> ResponseProposer:
        """The proposals of a search in this run."""
        config = SearchConfig.model_validate({"trials": 30, "startup": 8, **options})
        objectives = ObjectiveSet.build(objective or (Objective(),), tasks=list(self.tasks))
        fall_back = partial(suggest_batch, SPACE, config, objectives)
        coordinates = build_coordinates(SPACE, normalised=False)
        return ResponseProposer(self.folder, SPACE, coordinates, config, objectives, self.tasks, fall_back)


def test_floors_hold_with_a_probability_of_95_percent_where_merges_are_sought(tmp_path: Path) -> None:
    run = AnsweredRun(tmp_path)
    run.measure(DESIGN)
    floor = float(np.median([trial.scores["task1"] for trial in run.trials]))
    proposer = run.propose_by(Objective(tasks={"task0": 1}, floors={"task1": floor}))
    fitted = proposer.fit(run.trials)
    assert fitted is not None
    predicted = proposer.predict(fitted, run.trials)

    # The slow twin: the score's own error with a merge left out, Student's, one-sided.
    model, candidates = fitted.model, predicted.scores.candidates
    error = model.calibrate({"task1": 1.0})
    below_C = student.ppf(0.95, error.degrees) * error.scale * np.sqrt(model.process.compute_variances(candidates))
    room_C = model.predict(candidates)["task1"] - below_C - floor
    held_C = hold_floors(fitted, predicted.scores)
    clear_C = np.abs(room_C) > 0.002  # a deviation has a little added that keeps its factor exact
    assert (held_C == (room_C > 0))[clear_C].all()
    assert 0.01 < held_C.mean() < 0.99

    # Base and vector a alone are outside the range of b: neither is among those that are certified against.
    outside = [not SPACE.contains(trial.weights) for trial in run.trials]
    assert any(outside)
    assert not predicted.within_C[: len(run.trials)][outside].any()
    assert (predicted.within_C <= held_C).all()
    proposed = proposer.propose(run.trials, 4)
    assert [each.origin for each in proposed] == ["sampled optimum"] * 4
    for each in proposed:
        assert any(predicted.read_point(int(place)) == each.point for place in np.flatnonzero(predicted.within_C)[10:])


@pytest.mark.parametrize(
    ("first", "prior", "is_flat"), [((1.0, 1.0), (0.25, 0.25), True), ((0.0, 0.0), (1.0, 1.0), False)]
)
def test_a_prior_that_nothing_is_surely_better_than_is_the_winner(
    tmp_path: Path, first: tuple[float, float], prior: tuple[float, float], is_flat: bool
) -> None:
    """Weights that sum to a half are best in this world; what the items leave open is two paired errors to `first`."""
    run = AnsweredRun(tmp_path)
    run.measure(np.concatenate([[first], DESIGN[1:PRIOR], [prior], DESIGN[PRIOR + 1 :]]))
    stage = ResponseStage(run.propose_by())
    conclusion = stage.conclude(run.trials)
    assert conclusion.predicted is not None
    assert conclusion.ranking is not None
    bound = stage.certify(conclusion, PRIOR).bound
    assert bound is not None
    error = conclusion.predicted.measure_paired_error(stage.proposer.objectives.goals[0], PRIOR)
    assert (bound <= 2 * error) == is_flat
    assert (conclusion.status == "flat") == is_flat
    assert (conclusion.ranking[0] == PRIOR) == is_flat


def test_the_precision_is_a_quarter_of_the_paired_error_and_a_tenth_of_a_point(tmp_path: Path) -> None:
    run = AnsweredRun(tmp_path)
    run.measure(DESIGN)
    proposer = run.propose_by()
    fitted = proposer.fit(run.trials)
    assert fitted is not None
    predicted, goal = proposer.predict(fitted, run.trials), proposer.objectives.goals[0]
    ours, base = (np.array([*journal.read_items(tmp_path, "search", number).values()]) for number in (PRIOR, 0))
    variance = sum(float(np.var(each)) / 40 / 4 for each in ours - base)
    assert predicted.measure_paired_error(goal, PRIOR) == pytest.approx(np.sqrt(variance))
    assert predicted.choose_precision(goal, PRIOR) == pytest.approx(np.sqrt(variance) / 4)
    assert predicted.certify(PRIOR, precision=0.3).precision == 0.3


def test_the_merge_that_is_expected_best_is_told_with_its_interval(tmp_path: Path) -> None:
    run = AnsweredRun(tmp_path)
    run.measure(DESIGN)
    goal = Objective(tasks={"task1": 1})
    proposer = run.propose_by(goal)
    fitted = proposer.fit(run.trials)
    assert fitted is not None
    predicted = proposer.predict(fitted, run.trials)
    told = describe_expected_best(predicted, winner=PRIOR)

    # The best of all candidates, whose weights are told to hundredths.
    means_C = fitted.model.predict(predicted.scores.candidates)["task1"]
    assert means_C[len(run.trials) :].max() > means_C[: len(run.trials)].max()
    found = re.match(r"of merges not run the response expects most of a=([\d.]+),b=([\d.]+), ([\d.]+) \[", told)
    assert found is not None
    a, b, mean = map(float, found.groups())
    assert mean == pytest.approx(means_C[len(run.trials) :].max(), abs=6e-4)
    near = predict_scores(fitted.model, place_merges(np.array([[a, b], DESIGN[PRIOR]])), {"": {"task1": 1.0}})[""]
    assert near.mean_C[0] == pytest.approx(mean, abs=0.005)
    interval = f"{near.mean_C[1]:.3f} [{near.low_C[1]:.3f}, {near.high_C[1]:.3f}]"
    assert told.endswith(f"; of trial {PRIOR}, the best that was, {interval}")


def test_a_response_that_tells_nothing_leaves_the_batch_to_tpe_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = AnsweredRun(tmp_path)
    run.measure(DESIGN, confused=True)
    proposed = run.propose_by().propose(run.trials, 4)
    assert [each.strategy for each in proposed] == ["tpe"] * 4
    told = "the response does not predict the objective clearly better than the mean of the trials does."
    assert f"Trials 10 to 13 are TPE's: {told}" in caplog.text
    conclusion = ResponseStage(run.propose_by()).conclude(run.trials)
    assert conclusion.predicted is None
    assert ResponseStage(run.propose_by()).certify(conclusion, PRIOR).model == "none"


def test_written_answers_that_hold_over_half_of_the_objective_are_searched_by_tpe(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = AnsweredRun(tmp_path, kinds=("choice", "none", "none"))
    assert not ResponseStage(run.propose_by()).proposes
    told = (
        "strategy: tpe in place of response: tasks of choices hold 33% of the objective, and what is generated has no"
    )
    assert f"{told} likelihood that the score must follow." in caplog.text
    assert ResponseStage(run.propose_by(Objective(tasks={"task0": 1, "task1": 1}))).proposes
    assert not ResponseStage(run.propose_by(strategy="tpe")).proposes
