"""A search that asks for points and is told their scores: for whoever measures by a procedure of his own."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any
from weakref import finalize

from aftermix.api.merged import Merged
from aftermix.api.pool import Pool
from aftermix.api.sections import Ranges, extend_config
from aftermix.api.stored_run import tabulate_trials
from aftermix.api.studies.folder import StudyFolder
from aftermix.api.studies.told_answers import ToldAnswers, read_told
from aftermix.config.places import place_weights
from aftermix.errors import SearchError
from aftermix.extras import refuse_missing_extra
from aftermix.runs.answers.requests import REQUESTS_FILE, RequestTable, read_request_files, write_requests
from aftermix.runs.trials import Point, ProposedPoint, Suggestion, Trial

if TYPE_CHECKING:
    import pandas
    import torch

    from aftermix.api.shown_scores import PredictedMerge
    from aftermix.api.studies.response import StudyResponse
    from aftermix.runs.answers.certificate_records import CertificateRecord
    from aftermix.search.objective import ObjectiveSet

Scores = Mapping[str, float | Sequence[float | None] | Mapping[str, Any]]
"""Task -> its score, its items' scores, or scores with log-likelihoods (:mod:`aftermix.api.studies.told_answers`)."""


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

    @property
    def point(self) -> Point:
        """Weights and settings."""
        return Point(dict(self.weights), dict(self.settings))


class Study:
    """Ask and tell over merge weights and searched settings: by TPE (OptiMer, Algorithm 1), at random, or by response.

    What is proposed is decided by what was told before, the points still open, and the seed. Priors come first, then
    scattered points, then the sampler's. `response` fits every item's log-likelihoods, and has a design of its own. ::

        study = aftermix.Study(pool, ranges={"ja": (0, 1), "math": (0, 1)}, output="studies/y")
        for point in study.ask(4):
            study.tell(point.number, {"my score": my_score(point.model())})
        study.best.weights

    With `output` every point and every score is on disk before the call returns. Opened again with the same arguments,
    the study first hands out the points that were asked for and never told, and then goes on as it would have.
    """

    _trials: list[Trial]
    """Told points, by number."""
    _open: dict[int, AskedPoint]
    _left: list[AskedPoint]
    """Open points of an earlier process, to be handed out first."""
    _asked: int
    _batches: int
    _tasks: tuple[str, ...]
    _requests: RequestTable | None
    """Items that log-likelihoods are told of, once some were."""

    def __init__(
        self, pool: Pool, *, ranges: Ranges | None = None, output: str | Path | None = None, **options: Any
    ) -> None:
        """`options`: keys of `search:` and `merge:`; `strategy` is `tpe` (default), `random` or `response`.

        `output`: a new folder, or that of this study; without it the study lives in memory. Raises
        :class:`AftermixError` for keys that do not fit, and :class:`SearchError` for a folder that holds anything else.
        """
        refuse_missing_extra("search", what="Study")
        from aftermix.jobs.provenance import resolve_defaults
        from aftermix.jobs.search.space_from_config import build_space
        from aftermix.merging.recipe import MergeRecipe

        options = {"strategy": "tpe", **options}
        config = extend_config(pool.config, options, sections=["search", "merge"], ranges=ranges)
        self._recipe = MergeRecipe.from_config(config.merge, vectors=config.vectors, for_search=True)
        self.config = resolve_defaults(config, self._recipe)
        self._space = build_space(self.config)

        self._forget()
        self._folder: StudyFolder | None = None
        if output is not None:
            self._folder = StudyFolder(Path(output))
        elif self.config.search.strategy == "response":  # which reads log-likelihoods from files
            self._folder = StudyFolder(Path(mkdtemp(prefix="aftermix-study-")))
            finalize(self, shutil.rmtree, self._folder.path, ignore_errors=True)
        if self._folder is not None:
            self._folder.open(self.config)
            self._load(self._folder)

    def ask(self, count: int = 1) -> list[AskedPoint]:
        """The next points, each chosen in view of those that are still open.

        A study that was opened again first gives what is left of the points that were asked for, which may be fewer
        than `count`. Raises :class:`AftermixError` where its folder cannot be written, and asks nothing then.
        """
        with self._work():
            if self._left:
                points, self._left = self._left[:count], self._left[count:]
                return points

            suggestions = self._suggest(count)
            points = [self._open_point(self._asked + place, each) for place, each in enumerate(suggestions)]
            if self._folder is not None:
                self._folder.append_points([self._describe(point, len(points)) for point in points])
            self._open |= {point.number: point for point in points}
            self._asked += len(points)
            self._batches += 1
            return points

    def tell(
        self,
        number: int,
        scores: Scores | None,
        loglikelihoods: Mapping[str, Any] | None = None,
        *,
        gold: Mapping[str, Sequence[int]] | None = None,
        error: str | None = None,
    ) -> None:
        """Record the scores of point `number`, or with None that it failed, and why (`error`).

        `loglikelihoods`: task -> for each item the log-likelihood of each choice; `gold`: task -> for each item the
        index of the right choice, told with the first point at least. The item's score is 1 where the right one is
        the greatest. `strategy: response` needs them of one task or more; the scores of such a task are told by item.

        Raises :class:`SearchError` for a point that is not open, other tasks or items than those told before, and
        numbers that are not finite; nothing is recorded then.
        """
        with self._work():
            if number not in self._open:
                found = f"expected one of the open points ({', '.join(map(str, self._open)) or 'none'}), found {number}"
                raise SearchError("tell", found, "Tell each point that was asked for once.")
            point = self._open[number]
            fields: dict[str, Any] = {
                "number": number, "weights": dict(point.weights), "settings": dict(point.settings),
                "origin": point.origin, "strategy": self.config.search.strategy,
            }  # fmt: skip

            told = None if scores is None else self._check(number, scores, loglikelihoods, gold)
            if told is None:
                trial = Trial(**fields, state="failed", error=error or "told as failed")
            else:
                objectives = self._build_objectives(tuple(told.means))
                values, is_feasible = objectives.values(told.means), objectives.feasible(told.means)
                trial = Trial(**fields, state="complete", scores=told.means, objective=values, feasible=is_feasible)
            self._record(trial, told)

    @property
    def open(self) -> list[AskedPoint]:
        """Points that were asked for and are still to be told."""
        return list(self._open.values())

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

    def predict(self, weights: Mapping[str, float]) -> PredictedMerge:
        """Scores of the merge at `weights` in the units that were told, with 95 % intervals; no model is run.

        An interval is of the metric over other items of the same kind, as `aftermix predict` gives it for a run. A
        vector that is not named weighs 0, or what its range holds it at; searched settings are those of :attr:`best`.
        Raises :class:`SearchError` for fewer than four told points with log-likelihoods, and for a vector that the
        study has not, or holds at another weight.
        """
        from aftermix.jobs.search.named_weights import complete_point, refuse_released

        response, full = self._read_response(), complete_point(weights, self._space)
        refuse_released(full, self._space)
        settings = self.best.settings if self.best is not None else self._space.choose_start()
        return response.predict(Point(full, settings))

    def certificate(self) -> CertificateRecord:
        """Bound on what any merge within the ranges gains over :attr:`best`, as a search has it of its winner.

        `bound`, in the unit of the objective, is the 95 % quantile of `max_w f(w) - f(best)` over draws of the response
        and of other items of the same kind; `bound_items_fixed` the same on the items that were told. `status` is `met`
        where further points tell less than `precision`, `flat` where a prior is as good as any merge, else `trials`;
        :attr:`CertificateRecord.is_met` says when to stop asking. Before four points, and where the response predicts
        too little or :attr:`best` lies outside of the ranges, `model` is `none` and there is no bound.

        Raises :class:`SearchError` for a study without log-likelihoods.
        """
        return self._read_response().certify(self.best)

    # What is proposed

    def _suggest(self, count: int) -> list[Suggestion]:
        if self.config.search.strategy != "response":
            return self._suggest_by_sampler(self._trials, count)

        assert self._folder is not None  # noqa: S101 - made at the start; for the type checker
        return self._open_response(self._folder).suggest(count, self._list_open())

    def _open_response(self, folder: StudyFolder) -> StudyResponse:
        from aftermix.api.studies.response import StudyResponse

        return StudyResponse.open(
            folder.path,
            self._trials,
            config=self.config.search,
            space=self._space,
            normalised=self._recipe.method.divides_by_weights,
            objectives=self._build_objectives(self._tasks),
            tasks=self._tasks,
            fall_back=self._suggest_by_sampler,
        )

    def _read_response(self) -> StudyResponse:
        """The response to what was told. Raises :class:`SearchError` where no log-likelihoods are kept."""
        if self._folder is None or self._requests is None:
            found = "expected log-likelihoods of items, found a study that has none"
            raise SearchError("study", found, "Tell them, and open the study by `strategy: response` or with `output`.")
        return self._open_response(self._folder)

    def _suggest_by_sampler(self, trials: Sequence[Trial], count: int) -> list[Suggestion]:
        from aftermix.search.sampler import suggest

        suggestions: list[Suggestion] = []
        for place in range(count):
            suggestion = suggest(
                self._space,
                config=self.config.search,
                objectives=self._build_objectives(self._tasks),
                trials=trials,
                number=self._asked + place,
                running=[*self._list_open(), *(each.point for each in suggestions)],
            )
            suggestions.append(suggestion)
        return suggestions

    def _list_open(self) -> list[Point]:
        return [point.point for point in self._open.values()]

    def _build_objectives(self, tasks: tuple[str, ...]) -> ObjectiveSet:
        from aftermix.search.objective import ObjectiveSet

        named = [task for goal in self.config.search.objective for task in (*goal.tasks, *goal.floors)]
        return ObjectiveSet.build(self.config.search.objective, tasks=list(tasks or dict.fromkeys(named) or ("score",)))

    # What is told

    def _check(
        self, number: int, scores: Scores, loglikelihoods: Mapping[str, Any] | None, gold: Mapping[str, Any] | None
    ) -> ToldAnswers:
        where = f"point {number}"
        if self._tasks and set(scores) != set(self._tasks):
            found = f"expected scores of {', '.join(self._tasks)}, found {', '.join(scores) or 'none'}"
            raise SearchError(where, found, "Tell the same tasks at every point.")
        told = read_told(scores, loglikelihoods, gold, where=where, earlier=self._requests)
        if self.config.search.strategy == "response" and not told.has_likelihoods:
            found = "expected log-likelihoods, which `strategy: response` needs, found scores alone"
            raise SearchError(where, found, "Tell `loglikelihoods` and `gold` of a task, or take `strategy: tpe`.")
        return told

    def _record(self, trial: Trial, told: ToldAnswers | None) -> None:
        """Write down what was told, then count it."""
        keeps = told is not None and (told.has_likelihoods or self._requests is not None)
        if self._folder is not None:
            if told is not None and keeps and self._requests is None:
                write_requests(self._folder.path, told.requests)
            self._folder.append_trial(
                trial, None if told is None else told.items, told.answers if told is not None and keeps else None
            )

        if told is not None:
            self._tasks = self._tasks or tuple(told.means)
            self._requests = told.requests if keeps and self._requests is None else self._requests
        del self._open[trial.number]
        self._trials = sorted([*self._trials, trial], key=lambda each: each.number)

    # What is on disk

    def _work(self) -> AbstractContextManager[None]:
        """The time in which no other process may work on the study."""
        if self._folder is None:
            return nullcontext()
        if self._folder.has_changed:
            self._forget()
            self._load(self._folder)
        return self._folder.hold()

    def _forget(self) -> None:
        self._trials, self._open, self._left = [], {}, []
        self._asked = self._batches = 0
        self._tasks, self._requests = (), None

    def _load(self, folder: StudyFolder) -> None:
        """Take up the study as its files have it."""
        with folder.hold():
            points, trials = folder.read()
        told = {trial.number for trial in trials}
        asked = [self._open_point(point.number, point) for point in points]
        self._left = [point for point in asked if point.number not in told]
        self._open = {point.number: point for point in self._left}
        self._asked = max((point.number for point in points), default=-1) + 1
        self._batches = max((point.batch for point in points), default=-1) + 1

        self._trials = sorted(trials, key=lambda each: each.number)
        complete = next((trial for trial in trials if trial.is_complete), None)  # the first told decides the tasks
        if complete is not None:
            self._tasks = tuple(complete.scores)
            has_requests = (folder.path / REQUESTS_FILE).is_file()
            self._requests = read_request_files(folder.path) if has_requests else None

    def _open_point(self, number: int, place: Suggestion | ProposedPoint) -> AskedPoint:
        return AskedPoint(number, place.weights, place.settings, place.origin, self._merge(place.point))

    def _describe(self, point: AskedPoint, size: int) -> ProposedPoint:
        return ProposedPoint(
            number=point.number,
            batch=self._batches,
            size=size,
            strategy=self.config.search.strategy,
            origin=point.origin,
            weights=dict(point.weights),
            settings=dict(point.settings),
        )

    def _repr_html_(self) -> str:
        from aftermix.report.notebook.tables import tabulate_study

        return tabulate_study(self._trials, open_points=len(self._open))

    def _merge(self, point: Point) -> Merged:
        from aftermix.jobs.search.settings import apply_settings

        config = apply_settings(self.config, point.settings)
        return Merged(extend_config(config, {}, sections=[], weights=place_weights(config.vectors, point.weights)))
