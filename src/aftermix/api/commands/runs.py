"""Uses of a run or a file: predictions, a report, a picture, files for mergekit and trainers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from aftermix.extras import refuse_missing_extra

if TYPE_CHECKING:
    from aftermix.config import Config
    from aftermix.jobs.paired.command import ComparisonRecord
    from aftermix.jobs.paired.run_scores import HeldOut
    from aftermix.jobs.search.predict import PredictionRecord
    from aftermix.runs.rounds.iterate_records import IterateRecord


def predict_merge(run: Path, weights: str) -> PredictionRecord:
    """Scores of the merge at `weights` (`a=0.3,b=1`) as the run tells them, without a model: `aftermix predict`.

    Raises :class:`AftermixError` for a run without log-likelihoods, and for weights that it does not know.
    """
    refuse_missing_extra("search", what="predict")
    from aftermix.jobs.search.named_weights import parse_weights
    from aftermix.jobs.search.predict import predict

    return predict(run, parse_weights(weights))


def compare_results(a: Path, b: Path, *, cluster: str | None = None, split: HeldOut = "test") -> ComparisonRecord:
    """Hold the scores of `a` against those of `b`, document by document: `aftermix compare`.

    Each is a run folder, whose winner counts, or a file or folder of lm-eval's samples. Raises :class:`AftermixError`
    for what cannot be read, and where no document is of both.
    """
    refuse_missing_extra("search", what="compare")
    from aftermix.jobs.paired.command import compare_scores

    return compare_scores(a, b, cluster=cluster, split=split)


def run_rounds(config: Config, run: Path, *, resume: bool = False, log: Callable[[str], None]) -> IterateRecord:
    """Train, search and merge round after round in the folder `run`: `aftermix iterate`.

    Raises :class:`AftermixError` with nothing written, and :class:`RunFailedError` once something is.
    """
    refuse_missing_extra("search", what="iterate")
    refuse_missing_extra("train", what="iterate")
    from aftermix.jobs.iterate.command import iterate

    return iterate(config, run, resume=resume, log=log)


def write_run_report(run: Path) -> Path:
    """Write `report.html` of the run, finished or not, and return its path: `aftermix report`."""
    refuse_missing_extra("report", what="report")
    from aftermix.report.page import write_report

    return write_report(run)


def mix_run_table(table: Path, output: Path, file: Path | None = None) -> Path:
    """Find ratios by the trained runs of the CSV `table`, and return `output`/best.json: `aftermix mixture --table`.

    `file` is a YAML file whose `mixture:` says utility and limits. Raises :class:`AftermixError`, with nothing written,
    for a table or limits that cannot be used.
    """
    refuse_missing_extra("search", what="mixture --table")
    from aftermix.config import load_config
    from aftermix.jobs.run_table.command import mix_by_table

    return mix_by_table(table, output, config=load_config(file) if file else None)


def draw_run_landscape(run: Path, output: Path) -> Path:
    """Draw what the finished mixture run predicts over all mixtures into the file `output`: `aftermix landscape`."""
    refuse_missing_extra("search", what="landscape")
    from aftermix.jobs.landscape import draw_landscape

    return draw_landscape(run, output)


def export_recipe(source: Path, output: Path) -> list[str]:
    """Write a recipe for mergekit into the new file `output`, and return its notes: `aftermix export --to mergekit`.

    Raises :class:`AftermixError`, with nothing written, for what mergekit cannot express.
    """
    from aftermix.jobs.export.command import export_mergekit

    return export_mergekit(source, output)


def export_trials(run: Path, output: Path) -> list[str]:
    """Write the trials of the search in `run` as a journal of Optuna, and return notes: `aftermix export --to optuna`.

    Raises :class:`AftermixError`, with nothing written, for any other folder.
    """
    refuse_missing_extra("search", what="export --to optuna")
    from aftermix.jobs.export.optuna_study import export_optuna

    return export_optuna(run, output)


def export_ratios(
    source: Path,
    output: Path,
    *,
    to: str,
    log: Callable[[str], None],
    data: Path | Sequence[Path] | None = None,
    dataset: str | None = None,
    tokens: float | None = None,
    max_epochs: float | None = None,
    root: str = ".",
    sequence_tokens: int | None = None,
) -> list[Path]:
    """Write the data mixture of a run or file for the trainer `to`, and return the new files: `aftermix export`.

    `log` is told what each domain gives. Raises :class:`AftermixError` with nothing written.
    """
    refuse_missing_extra("train", what=f"export --to {to}")
    from aftermix.jobs.export.mixture import ExportOptions, export_mixture

    options = ExportOptions(
        data=data, dataset=dataset, tokens=tokens, max_epochs=max_epochs, root=root, sequence_tokens=sequence_tokens
    )
    return export_mixture(source, output, to=to, options=options, log=log)
