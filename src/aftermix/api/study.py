"""A search that asks for points and is told their scores: for whoever measures by a procedure of his own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, nan
from numbers import Real
from typing import TYPE_CHECKING, Any

from aftermix.api.merged import Merged
from aftermix.api.pool import Pool
from aftermix.api.sections import Ranges, extend_config
from aftermix.api.stored_run import tabulate_trials
from aftermix.errors import SearchError
from aftermix.runs.item_scores import average
from aftermix.runs.trials import Point, Trial
from aftermix.search.objective import ObjectiveSet

if TYPE_CHECKING:
    import pandas
    import torch

Scores = Mapping[str, float | Sequence[float | None]]
"""Task -> its score, or the scores of its items."""


@dataclass(frozen=True)
class AskedPoint:
    """A merge that the study wants scored."""

    number: int
    weights: Mapping[str, float]
    settings: Mapping[str, Any]
    origin: str
    merged: Merged

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Name and tensor of everything that the merged model has."""
        return self.merged.tensors()

    def model(self) -> Any:
        """The merge as a model of transformers."""
        return self.merged.model()


class Study:
    """Ask and tell over merge weights and searched settings, by TPE (OptiMer, Algorithm 1) or at random.

    What is proposed is decided by the trials told before, the points still open, and the seed. Priors come first, then
    scattered points, then the sampler's. ::

        study = Study(pool, ranges={"ja": (0, 1), "math": (0, 1)})
        for point in study.ask(4):
            study.tell(point.number, {"accuracy": score(point.tensors())})
        study.best.weights
    """

    def __init__(self, pool: Pool, *, ranges: Ranges | None = None, **options: Any) -> None:
        """`options`: keys of `search:` and `merge:`; `strategy` is `tpe` (default) or `random`.

        Raises :class:`AftermixError` for keys that do not fit, and :class:`SearchError` for `strategy: response`, which
        needs log-likelihoods.
        """
        from aftermix.jobs.provenance import resolve_defaults
        from aftermix.jobs.search.space_from_config import build_space
        from aftermix.merging.merge import MergeRecipe

        options = {"strategy": "tpe", **options}
        config = extend_config(pool.config, options, sections=["search", "merge"], ranges=ranges)
        if config.search.strategy == "response":
            raise SearchError("strategy", "response needs log-likelihoods", "Take `tpe`, or aftermix.search.")
        recipe = MergeRecipe.from_config(config.merge, vectors=config.vectors, for_search=True)
        self.config = resolve_defaults(config, recipe)
        self._space = build_space(self.config)
        self._trials: list[Trial] = []
        self._open: dict[int, AskedPoint] = {}
        self._asked = 0
        self._tasks: tuple[str, ...] = ()

    def ask(self, count: int = 1) -> list[AskedPoint]:
        """The next points, each chosen in view of those that are still open."""
        from aftermix.search.sampler import suggest

        points = []
        for _ in range(count):
            suggestion = suggest(
                self._space,
                config=self.config.search,
                objectives=self._build_objectives(),
                trials=self._trials,
                number=self._asked,
                running=[_locate(point) for point in self._open.values()],
            )
            merged = self._merge(suggestion.point)
            point = AskedPoint(self._asked, suggestion.weights, suggestion.settings, suggestion.origin, merged)
            self._open[point.number] = point
            self._asked += 1
            points.append(point)
        return points

    def tell(self, number: int, scores: Scores | None, *, error: str | None = None) -> None:
        """Record the scores of point `number`, or with None that it failed, and why (`error`).

        Raises :class:`SearchError` for a point that is not open, other tasks than those told before, and scores that
        are no finite numbers.
        """
        if number not in self._open:
            found = f"expected one of the open points ({', '.join(map(str, self._open)) or 'none'}), found {number}"
            raise SearchError("tell", found, "Tell each point that was asked for once.")
        point = self._open[number]
        fields: dict[str, Any] = {
            "number": number, "weights": dict(point.weights), "settings": dict(point.settings), "origin": point.origin,
            "strategy": self.config.search.strategy,
        }  # fmt: skip

        if scores is None:
            trial = Trial(**fields, state="failed", error=error or "told as failed")
        else:
            means = self._check_scores(number, scores)
            self._tasks = self._tasks or tuple(means)
            objectives = self._build_objectives()
            values, is_feasible = objectives.values(means), objectives.feasible(means)
            trial = Trial(**fields, state="complete", scores=means, objective=values, feasible=is_feasible)
        del self._open[number]
        self._trials = sorted([*self._trials, trial], key=lambda told: told.number)

    @property
    def trials(self) -> pandas.DataFrame:
        """A row a told point: the columns of a run's trials."""
        return tabulate_trials(self._trials)

    @property
    def best(self) -> Trial | None:
        """The best complete trial that meets the floors, by the first objective; None before there is one."""
        usable = [trial for trial in self._trials if trial.is_complete and trial.feasible]
        return max(usable, key=lambda trial: trial.values[0], default=None)

    def merge(self, trial: Trial) -> Merged:
        """The merge of a told point."""
        return self._merge(trial.point)

    def _merge(self, point: Point) -> Merged:
        from aftermix.jobs.search.settings import apply_settings

        config = apply_settings(self.config, point.settings)
        return Merged(extend_config(config, {}, sections=[], weights=point.weights))

    def _build_objectives(self) -> ObjectiveSet:
        named = [task for goal in self.config.search.objective for task in (*goal.tasks, *goal.floors)]
        return ObjectiveSet.build(
            self.config.search.objective, tasks=list(self._tasks or dict.fromkeys(named) or ("score",))
        )

    def _check_scores(self, number: int, scores: Scores) -> dict[str, float]:
        if self._tasks and set(scores) != set(self._tasks):
            found = f"expected scores of {', '.join(self._tasks)}, found {', '.join(scores) or 'none'}"
            raise SearchError(f"point {number}", found, "Tell the same tasks at every point.")
        means = {task: _average_items(given) for task, given in scores.items()}
        for task, mean in means.items():
            if not isfinite(mean):
                remedy = "Tell a finite score, or `tell(number, None, error=...)` for a point that failed."
                raise SearchError(f"point {number}: task '{task}'", f"expected a number, found {mean}", remedy)
        return means


def _average_items(given: float | Sequence[float | None]) -> float:
    """A score, of any type of real number, or the mean of the items' scores; NaN where no item has one."""
    if isinstance(given, Real):
        return float(given)
    scores = [None if score is None else float(score) for score in given]  # type: ignore[union-attr]
    return average(scores) if any(score is not None for score in scores) else nan


def _locate(point: AskedPoint) -> Point:
    return Point(dict(point.weights), dict(point.settings))
