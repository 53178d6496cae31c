"""`aftermix mixture --verify N`: mixtures trained for real, held against the merges that stand for them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aftermix.checkpoints.pool import open_pool
from aftermix.config import Config, require
from aftermix.errors import MixtureError, SearchError
from aftermix.evaluation.harness import TaskSuite
from aftermix.files import write_json
from aftermix.jobs import run_folder
from aftermix.jobs.evaluator import Bench
from aftermix.jobs.mixture.command import mixture
from aftermix.jobs.mixture.points import Learned
from aftermix.jobs.mixture.problem import Setting
from aftermix.jobs.mixture.scores import Scoring, as_json
from aftermix.jobs.train.command import to_stderr
from aftermix.jobs.verify.cost import cost_record
from aftermix.jobs.verify.doremi import doremi_ratios
from aftermix.jobs.verify.trained_mixtures import (
    Chosen,
    Measured,
    chosen_mixtures,
    measured_mixtures,
    train_mixtures,
    train_record,
)
from aftermix.jobs.verify.training_file import refuse_missing_data, sources_of, tokens_of
from aftermix.merging.merge import Recipe
from aftermix.mixture.optimum import find_optimum
from aftermix.mixture.rank_consistency import DECIMALS, FEWEST, Score, consistency, spearman
from aftermix.mixture.regmix import plain_mixtures, regmix
from aftermix.mixture.simplex import Floats, named
from aftermix.mixture.surrogates.surrogate import FEWEST_POINTS, Surrogate
from aftermix.mixture.utility import Utility
from aftermix.report.page import write_report
from aftermix.runs.journal import only_process, read_trials
from aftermix.runs.trials import ItemScores
from aftermix.search.objective import Objectives

# N trained mixtures, K domains, M capabilities

VERIFICATION = "verification.json"
DOREMI = "doremi"
OPTION = "--tokens T"


def refuse_unverifiable(config: Config, *, mixtures: int, tokens: int | None) -> int:
    """The tokens of each training, when `config` says all that a verification needs.

    Raises :class:`AftermixError` for fewer than three mixtures or more than are measured, a file without `train:`, a
    domain without data or whose data is not there, no number of tokens or too small a one, and a tree of domains.
    """
    require(config, "base", "vectors", "evaluate", "mixture", "train")
    assert config.mixture is not None  # noqa: S101 - required above; for the type checker
    assert config.train is not None  # noqa: S101

    if config.mixture.tree is not None:
        raise MixtureError("--verify", "expected a mixture without a tree", "Verify a file that has all experts flat.")
    if mixtures < FEWEST:
        raise MixtureError("--verify", f"expected at least {FEWEST} mixtures, found {mixtures}", "Train more of them.")
    if mixtures > config.mixture.points:
        found = f"expected at most the {config.mixture.points} mixtures of `mixture.points`, found {mixtures}"
        raise MixtureError("--verify", found, "Train fewer, or measure more points.")

    domains = [name for name, vector in config.vectors.items() if vector.role == "expert"]
    refuse_missing_data(sources_of(config.train, domains))
    tokens = tokens_of(config.train, domains, option=OPTION) if tokens is None else tokens
    needed = len(domains) * config.train.context
    if tokens < needed:
        found = f"expected at least {needed:,} tokens, a sequence of `train.context` for each domain, found {tokens:,}"
        raise MixtureError("--verify", found, f"Lower `train.context`, or train on more: {OPTION}.")
    return tokens


def verified_mixture(
    config: Config,
    run: Path,
    *,
    mixtures: int,
    resume: bool = False,
    source: Path | None = None,
    tokens: int | None = None,
    doremi: bool = False,
) -> Path:
    """A mixture run, as :func:`~aftermix.jobs.mixture.command.mixture` makes it, and then its verification; its path.

    What the verification needs is checked before the run begins.
    """
    tokens = refuse_unverifiable(config, mixtures=mixtures, tokens=tokens)
    mixture(config, run, resume=resume, source=source)
    return verify(config, run, mixtures=mixtures, tokens=tokens, doremi=doremi)


def verify(
    config: Config,
    run: Path,
    *,
    mixtures: int,
    tokens: int | None = None,
    doremi: bool = False,
    say: Callable[[str], None] | None = None,
) -> Path:
    """Train `mixtures` mixtures of the finished run in `run` for real and write RUN/verification.json, its path.

    The mixtures are measured points of the run that lie far apart, uniform and the winner the first, single domains
    the last; each is trained from the base on `tokens` tokens (by default those of the experts) by the settings of
    `config.train`, into RUN/trained. Merges and trained models are measured on the run's test items, and their ranks
    and scales compared; the trained runs are what RegMix learns from, and with `doremi` the uniform one is the
    reference of DoReMi. Every finished training and measurement is kept, so the same call goes on after an
    interruption. All but `train:` is taken from the run. Source: MergeMix, sections 4.2 and 4.3; docs/mixture.md,
    "Consistency" and "Baselines". Raises :class:`AftermixError`.
    """
    if not (run / run_folder.BEST).is_file():
        raise SearchError(str(run), f"is not finished: it has no {run_folder.BEST}", "Finish it by --resume first.")
    run_folder.refuse_other_kind(run, mixture=True)

    say = say or to_stderr
    config = run_folder.read_run_config(run).model_copy(update={"train": config.train})
    tokens = refuse_unverifiable(config, mixtures=mixtures, tokens=tokens)

    with only_process(run):
        found = _Verification.of(config, run, mixtures=mixtures, tokens=tokens, say=say)
        write_json(run / VERIFICATION, found.record(doremi=doremi, say=say))
    write_report(run)
    return run / VERIFICATION


@dataclass(frozen=True)
class _Verification:
    """Trained and measured mixtures of one run."""

    config: Config
    run: Path
    setting: Setting
    bench: Bench
    scoring: Scoring
    """The run's utility, in units of its merged points."""
    surrogate: Surrogate
    """Fitted to the merges on search items."""
    tokens: int
    measured: Sequence[Measured]

    @classmethod
    def of(cls, config: Config, run: Path, *, mixtures: int, tokens: int, say: Callable[[str], None]) -> _Verification:
        """Choose, train and measure."""
        assert config.evaluate is not None  # noqa: S101 - required before; for the type checker
        assert config.train is not None  # noqa: S101
        setting = Setting.of(config)
        trials = [trial for trial in read_trials(run) if trial.is_complete]
        best = json.loads((run / run_folder.BEST).read_text(encoding="utf-8"))
        chosen = chosen_mixtures(setting, trials, best["weights"], mixtures)

        if config.train.schedule != "constant":
            say(f"train.schedule is {config.train.schedule}: merges stand for trainings at a constant rate")
        folders = train_mixtures(config, run, chosen, domains=setting.domains, tokens=tokens, say=say)

        pool, suite = open_pool(config), TaskSuite.build(config.evaluate)
        recipe = Recipe.of(config.merge, vectors=config.vectors)
        bench = Bench.open(config, pool, recipe, space=setting.space, suite=suite)
        objectives = Objectives.build((setting.objective,), tasks=list(suite.tasks))

        learned = Learned.of(setting, trials)
        scoring = Scoring(setting, objectives, setting.utility(learned.scores_NM))
        measured = measured_mixtures(bench, run, scoring, chosen, folders)
        return cls(config, run, setting, bench, scoring, learned.surrogate, tokens, measured)

    def record(self, *, doremi: bool, say: Callable[[str], None]) -> dict[str, Any]:
        """`verification.json`."""
        train = self.config.train
        assert train is not None  # noqa: S101 - required before; for the type checker

        predicted_NM = self.surrogate.mean([one.chosen.shares_K for one in self.measured])
        return {
            "mixtures": [self._told(one) for one in self.measured],
            "split": "test",
            "items": {task: len(scores) for task, scores in self.measured[0].trained.items()},
            "tokens": self.tokens,
            "schedule": train.schedule,
            "learning_rate": train_record(self.measured[0].folder)["learning_rate"],
            "utility": as_json(self.scoring.utility),
            "consistency": {
                "utility": self._consistency("utility", self._utility, self.scoring.utility.values(predicted_NM)),
                "capabilities": {
                    name: self._consistency(name, _mean_of(tasks), predicted_NM[:, m])
                    for m, (name, tasks) in enumerate(self.setting.capabilities.items())
                },
            },
            "plain": self._plain(),
            "regmix": self._regmix(),
            "doremi": self._doremi(say) if doremi else None,
            "cost": cost_record(self.bench, self.run, self.setting, trained=len(self.measured), tokens=self.tokens),
        }

    def _told(self, one: Measured) -> dict[str, Any]:
        record = train_record(one.folder)
        return {
            "name": one.chosen.name,
            "point": one.chosen.point,
            "trial": one.chosen.trial,
            "shares": named(one.chosen.shares_K.round(9), self.setting.domains),
            "folder": str(one.folder.relative_to(self.run)),
            "tokens": record["tokens"],
            "loss": record["loss"]["final"],
            "merged": self._scores(one.merged),
            "trained": self._scores(one.trained),
            "trained_on_search_items": self._scores(one.search),
        }

    def _scores(self, items: ItemScores) -> dict[str, Any]:
        told = self.scoring.summary(items)
        return {"utility": told["utility"], "capabilities": told["capabilities"]}

    def _consistency(self, name: str, score: Score, predicted_N: Floats) -> dict[str, Any]:
        merged, trained = (_tables([getattr(one, side) for one in self.measured]) for side in ("merged", "trained"))
        found = consistency(merged, trained, score, seed=self.setting.mixture.seed, key=name).as_json()
        trained_N = score({task: table.mean(axis=1) for task, table in trained.items()})
        return found | {"predicted_spearman": spearman(predicted_N.round(DECIMALS), trained_N.round(DECIMALS))}

    def _utility(self, means: Mapping[str, Floats]) -> Floats:
        columns = [_mean_of(tasks)(means) for tasks in self.setting.capabilities.values()]
        return self.scoring.utility.values(np.stack(columns, axis=1))

    def _plain(self) -> dict[str, dict[str, float]]:
        """Mixtures that need no measurement."""
        vectors, domains = self.config.vectors, self.setting.domains
        known = {name: vectors[name].tokens for name in domains}
        tokens = {name: count for name, count in known.items() if count is not None}
        found = plain_mixtures(
            domains, tokens=tokens if len(tokens) == len(domains) else None, priors=self.setting.mixture.priors
        )
        return {name: named(row_K, domains) for name, row_K in found.items()}

    def _regmix(self) -> dict[str, Any]:
        """Ratios that RegMix, and our surrogates, learn from the trained models' scores on search items."""
        setting, domains, seed = self.setting, self.setting.domains, self.setting.mixture.seed
        weights_NK = np.stack([one.chosen.shares_K for one in self.measured])
        scores_NM = np.concatenate([self.scoring.scores(one.search) for one in self.measured])
        prior = "tokens" if "tokens" in setting.named_mixtures else "uniform"

        told: dict[str, Any] = {
            "prior": prior,
            "trained": len(weights_NK),
            "ratios": None,
            "surrogate": None,
            "note": None,
        }

        try:
            utility = setting.utility(scores_NM)
            found_K = regmix(
                weights_NK,
                scores_NM,
                utility,
                prior_K=setting.named_mixtures[prior],
                bounds=setting.bounds,
                seed=seed,
            )
        except MixtureError as error:
            return told | {"note": str(error)}

        ours = self._by_surrogate(weights_NK, scores_NM, utility)
        return told | {"ratios": named(found_K, domains), "surrogate": ours}

    def _by_surrogate(self, weights_NK: Floats, scores_NM: Floats, utility: Utility) -> dict[str, float] | None:
        """The optimum of our surrogates on the same trained models; None where they are too few to fit any."""
        setting = self.setting
        if len(weights_NK) < max(FEWEST_POINTS, len(setting.domains)):
            return None
        names, seed = list(setting.capabilities), setting.mixture.seed
        fitted = Surrogate.fit(weights_NK, scores_NM, seed=seed, capabilities=names)
        return find_optimum(fitted, setting.goal(utility), setting.bounds, seed=seed).shares

    def _doremi(self, say: Callable[[str], None]) -> dict[str, Any]:
        """DoReMi on the same data, its reference the model trained on the most even mixture."""
        reference = min(self.measured, key=lambda one: _unevenness(one.chosen))
        found = doremi_ratios(
            self.config,
            self.run / DOREMI,
            domains=self.setting.domains,
            reference=reference.folder,
            tokens=self.tokens,
            say=say,
        )
        return {"ratios": found["ratios"], "tokens": found["tokens"], "reference": reference.chosen.name}


def _unevenness(one: Chosen) -> float:
    return float(np.abs(one.shares_K - 1 / len(one.shares_K)).max())


def _mean_of(tasks: Sequence[str]) -> Score:
    return lambda means: np.asarray(np.mean([means[task] for task in tasks], axis=0))


def _tables(measured: Sequence[ItemScores]) -> dict[str, Floats]:
    """(N, I) item scores by task."""
    return {task: np.array([items[task] for items in measured], dtype=np.float64) for task in measured[0]}
