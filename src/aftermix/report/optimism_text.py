"""The optimism of a search in sentences, for terminal and page."""

from __future__ import annotations

from aftermix.report.number_format import ScoreScale
from aftermix.runs.answers.certificate_records import OptimismRecord
from aftermix.runs.reader import RunContents, RunResult
from aftermix.runs.records import BestRecord


def describe_fall(run: RunContents, scale: ScoreScale) -> str:
    """Loss of the winner's score from the items it was picked on to unseen ones, in words."""
    best = run.best
    if best is None or best.search is None:
        return ""
    drop = best.search.objective[0] - best.test.objective[0]
    if drop <= 0:
        return "From search to test items the winner's score did not fall: no optimism shows. Quote the test score."
    return (
        f"From search to test items the winner's score fell by {scale.format(drop)}{_name_unit(scale)}: part chance in "
        "the items, part the price of picking the best of many trials. Quote the test score."
    )


def describe_expected_optimism(best: RunResult | None, scale: ScoreScale) -> str:
    """A sentence on the simulated optimism of the whole procedure; empty for a run without one."""
    optimism = best.optimism if isinstance(best, BestRecord) else None
    return compose_expectation(optimism, scale) if optimism is not None else ""


def compose_expectation(optimism: OptimismRecord, scale: ScoreScale) -> str:
    """`Choosing among 16 trials and 3 finalists flatters a winner by 1.2 points on search and 0.4 on select items`"""
    means, deviations = (
        [scale.format_plain(getattr(split, field)) for split in (optimism.search, optimism.select)]
        for field in ("mean", "deviation")
    )
    finalists = f" and {optimism.finalists} finalists" if optimism.finalists > 1 else ""
    return (
        f"Choosing among {optimism.runs} trials{finalists} flatters a winner by {means[0]}{_name_unit(scale)} on "
        f"search and {means[1]} on select items (mean of {optimism.repetitions} simulated repetitions, deviations "
        f"{deviations[0]} and {deviations[1]}), and not at all on test items."
    )


def _name_unit(scale: ScoreScale) -> str:
    return f" {scale.unit}" if scale.unit else ""
