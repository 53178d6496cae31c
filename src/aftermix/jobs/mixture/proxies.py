"""Proxies of a mixture run side by side: merges, what is predicted from them, and the experts alone without any merge.

Experts alone are measured on the test items as baselines anyhow, and on the search items where the limits let them be
points; so that a run has all of this without a further evaluation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aftermix.config import Split
from aftermix.jobs.evaluator import MergeEvaluator
from aftermix.jobs.mixture.baselines import MixtureBaselines
from aftermix.jobs.mixture.points import FittedSurrogates
from aftermix.jobs.mixture.problem import MixtureProblem
from aftermix.jobs.mixture.scores import UtilityScorer
from aftermix.mixture.proxies.ensemble import score_ensemble
from aftermix.mixture.proxies.null_proxy import predict_null
from aftermix.mixture.proxies.worth import ProxyForecast, compare_proxies, measure_worth
from aftermix.mixture.rank_consistency import FEWEST
from aftermix.mixture.simplex import Floats
from aftermix.response.measurements import TaskMeasurements
from aftermix.runs.answers.candidate import locate_arrays, read_likelihoods
from aftermix.runs.answers.reading import keeps_answers, read_requests
from aftermix.runs.journal import locate_items, read_items_file
from aftermix.runs.mixture_records import ProxyAgreementRecord, ProxyRecord
from aftermix.runs.trials import ItemScores, Trial, average_scores
from aftermix.search.proposing.measured_tasks import build_measurements

# N mixtures, K domains, T columns of scores

MERGES, NULL, ENSEMBLE, SURROGATES, RESPONSE = "merges", "null", "ensemble", "surrogates", "response"
SAME = 1e-9
"""Shares that differ by no more are those of one mixture."""


@dataclass(frozen=True)
class ExpertScores:
    """Every expert alone, measured on one split, in the order of the domains."""

    split: Split
    items: tuple[ItemScores, ...]
    answers: Mapping[str, TaskMeasurements] | None
    """By task; None where log-likelihoods were not kept, or a task has no choices."""

    @classmethod
    def open(
        cls, run: Path, problem: MixtureProblem, trials: Sequence[Trial], baselines: MixtureBaselines
    ) -> ExpertScores:
        """The experts as points on search items, where all of them are, else as baselines on test items."""
        complete = [trial for trial in trials if trial.is_complete]
        places = _find_vertices(problem.compute_shares(complete))
        if places is None:
            return cls.read_baselines(run, problem, baselines)
        return cls.read(run, "search", [locate_items(run, "search", complete[place].number) for place in places])

    @classmethod
    def read_baselines(cls, run: Path, problem: MixtureProblem, baselines: MixtureBaselines) -> ExpertScores:
        """The experts as baselines on test items."""
        alone = [problem.compute_weights(row_K) for row_K in np.eye(len(problem.domains))]
        return cls.read(run, "test", [baselines.find_file(weights, "test") for weights in alone])

    @classmethod
    def read(cls, run: Path, split: Split, files: Sequence[Path]) -> ExpertScores:
        """The experts whose item scores lie in `files`."""
        items = tuple(read_items_file(file) for file in files)
        return cls(split, items, _read_choices(run, split, files, items))

    def compute_table(self, problem: MixtureProblem) -> Floats:
        """(K, T) scores of the experts by column."""
        return problem.compute_scores([average_scores(items) for items in self.items])


@dataclass(frozen=True)
class ProxyComparison:
    """Forecasts of all proxies of a run, in the utility's unit."""

    problem: MixtureProblem
    scorer: UtilityScorer
    experts: ExpertScores
    positions: Mapping[Split, int]
    """Of one evaluation."""

    def forecast_from_experts(self, shares_NK: Floats) -> list[ProxyForecast]:
        """Null proxy and ensemble; the second where all tasks have choices whose log-likelihoods are kept."""
        price = len(self.experts.items) * self.positions[self.experts.split]
        null_NT = predict_null(shares_NK, self.experts.compute_table(self.problem))
        forecasts = [ProxyForecast(NULL, self.scorer.utility.values(null_NT), price)]

        answers = self.experts.answers
        if answers is not None:
            means = {task: _score_task(shares_NK, measured) for task, measured in answers.items()}
            columns = self.problem.columns.values()
            joined_NT = np.stack([np.mean([means[task] for task in tasks], axis=0) for tasks in columns], axis=1)
            forecasts.append(ProxyForecast(ENSEMBLE, self.scorer.utility.values(joined_NT), price))
        return forecasts

    def forecast_points(self, fitted: FittedSurrogates) -> list[ProxyForecast]:
        """All proxies at the measured points that mix domains, each point left out of the fit that predicts it."""
        mixed_N = fitted.shares_NK.max(axis=1) < 1 - SAME
        price = len(fitted.shares_NK) * self.positions["search"]
        held_out_NT = fitted.surrogate.held_out_RNM.mean(axis=0)
        forecasts = [
            ProxyForecast(MERGES, self.scorer.utility.values(fitted.scores_NM[mixed_N]), price),
            ProxyForecast(SURROGATES, self.scorer.utility.values(held_out_NT[mixed_N]), price),
        ]
        return forecasts + self.forecast_from_experts(fitted.shares_NK[mixed_N])

    def forecast_trained(self, fitted: FittedSurrogates, shares_NK: Floats, merged_NT: Floats) -> list[ProxyForecast]:
        """All proxies of mixtures that were trained; `merged_NT` are the scores of their merges on test items."""
        values = self.scorer.utility.values
        price = len(fitted.shares_NK) * self.positions["search"]
        forecasts = [
            ProxyForecast(MERGES, values(merged_NT), len(merged_NT) * self.positions["test"]),
            ProxyForecast(SURROGATES, values(fitted.surrogate.mean(shares_NK)), price),
        ]
        lines = [fitted.fit_response(name) for name in self.problem.columns]
        if all(line is not None for line in lines):
            response_NT = np.stack([line.predict(shares_NK) for line in lines if line is not None], axis=1)
            forecasts.append(ProxyForecast(RESPONSE, values(response_NT), price))
        return forecasts + self.forecast_from_experts(shares_NK)

    def build_agreement(self, fitted: FittedSurrogates) -> tuple[tuple[ProxyRecord, ...], ProxyAgreementRecord | None]:
        """Records of a run without trained mixtures: prices, no worth, and how far the proxies agree."""
        forecasts = self.forecast_points(fitted)
        proxies = tuple(_build_record(forecast, None) for forecast in forecasts)
        mixtures = len(forecasts[0].values_N)
        if mixtures < FEWEST:
            return proxies, None
        return proxies, ProxyAgreementRecord(
            mixtures=mixtures, experts=self.experts.split, spearman=compare_proxies(forecasts)
        )


def count_positions(evaluator: MergeEvaluator) -> dict[Split, int]:
    """Positions of one evaluation on the splits that proxies are measured on."""
    splits: tuple[Split, ...] = ("search", "test")
    return {split: evaluator.model_evaluator.count_positions(split) for split in splits}


def build_worth(forecasts: Sequence[ProxyForecast], trained_N: Floats) -> tuple[ProxyRecord, ...]:
    """Records of proxies beside the utility of the mixtures that were trained."""
    return tuple(_build_record(forecast, trained_N) for forecast in forecasts)


def _build_record(forecast: ProxyForecast, trained_N: Floats | None) -> ProxyRecord:
    worth = None if trained_N is None else asdict(measure_worth(forecast, trained_N))
    return ProxyRecord(
        name=forecast.name,
        price_tokens=forecast.price_tokens,
        trained=0 if trained_N is None else len(trained_N),
        **(worth or dict.fromkeys(("spearman", "rmse", "regret"))),
    )


def _find_vertices(shares_NK: Floats) -> list[int] | None:
    """The row of each domain alone; None where one was not measured."""
    places = []
    for row_K in np.eye(shares_NK.shape[1]):
        apart_N = np.abs(shares_NK - row_K).max(axis=1)
        if apart_N.min() > SAME:
            return None
        places.append(int(apart_N.argmin()))
    return places


def _score_task(shares_NK: Floats, measured: TaskMeasurements) -> Floats:
    """(N,) score of an ensemble of the experts that were `measured`."""
    assert measured.items is not None  # noqa: S101 - looked at before; for the type checker
    assert measured.loglikelihood_NR is not None  # noqa: S101
    return np.asarray(score_ensemble(shares_NK, measured.loglikelihood_NR, measured.items) @ measured.shares_I)


def _read_choices(
    run: Path, split: Split, files: Sequence[Path], items: Sequence[ItemScores]
) -> dict[str, TaskMeasurements] | None:
    if not keeps_answers(run) or not all(locate_arrays(file).is_file() for file in files):
        return None

    table = read_requests(run)
    answers = [read_likelihoods(file, table, split, noun=f"the log-likelihoods of {file.stem}") for file in files]
    measured = {}
    for task, requests in table.items():
        stacked_KR: NDArray[np.float32] = np.stack([each[task].loglikelihood for each in answers])
        measured[task] = build_measurements(requests, split, [each[task] for each in items], stacked_KR)
    return measured if all(task.items is not None for task in measured.values()) else None
