"""Scores and predictions as a notebook shows them: the records of their files, with a table."""

from __future__ import annotations

from aftermix.jobs.search.predict import PredictedScoreRecord, PredictionRecord
from aftermix.report.notebook.tables import ShownScore, tabulate_scores
from aftermix.runs.records import ScoresRecord

SOURCES = {"loglikelihood": "log-likelihoods", "score": "scores alone"}


class MeasuredScores(ScoresRecord):
    """Scores of one merge, with intervals."""

    def _repr_html_(self) -> str:
        one = len(self.objective) == 1
        shown = [
            ShownScore("objective" if one else f"objective {place + 1}", value, self.interval_of(place))
            for place, value in enumerate(self.objective)
        ]
        shown += [ShownScore(name, task.score, task.interval, f"{task.items:,}") for name, task in self.tasks.items()]
        return tabulate_scores(shown, last="items")


class PredictedMerge(PredictionRecord):
    """Expected scores of a merge that was not run, with intervals."""

    def _repr_html_(self) -> str:
        shown = [_show("objective", self.objective, "" if self.inside else "outside of the searched ranges")]
        shown += [_show(name, task, SOURCES[task.used]) for name, task in self.tasks.items()]
        return tabulate_scores(shown, last="predicted from")


def _show(name: str, score: PredictedScoreRecord, note: str) -> ShownScore:
    return ShownScore(name, score.mean, (score.low, score.high), note)
