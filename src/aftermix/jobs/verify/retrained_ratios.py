"""Models trained at the ratios of each method, with several seeds: which ratios are worth more once trained on.

Found, uniform, token-proportional and the user's own ratios, and those that RegMix and DoReMi came to; all on the same
data, number of tokens, rate and schedule, measured on the same test items. Seeds tell the noise of training itself.
Source: MergeMix, Table 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from scipy.stats import t as student

from aftermix import progress
from aftermix.config import Config
from aftermix.jobs.mixture.baselines import LABELS
from aftermix.jobs.mixture.proxies import SAME
from aftermix.jobs.search.score_cache import ScoreCache
from aftermix.jobs.verify.mixture_verification import MixtureVerification
from aftermix.jobs.verify.trained_mixtures import TrainedItems, measure_trained_model, read_train_record, train_mixtures
from aftermix.mixture.simplex import Floats, name_shares, order_shares
from aftermix.runs.json_record import Interval
from aftermix.runs.records import UtilityScore
from aftermix.runs.verification_records import RetrainedModelRecord, RetrainedRatioRecord, VerificationRecord
from aftermix.seeds import derived_seed

# K domains, S seeds

FOUND = "found"
CONFIDENCE = 0.95


@dataclass(frozen=True)
class MethodRatios:
    """Ratios that a method has come to."""

    method: str
    shares_K: Floats

    @property
    def slug(self) -> str:
        """Beginning of the names of their trainings: equal ratios are trained once."""
        text = " ".join(f"{share:.9f}" for share in self.shares_K)
        return f"ratios-{derived_seed(0, text):016x}"[:15]


def retrain_ratios(
    verification: MixtureVerification, record: VerificationRecord, *, seeds: int, log: Callable[[str], None]
) -> tuple[RetrainedRatioRecord, ...]:
    """Train `seeds` models at the ratios of every method of the finished run, and compare them on test items.

    Trainings and measurements that are there are taken. Raises as a training does.
    """
    wanted = list(_list_ratios(verification, record))
    models: dict[str, list[TrainedItems]] = {ratios.slug: [] for ratios in wanted}
    for seed in _list_seeds(verification.config, seeds):
        for slug, trained in _train_seed(verification, wanted, seed, log).items():
            models[slug].append(trained)

    found = _list_utilities(verification, models[wanted[0].slug])
    return tuple(_build_record(verification, ratios, models[ratios.slug], found) for ratios in wanted)


def _list_ratios(verification: MixtureVerification, record: VerificationRecord) -> Iterator[MethodRatios]:
    """The winner's ratios first."""
    problem = verification.problem
    ratios = verification.finished.best.ratios
    yield MethodRatios(FOUND, order_shares(ratios, problem.domains, where=FOUND))
    for name, row_K in problem.named_mixtures.items():
        yield MethodRatios(LABELS.get(name, f"prior {name}"), row_K)

    others: dict[str, Mapping[str, float] | None] = {
        "RegMix": record.regmix.ratios,
        "DoReMi": record.doremi.ratios if record.doremi else None,
    }
    for name, shares in others.items():
        if shares is not None:
            yield MethodRatios(name, order_shares(shares, problem.domains, where=name))


def _list_seeds(config: Config, seeds: int) -> range:
    assert config.train is not None  # noqa: S101 - required before; for the type checker
    return range(config.train.seed, config.train.seed + seeds)


def _train_seed(
    verification: MixtureVerification, wanted: Sequence[MethodRatios], seed: int, log: Callable[[str], None]
) -> dict[str, TrainedItems]:
    """Every method's ratios trained with one seed and measured; mixtures of the verification are not trained again."""
    config, problem = verification.config, verification.problem
    assert config.train is not None  # noqa: S101 - required before; for the type checker
    models: dict[str, TrainedItems] = {}
    for ratios in wanted if seed == config.train.seed else ():
        measured = _find_measured(verification, ratios)
        if measured is not None:
            models[ratios.slug] = measured

    missing = {ratios.slug: ratios for ratios in wanted if ratios.slug not in models}
    names = {f"{slug}-seed-{seed}": ratios for slug, ratios in missing.items()}
    seeded = config.model_copy(update={"train": config.train.model_copy(update={"seed": seed})})
    mixtures = {name: name_shares(ratios.shares_K, problem.domains) for name, ratios in names.items()}
    folders = train_mixtures(
        seeded, verification.run, mixtures, domains=problem.domains, tokens=verification.tokens, log=log
    )

    cache = ScoreCache(verification.run, verification.evaluator.tasks)
    for name in progress.bar(list(names), label=f"models of seed {seed}", unit="model"):
        trained = measure_trained_model(verification.evaluator, problem, folders[name], cache)
        models[names[name].slug] = trained
    return models


def _find_measured(verification: MixtureVerification, ratios: MethodRatios) -> TrainedItems | None:
    """A mixture of these ratios that the verification has trained."""
    for entry in verification.measured:
        if np.abs(entry.chosen.shares_K - ratios.shares_K).max() <= SAME:
            return TrainedItems(entry.folder, entry.trained)
    return None


def _list_utilities(verification: MixtureVerification, models: Sequence[TrainedItems]) -> list[float]:
    scorer = verification.scorer
    return [float(scorer.utility.values(scorer.score_items(model.test))[0]) for model in models]


def _build_record(
    verification: MixtureVerification, ratios: MethodRatios, models: Sequence[TrainedItems], found: Sequence[float]
) -> RetrainedRatioRecord:
    utilities = _list_utilities(verification, models)
    entries = []
    for model in models:
        record = read_train_record(model.folder)
        entries.append(
            RetrainedModelRecord(
                seed=record.seed,
                folder=str(model.folder.relative_to(verification.run)),
                tokens=record.tokens,
                loss=record.loss.final,
                test=verification.summarise_scores(model.test),
            )
        )

    known = bool(np.isfinite(utilities).all())
    return RetrainedRatioRecord(
        method=ratios.method,
        ratios=name_shares(ratios.shares_K.round(9), verification.problem.domains),
        models=tuple(entries),
        utility=UtilityScore(
            value=fmean(utilities) if known else None, interval=compute_seed_interval(utilities) if known else None
        ),
        difference=None if ratios.method == FOUND else _subtract_seeds(found, utilities),
    )


def _subtract_seeds(found: Sequence[float], theirs: Sequence[float]) -> UtilityScore:
    """Found minus theirs, paired by seed."""
    apart = [ours - other for ours, other in zip(found, theirs, strict=True)]
    if not np.isfinite(apart).all():
        return UtilityScore(value=None, interval=None)
    return UtilityScore(value=fmean(apart), interval=compute_seed_interval(apart))


def compute_seed_interval(values: Sequence[float]) -> Interval | None:
    """95 % interval of the mean over seeds by Student's distribution; None of one seed, which tells no noise.

    >>> compute_seed_interval([1.0]), compute_seed_interval([1.0, 1.0])
    (None, (1.0, 1.0))
    """
    if len(values) < 2:
        return None
    half = float(student.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
    return fmean(values) - half, fmean(values) + half
