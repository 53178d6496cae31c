"""`aftermix mixture --verify N`: mixtures trained for real, held against the merges that stand for them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from aftermix import progress
from aftermix.checkpoints.pool import ModelPool, open_pool
from aftermix.config import Config, require
from aftermix.errors import MixtureError, SearchError
from aftermix.evaluation.suites.contract import EvaluationSuite
from aftermix.jobs.evaluator import ModelEvaluator
from aftermix.jobs.mixture.command import mixture
from aftermix.jobs.mixture.tree_problem import TreeProblem
from aftermix.jobs.orders.opened import OpeningPlan
from aftermix.jobs.run_folder.comparison import refuse_other_kind
from aftermix.jobs.run_folder.opening import read_run_config
from aftermix.jobs.search.run_inputs import open_run_suite
from aftermix.jobs.search.score_lock import build_evaluation_lock, refuse_other_scores
from aftermix.jobs.verify.expert_training import adopt_training
from aftermix.jobs.verify.mixture_verification import MixtureVerification
from aftermix.jobs.verify.retrained_ratios import retrain_ratios
from aftermix.jobs.verify.training_file import find_sources, read_expert_tokens, refuse_missing_data
from aftermix.mixture.rank_consistency import FEWEST
from aftermix.report.page import write_report
from aftermix.runs.records import BEST_FILE
from aftermix.runs.session import RunSession, open_session
from aftermix.runs.verification_records import (
    VERIFICATION_FILE,
)

OPTION = "--tokens T"


def refuse_unverifiable(config: Config, *, mixtures: int, tokens: int | None) -> int:
    """The tokens of each training, when `config` says all that a verification needs.

    Raises :class:`AftermixError` for fewer than three mixtures or more than are measured, a file without `train:`, a
    domain without data or whose data is not there, experts without a rate and schedule in common, and no number of
    tokens or too small a one.
    """
    require(config, "base", "vectors", "evaluate", "mixture", "train")
    assert config.mixture is not None  # noqa: S101 - required above; for the type checker
    assert config.train is not None  # noqa: S101

    if mixtures < FEWEST:
        raise MixtureError("--verify", f"expected at least {FEWEST} mixtures, found {mixtures}", "Train more of them.")
    points = _count_points(config)
    if mixtures > points:
        groups = " and of the levels of its tree" if config.mixture.tree is not None else ""
        found = f"expected at most the {points} mixtures of `mixture.points`{groups}, found {mixtures}"
        raise MixtureError("--verify", found, "Train fewer, or measure more points.")

    domains = [name for name, vector in config.vectors.items() if vector.role == "expert"]
    refuse_missing_data(find_sources(config.train, domains))
    adopt_training(config, domains)
    tokens = read_expert_tokens(config.train, domains, option=OPTION) if tokens is None else tokens
    needed = len(domains) * config.train.context
    if tokens < needed:
        found = f"expected at least {needed:,} tokens, a sequence of `train.context` for each domain, found {tokens:,}"
        raise MixtureError("--verify", found, f"Lower `train.context`, or train on more: {OPTION}.")
    return tokens


def _count_points(config: Config) -> int:
    """Mixtures that the design measures, of all groups of a tree."""
    assert config.mixture is not None  # noqa: S101 - required before; for the type checker
    if config.mixture.tree is None:
        return config.mixture.points
    return sum(problem.mixture.points for problem in TreeProblem.from_config(config).plan_problems())


def run_and_verify(
    config: Config,
    run: Path,
    *,
    mixtures: int,
    resume: bool = False,
    source: Path | None = None,
    tokens: int | None = None,
    doremi: bool = False,
    seeds: int = 0,
    log: Callable[[str], object] = lambda _: None,
) -> Path:
    """A mixture run, as :func:`~aftermix.jobs.mixture.command.mixture` makes it, and then its verification; its path.

    What the verification needs is checked before the run begins.
    """
    with open_session(run, resume=resume):
        tokens = refuse_unverifiable(config, mixtures=mixtures, tokens=tokens)
        mixture(config, run, resume=resume, source=source, log=log)
        return verify(config, run, mixtures=mixtures, tokens=tokens, doremi=doremi, seeds=seeds)


def verify(
    config: Config,
    run: Path,
    *,
    mixtures: int,
    tokens: int | None = None,
    doremi: bool = False,
    seeds: int = 0,
    log: Callable[[str], None] | None = None,
) -> Path:
    """Train `mixtures` mixtures of the finished run in `run` for real and write RUN/verification.json, its path.

    The mixtures are measured points of the run, or of all groups of its tree, that lie far apart, uniform and the
    winner the first, single domains the last; each is trained from the base on `tokens` tokens (by default those of the
    experts) by the settings of `config.train`, at the rate and schedule of the experts, into RUN/trained. Merges and
    trained models are measured on the run's test items, and their ranks and scales compared; the trained runs are what
    RegMix learns from, and with `doremi` the uniform one is the reference of DoReMi. With `seeds` that many models are
    trained at the ratios of each method too (`retrained_ratios.py`). Every finished training and measurement is kept,
    so the same call goes on after an interruption. All but `train:` is taken from the run. Source: MergeMix, sections
    4.2 and 4.3; docs/mixture.md, "Consistency" and "Baselines". Raises :class:`AftermixError`, and
    :class:`RunFailedError` once a training may have begun.
    """
    with open_session(run, resume=True) as session:
        told = log or progress.say
        _verify(config, session, mixtures=mixtures, tokens=tokens, doremi=doremi, seeds=seeds, log=told)
    return run / VERIFICATION_FILE


def _verify(
    config: Config,
    session: RunSession,
    *,
    mixtures: int,
    tokens: int | None,
    doremi: bool,
    seeds: int,
    log: Callable[[str], None],
) -> None:
    run = session.run
    if not (run / BEST_FILE).is_file():
        raise SearchError(str(run), f"is not finished: it has no {BEST_FILE}", "Finish it by --resume first.")
    refuse_other_kind(run, mixture=True)

    config = read_run_config(run).model_copy(update={"train": config.train})
    tokens = refuse_unverifiable(config, mixtures=mixtures, tokens=tokens)
    experts = [name for name, vector in config.vectors.items() if vector.role == "expert"]
    config = config.model_copy(update={"train": adopt_training(config, experts)})

    pool, suite = _open_tasks(config, run)

    session.go_on()
    with ExitStack() as workers:
        verification = MixtureVerification.train_and_measure(
            config, run, pool, suite, mixtures=mixtures, tokens=tokens, workers=workers, log=log
        )
        record = verification.build_record(doremi=doremi, log=log)
        if seeds:
            retrained = retrain_ratios(verification, record, seeds=seeds, log=log)
            record = record.model_copy(update={"retrained": retrained})
    record.write(run / VERIFICATION_FILE)
    # A run of an earlier version says nothing of proxies, and stays as it is; a tree's says it once it is verified.
    best = verification.finished.best
    if best.proxies is not None or verification.finished.is_tree:
        best.model_copy(update={"proxies": record.proxies}).write(run / BEST_FILE)
    write_report(run)


def _open_tasks(config: Config, run: Path) -> tuple[ModelPool, EvaluationSuite]:
    """Models and tasks, which must be those of the run; no model stays in memory while mixtures are trained."""
    assert config.evaluate is not None  # noqa: S101 - required before; for the type checker
    pool = open_pool(config)
    suite = open_run_suite(config.evaluate, run)

    evaluator = ModelEvaluator.open(pool, config.evaluate, suite, opening=OpeningPlan(config))
    try:
        refuse_other_scores(run, build_evaluation_lock(pool, evaluator), chat=suite.chat)
    finally:
        evaluator.engine.close()
    return pool, suite
