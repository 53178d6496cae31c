"""Scores of an earlier run's baselines and winner, taken along: the same merges on the same items need no model."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from aftermix.config import Config, Split
from aftermix.files import write_atomically
from aftermix.jobs.search.baselines import BaselineMerge, list_common_scans, list_fixed_baselines
from aftermix.jobs.search.score_cache import ScoreCache
from aftermix.runs.answers.candidate import ANSWERS_SUFFIX, locate_arrays
from aftermix.runs.answers.reading import keeps_answers, read_requests
from aftermix.runs.reader import read_best
from aftermix.runs.records import BEST_FILE, BestRecord
from aftermix.search.warm_start import ImportedTrial

SPLITS: tuple[Split, ...] = ("select", "test")
NOT_BY_NAME = ("winner-trial-", "compared-", "the-file-s-settings-")
"""Beginnings of files whose merge another file's name does not tell."""


def take_kept_scores(source: Path, run: Path, imported: Sequence[ImportedTrial]) -> None:
    """Copy to the run in `run` what the one in `source` has of the same tasks' select and test items.

    The caller makes sure that vectors, merge, tasks and items are the same. Of the winner the scores are taken where
    its trial is among those `imported`. Nothing is taken where either run keeps no answers, or asks another request.
    """
    if not (keeps_answers(source) and keeps_answers(run)) or read_requests(source) != read_requests(run):
        return
    for split in SPLITS:
        for file in sorted((source / "items" / split / "baselines").glob("*.json")):
            if not file.name.startswith(NOT_BY_NAME):
                _copy_scores(file, run / "items" / split / "baselines" / file.name)

    best = read_best(source) if (source / BEST_FILE).is_file() else None
    if isinstance(best, BestRecord):
        for each in imported:
            if each.source_number == best.winner.trial:
                theirs = ScoreCache(source, ()).locate(f"winner trial {best.winner.trial}", "test")
                _copy_scores(theirs, ScoreCache(run, ()).locate(f"winner trial {each.trial.number}", "test"))


def count_kept_scores(source: Path, config: Config, tasks: Collection[str]) -> dict[Split, int]:
    """Baselines of `config` by split that :func:`take_kept_scores` takes whatever the objective, under its conditions.

    `tasks` are those of the search. Scans that hang on a choice count as not taken.
    """
    if not config.search.baselines or not keeps_answers(source) or read_requests(source).keys() != {*tasks}:
        return {}
    cache = ScoreCache(source, ())
    asked: dict[Split, Iterable[BaselineMerge]] = {
        "select": list_common_scans(config),
        "test": (each for each in list_fixed_baselines(config) if not each.as_the_file),
    }
    return {
        split: len({each.name for each in baselines if cache.locate(each.name, split).is_file()})
        for split, baselines in asked.items()
    }


def _copy_scores(file: Path, copy: Path) -> None:
    """Copy a file of item scores, which comes last, with its answers; what is there already stays."""
    if copy.exists() or not file.is_file():
        return
    for each, ours in (
        (locate_arrays(file), locate_arrays(copy)),
        (file.with_suffix(ANSWERS_SUFFIX), copy.with_suffix(ANSWERS_SUFFIX)),
        (file, copy),
    ):
        if each.is_file():
            ours.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(ours, each.read_bytes())
