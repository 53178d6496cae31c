"""A run folder, finished or not, as Python and notebooks have it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aftermix.api.merged import Merged
from aftermix.config import Config, Split
from aftermix.extras import refuse_missing_extra
from aftermix.runs.input_records import SPLIT_FILE, SplitRecord, TaskSplitRecord
from aftermix.runs.item_scores import OptionalScores, WholeScore
from aftermix.runs.journal import locate_items, read_items
from aftermix.runs.reader import RunContents, RunResult, read_run
from aftermix.runs.trials import Trial

if TYPE_CHECKING:
    import pandas

    from aftermix.api.shown_scores import PredictedMerge
    from aftermix.report.notebook.desk_frame import MixingDesk
    from aftermix.report.notebook.run_charts import ChartSheet

PLAIN = ("number", "state", "origin")


class Run:
    """A run of a search or a mixture.

    What it shows is what its files held when it was opened. ::

        run = aftermix.open_run("runs/quiz")
        run.trials.sort_values("objective", ascending=False)
        run.items().groupby("number")["score"].mean()
        run.predict({"ja": 0.2, "math": 0.5}).objective.mean
    """

    def __init__(self, contents: RunContents) -> None:
        """`contents`: the files, as :func:`open_run` reads them."""
        self._contents = contents

    @property
    def path(self) -> Path:
        """The run folder."""
        return self._contents.folder

    @property
    def config(self) -> Config:
        """The file that the run was made from, with defaults written out."""
        return self._contents.config

    @property
    def best(self) -> RunResult | None:
        """`best.json`: winner, weights, scores, baselines; None while the run is unfinished."""
        return self._contents.best

    @property
    def ratios(self) -> dict[str, float] | None:
        """Data ratios of the winner by vector; None where there are none, or no winner yet."""
        return None if self.best is None else self.best.ratios

    @cached_property
    def trials(self) -> pandas.DataFrame:
        """A row a trial: `number, state, origin, objective, weights.NAME, scores.TASK, seconds.PHASE`.

        Searched settings are `settings.NAME`. Several objectives are `objective.0`, `objective.1`, ...
        """
        return tabulate_trials(self._contents.trials)

    def items(self, split: Split = "search") -> pandas.DataFrame:
        """A row for each item of each measured trial: `number, task, item, score`.

        On `select` these are the candidates. Test items were answered by the winner and the baselines alone, which are
        no trials: their scores are in :attr:`best`.
        """
        refuse_missing_extra("report", what="a data frame")
        import pandas

        tasks = SplitRecord.read(self.path / SPLIT_FILE).tasks
        rows = [
            {"number": trial.number, "task": task, "item": item, "score": score}
            for trial in self._contents.trials
            if locate_items(self.path, split, trial.number).is_file()
            for task, scores in read_items(self.path, split, trial.number).items()
            for item, score in zip(_list_items(tasks[task], split, scores), scores, strict=True)
        ]
        return pandas.DataFrame(rows, columns=["number", "task", "item", "score"])

    def predict(self, weights: Mapping[str, float]) -> PredictedMerge:
        """Scores of the merge at `weights`, with intervals, as `aftermix predict` tells them; no model is run.

        A vector that is not named weighs 0. Raises :class:`AftermixError` for a run without log-likelihoods.
        """
        refuse_missing_extra("search", what="Run.predict()")
        from aftermix.api.shown_scores import PredictedMerge
        from aftermix.jobs.search.predict import predict

        return PredictedMerge.model_validate(predict(self.path, weights).model_dump(exclude_unset=True))

    def merge(self, weights: Mapping[str, float]) -> Merged:
        """The merge at `weights`, with method, options and exclusions of this run."""
        from aftermix.jobs.merge.from_run import configure_run_merge

        return Merged(configure_run_merge(self.path, weights))

    @cached_property
    def charts(self) -> ChartSheet:
        """The charts of the report by name (`progress`, `comparison`, ...): a notebook shows each, or all."""
        from aftermix.report.notebook.run_charts import ChartSheet

        return ChartSheet.draw(self._contents)

    def desk(self) -> MixingDesk:
        """The mixing desk of the report: sliders that predict the scores of any merge.

        Raises :class:`AftermixError` for a run without log-likelihoods, and for a mixture.
        """
        from aftermix.report.notebook.desk_frame import MixingDesk

        return MixingDesk.build(self._contents)

    def report(self) -> Path:
        """Write `report.html` from the files as they are, and return its path."""
        refuse_missing_extra("report", what="Run.report()")
        from aftermix.report.page import write_report

        return write_report(self.path)

    def __repr__(self) -> str:
        state = "finished" if self.best is not None else "unfinished"
        return f"Run({str(self.path)!r}, {len(self._contents.trials)} trials, {state})"

    def _repr_html_(self) -> str:
        """Verdict, winner and baselines, vectors and two charts, as a notebook shows them."""
        from aftermix.report.notebook.run_summary import summarise_run

        return summarise_run(self._contents)


def _list_items(task: TaskSplitRecord, split: Split, scores: OptionalScores) -> Sequence[str]:
    """Names of the items that `scores` are of; a task that was scored whole has one, called as the split."""
    return [split] if isinstance(scores, WholeScore) else getattr(task, split)


def open_run(path: str | Path) -> Run:
    """Open the run folder at `path`: of a search or a mixture, finished, killed or still running. ::

        run = aftermix.open_run("runs/quiz")
        run.best.weights if run.best else len(run.trials)

    Raises :class:`AftermixError` when it is no run, or naming the file and place that is damaged.
    """
    return Run(read_run(Path(path)))


def tabulate_trials(trials: Sequence[Trial]) -> pandas.DataFrame:
    """A row a trial: `number, state, origin, objective, weights.NAME, settings.NAME, scores.TASK, seconds.PHASE`."""
    refuse_missing_extra("report", what="a data frame")
    import pandas

    return pandas.DataFrame([_flatten_trial(trial) for trial in trials])


def _flatten_trial(trial: Trial) -> dict[str, Any]:
    row: dict[str, Any] = {name: getattr(trial, name) for name in PLAIN} | _name_objectives(trial.objective)
    for name, part in (("weights", trial.weights), ("settings", trial.settings), ("scores", trial.scores)):
        row |= {f"{name}.{key}": value for key, value in part.items()}
    return row | {f"seconds.{phase}": value for phase, value in trial.seconds.items()}


def _name_objectives(values: Sequence[float] | None) -> dict[str, float | None]:
    if values is None or len(values) == 1:
        return {"objective": values[0] if values else None}
    return {f"objective.{place}": value for place, value in enumerate(values)}
