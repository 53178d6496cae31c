"""Searches replayed on a pool of recorded merges: a strategy chooses among them, sees some documents, and is judged by
the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import optuna
from pools import RecordedPool, RecordedTask
from scipy.stats import wilcoxon

from aftermix.response.certificate import MergeCertificate, certify_winner
from aftermix.response.draws import CandidateScores, draw_objective
from aftermix.response.margins import ChoiceItems
from aftermix.response.measurements import TaskMeasurements
from aftermix.response.proposals import choose_sampled_optima
from aftermix.response.response_model import ResponseModel
from aftermix.response.surface.coordinates import MergeCoordinates, MergePoints
from aftermix.seeds import generator

optuna.logging.set_verbosity(optuna.logging.ERROR)
NORMALISED = ("ties", "linear")
"""Methods that divide by the sum of the weights."""
BATCH = 4
SPARE_DRAWS = 16


@dataclass(frozen=True)
class SeenItems:
    """Numbers of the items of each task that a search sees, and of those that judge what it chose."""

    search: Mapping[str, np.ndarray]
    test: Mapping[str, np.ndarray]

    @classmethod
    def draw(cls, pool: RecordedPool, share: float, *, seed: int) -> SeenItems:
        """A share of the documents of each task for the search, all others for the test."""
        search, test = {}, {}
        for name, task in pool.tasks.items():
            documents = np.unique(task.document_N)
            order = generator(seed, "replay items", name).permutation(documents)
            seen = np.isin(task.document_N, order[: round(share * len(order))])
            search[name], test[name] = np.flatnonzero(seen), np.flatnonzero(~seen)
        return cls(search, test)


@dataclass(frozen=True)
class ReplayedPool:
    """A pool as one replay sees it: the objective is the plain mean of the tasks."""

    pool: RecordedPool
    items: SeenItems

    @cached_property
    def search_scores(self) -> np.ndarray:
        """(M,) objective on the items that the search sees."""
        return self._average(self.items.search)

    @cached_property
    def test_scores(self) -> np.ndarray:
        """(M,) objective on the others."""
        return self._average(self.items.test)

    @cached_property
    def whole_scores(self) -> np.ndarray:
        """(M,) objective on all."""
        return self._average({name: np.arange(task.items) for name, task in self.pool.tasks.items()})

    @cached_property
    def points(self) -> MergePoints:
        """All merges as the response sees them."""
        vectors = self.pool.vectors
        coordinates = MergeCoordinates(vectors, normalised=self.pool.method in NORMALISED)
        return coordinates.locate([dict(zip(vectors, row, strict=True)) for row in self.pool.weights_MV.tolist()])

    @cached_property
    def measured(self) -> dict[str, TaskMeasurements]:
        """All merges on the items that the search sees."""
        return {name: measure_task(task, self.items.search[name]) for name, task in self.pool.tasks.items()}

    @property
    def shares(self) -> dict[str, float]:
        """Weight of each task in the objective."""
        return dict.fromkeys(self.pool.tasks, 1 / len(self.pool.tasks))

    def list_items(self) -> np.ndarray:
        """(M, I) metric of each item that the search sees, tasks of unlike size weighted to count alike."""
        parts = [task.score_MN[:, self.items.search[name]] for name, task in self.pool.tasks.items()]
        widest = max(part.shape[1] for part in parts)
        return np.concatenate([part * widest / part.shape[1] for part in parts], axis=1)

    def _average(self, items: Mapping[str, np.ndarray]) -> np.ndarray:
        means = [task.score_MN[:, items[name]].mean(axis=1) for name, task in self.pool.tasks.items()]
        return np.mean(means, axis=0)


def measure_task(task: RecordedTask, items: np.ndarray) -> TaskMeasurements:
    """What a search that sees `items` of a recorded task knows of all merges."""
    requests = np.concatenate([np.arange(task.offsets[item], task.offsets[item + 1]) for item in items])
    offsets = np.concatenate([[0], np.cumsum(np.diff(task.offsets)[items])]).astype(np.int64)
    is_choice = task.kind == "multiple_choice"
    lengths = task.length_R[requests].astype(np.float64)
    return TaskMeasurements(
        kind="choice" if is_choice else "reference",
        scores_NI=task.score_MN[:, items].astype(np.float32),
        shares_I=np.full(len(items), 1 / len(items)),
        documents_I=np.unique(task.document_N[items], return_inverse=True)[1].astype(np.int64),
        loglikelihood_NR=task.loglikelihood_MR[:, requests],
        items=ChoiceItems(offsets, task.gold_N[items].astype(np.int64), lengths) if is_choice else None,
    )


Strategy = Callable[[ReplayedPool, int, int], list[int]]
"""Merges that a search of so many runs takes in turn, the winner after each of them: (pool, runs, seed) -> winners."""


def list_first_merges(pool: RecordedPool, count: int, *, seed: int) -> list[int]:
    """Base, single vectors and even merges, then random ones."""
    fixed = min(len(pool.vectors) + 3, pool.merges)
    order = generator(seed, "replay design").permutation(np.arange(fixed, pool.merges))
    return [*range(fixed), *order.tolist()][:count]


def fit_response(replay: ReplayedPool, taken: list[int], *, seed: int) -> ResponseModel:
    """The response through the merges taken so far."""
    rows = np.array(taken)
    measured = {name: task.take(rows) for name, task in replay.measured.items()}
    return ResponseModel.fit(replay.points.take(rows), measured, seed=seed)


def search_by_response(replay: ReplayedPool, runs: int, seed: int) -> list[int]:
    """First design, then batches of sampled optima; the winner is the best by the tempered scores."""
    dimensions = len(replay.pool.vectors)
    startup = min(max(2 * dimensions + 2, 8), max(runs * 2 // 3, 5))
    taken, winners = list_first_merges(replay.pool, startup, seed=seed), [0] * (startup - 1)
    while True:
        model = fit_response(replay, taken, seed=seed)
        winners += [choose_winner(replay, model, taken)] * (len(taken) - len(winners))
        if len(taken) >= runs:
            return winners[:runs]

        scores = CandidateScores.predict(model, replay.points)
        rng = generator(seed, "replay draws", len(taken))
        draws = draw_objective(model, scores, replay.shares, rng=rng, draws=SPARE_DRAWS * BATCH, items_fixed=True)
        allowed = np.ones(replay.pool.merges, dtype=bool)
        allowed[taken] = False
        taken += choose_sampled_optima([draws], allowed, min(BATCH, runs - len(taken)), rng=rng)


def choose_winner(replay: ReplayedPool, model: ResponseModel, taken: list[int]) -> int:
    """The merge taken with the best tempered score."""
    smooth = sum(share * model.left_out[name].smooth_N for name, share in replay.shares.items())
    return taken[int(np.argmax(smooth))]


def certify_replay(replay: ReplayedPool, taken: list[int], *, seed: int) -> tuple[int, MergeCertificate]:
    """Winner and certificate of a replay that took the merges `taken`, against all recorded ones."""
    model = fit_response(replay, taken, seed=seed)
    winner = choose_winner(replay, model, taken)
    scores = CandidateScores.predict(model, replay.points)
    certificate = certify_winner(
        model,
        scores,
        replay.shares,
        winner=winner,
        within=np.ones(replay.pool.merges, dtype=bool),
        precision=0.005,
        rng=generator(seed, "replay certificate"),
    )
    return winner, certificate


def search_at_random(replay: ReplayedPool, runs: int, seed: int) -> list[int]:
    """Random merges; the best on the items seen."""
    order = generator(seed, "replay random").permutation(replay.pool.merges)[:runs]
    return _follow_best(replay, order.tolist())


def search_by_tpe(replay: ReplayedPool, runs: int, seed: int) -> list[int]:
    """The default of `strategy: tpe`: multivariate TPE after 20 random merges."""
    return _ask_optuna(replay, runs, optuna.samplers.TPESampler(seed=seed, multivariate=True, n_startup_trials=20))


def search_by_paper(replay: ReplayedPool, runs: int, seed: int) -> list[int]:
    """Univariate TPE, as in OptiMer."""
    return _ask_optuna(replay, runs, optuna.samplers.TPESampler(seed=seed, multivariate=False, n_startup_trials=20))


def search_by_gp(replay: ReplayedPool, runs: int, seed: int) -> list[int]:
    """Optuna's Gaussian process of the objective."""
    return _ask_optuna(replay, runs, optuna.samplers.GPSampler(seed=seed))


def search_by_racing(replay: ReplayedPool, runs: int, seed: int) -> list[int]:
    """Random merges raced in blocks of items; what a paired Wilcoxon test finds worse than the leader is dropped.

    `runs` counts whole measurements: what is saved on dropped merges buys more of them.
    """
    order = generator(seed, "replay random").permutation(replay.pool.merges).tolist()
    items_MI = replay.list_items()
    columns = generator(seed, "replay race").permutation(items_MI.shape[1])
    blocks = np.array_split(columns, 5)
    left, winners, best, spent = float(runs), [], order[0], 0.0
    for merge in order:
        if left <= 0:
            break
        for number in range(1, 6):
            seen = np.concatenate(blocks[:number])
            left, spent = left - 0.2, spent + 0.2
            gains = items_MI[merge, seen] - items_MI[best, seen]
            if merge != best and gains.mean() < 0 and np.any(gains) and wilcoxon(gains).pvalue < 0.1:
                break
        else:
            best = merge if replay.search_scores[merge] > replay.search_scores[best] else best
        winners += [best] * (int(spent + 1e-9) - len(winners))
    return (winners + [best] * runs)[:runs]


def _ask_optuna(replay: ReplayedPool, runs: int, sampler: optuna.samplers.BaseSampler) -> list[int]:
    """A study whose every suggestion is moved to the nearest recorded merge that was not taken."""
    study = optuna.create_study(direction="maximize", sampler=sampler)
    weights, taken = replay.pool.weights_MV.astype(np.float64), []
    distributions = {name: optuna.distributions.FloatDistribution(0.0, 1.0) for name in replay.pool.vectors}
    for _ in range(min(runs, replay.pool.merges)):
        trial = study.ask(distributions)
        asked = np.array([trial.params[name] for name in replay.pool.vectors])
        distances = ((weights - asked) ** 2).sum(axis=1)
        distances[taken] = np.inf
        merge = int(np.argmin(distances))
        taken.append(merge)
        params = dict(zip(replay.pool.vectors, np.clip(weights[merge], 0.0, 1.0).tolist(), strict=True))
        study.add_trial(
            optuna.trial.create_trial(
                params=params, distributions=distributions, value=float(replay.search_scores[merge])
            )
        )
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
    return _follow_best(replay, taken)


def _follow_best(replay: ReplayedPool, taken: list[int]) -> list[int]:
    """The best merge on the items seen after each run."""
    best, winners = taken[0], []
    for merge in taken:
        best = merge if replay.search_scores[merge] > replay.search_scores[best] else best
        winners.append(best)
    return winners


STRATEGIES: dict[str, Strategy] = {
    "response": search_by_response,
    "tpe": search_by_tpe,
    "tpe, paper": search_by_paper,
    "optuna gp": search_by_gp,
    "random": search_at_random,
    "racing": search_by_racing,
}
