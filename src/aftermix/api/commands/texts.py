"""Results of jobs as lines for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from aftermix.errors import printable

if TYPE_CHECKING:
    from aftermix.analysis.curvature_tables import DomainDerivatives
    from aftermix.analysis.distribution import VectorFit
    from aftermix.analysis.geometry import VectorGeometry
    from aftermix.analysis.robustness.tables import RobustnessFindings
    from aftermix.checkpoints.formats.vector_file import VectorFacts
    from aftermix.jobs.doctor.diagnosis import ConfigDiagnosis
    from aftermix.jobs.paired.command import ComparisonRecord
    from aftermix.jobs.plan.estimate import JobEstimate
    from aftermix.jobs.search.predict import PredictionRecord
    from aftermix.report.number_format import ScoreScale
    from aftermix.runs.json_record import Interval
    from aftermix.runs.records import ScoresRecord
    from aftermix.runs.rounds.iterate_records import IterateRecord
    from aftermix.saliency.storage import StatisticsNote

BUSY_CORES = 0.3
"""Cores' worth of other processes' work above which measured times are said to be of a busy machine."""


def describe_diagnosis(diagnosis: ConfigDiagnosis) -> Iterator[str]:
    """Facts, then notes, then problems, each numbered problem with its remedy."""
    yield from (f"  {printable(fact)}" for fact in diagnosis.facts)
    if diagnosis.notes:
        yield "Notes (they stop nothing):"
        yield from (f"  {note}" for note in diagnosis.notes)

    if not diagnosis.problems:
        yield "No problems."
        return
    yield f"{len(diagnosis.problems)} problem{'s' if len(diagnosis.problems) > 1 else ''}:"
    yield from (f"  {number}. {problem}" for number, problem in enumerate(diagnosis.problems, 1))


def describe_estimate(needs: JobEstimate) -> Iterator[str]:
    """Disk, memory, evaluations, tokens and time."""
    yield f"Parameters      {needs.parameters:,}"
    written = f"{needs.experts} experts" if needs.experts else "the merged model"
    written = f"experts and merges of {needs.rounds} rounds" if needs.rounds else written
    vectors = f", {format_bytes(needs.vector_bytes)} for their vectors" if needs.vector_bytes else ""
    yield f"Disk            {format_bytes(needs.disk_bytes)} for {written}{vectors}"

    fits = "fits" if needs.memory_bytes < needs.memory_free_bytes else "does NOT fit"
    peak, free = format_bytes(needs.memory_bytes), format_bytes(needs.memory_free_bytes)
    yield f"Peak memory     {peak} besides the libraries ({fits} into the {free} that are free)"

    if needs.space:
        yield f"Space           {needs.space}"
    for task, sizes in needs.items.items():
        yield f"Items           {task}: " + ", ".join(f"{split} {count}" for split, count in sizes.items())

    yield from (f"Test            {line}" for line in needs.resolution)
    for task, cut in needs.cut_prompts.items():
        counts = ", ".join(f"{split} {count}" for split, count in cut.items())
        yield f"Cut prompts     {task}: {counts} lose their beginning to the model's length"

    seconds = needs.seconds
    for split, tokens in needs.tokens.items():
        time = f", about {format_time(seconds[split])}" if seconds else ""
        further = f" and {needs.rescored} of some tasks" if split == "search" and needs.rescored else ""
        yield f"{split:<15} {needs.measurements[split]} evaluations{further}, {tokens:,} tokens{time}"

    lines = {"--from": needs.earlier, "Workers": needs.workers, "Engine": needs.engine}
    for name, text in {**lines, "Budget": needs.runs, "Requests": needs.sharing}.items():
        if text:
            yield f"{name:<15} {text}"
    if needs.tokens_per_s:
        yield from _describe_speed(needs, needs.tokens_per_s)
        yield from _describe_contest(needs)
        yield f"Total           about {format_time(sum(seconds.values()) + needs.compared_s)}"
    if needs.training:
        from aftermix.jobs.plan.counts import describe_training

        yield f"Training        {', '.join(describe_training(needs.training, needs.adapter_ranks))}"
    yield from _describe_training_time(needs)
    if needs.verification_tokens:
        yield from _describe_verification(needs, needs.verification_tokens)
    yield from _describe_rounds(needs)
    yield from (f"Note            {remark}" for remark in needs.remarks)


def _describe_rounds(needs: JobEstimate) -> Iterator[str]:
    """Number of the rounds of `iterate`, and their time together."""
    if needs.rounds:
        train_s = needs.training_s
        total = needs.rounds * (sum(needs.seconds.values()) + (train_s or 0.0))
        told = f"about {format_time(total)}" + ("" if train_s is not None else " and the trainings")
        yield f"Rounds          at most {needs.rounds}, each with these trainings and evaluations: {told}"


def _describe_training_time(needs: JobEstimate) -> Iterator[str]:
    """Time of each expert, what it was measured on, and the sum where all tokens are known; only of a training."""
    if not needs.training_speeds:
        return
    known: list[float] = []
    for name, speed in needs.training_speeds.items():
        count = needs.training.get(name)
        if count is not None:
            known.append(count / speed)
        told = (
            f"about {format_time(known[-1])}"
            if count is not None
            else f"about {format_time(1e6 / speed)} a million tokens"
        )
        yield f"Time            {name}: {told} at {speed:,.0f} tokens/s"

    yield f"Speed           measured now on {needs.timed_step}; without reading data, checkpoints and held-out text"
    if needs.busy_cores > BUSY_CORES:
        yield f"Busy            other work keeps {needs.busy_cores:.1f} cores: alone, the job is faster than this"
    if len(known) == len(needs.training_speeds):
        yield f"Total           about {format_time(sum(known))}"


def _describe_verification(needs: JobEstimate, tokens: int) -> Iterator[str]:
    """Price of trained mixtures, and of models at the ratios of each method, beside what finds the ratios."""
    speed = needs.verification_tokens_per_s
    time = f", about {format_time(tokens / speed)} each at {speed:,.0f} tokens/s" if speed else ""
    yield f"--verify N      N x {tokens:,} tokens of training{time}"
    if needs.retrained_ratios:
        ratios = ", ".join(needs.retrained_ratios)
        count = len(needs.retrained_ratios)
        yield f"--seeds S       at most S x {count} x {tokens:,} tokens more, at the ratios of: {ratios}"
        yield f"--doremi        {tokens:,} tokens more, and S x {tokens:,} at its ratios"


def _describe_contest(needs: JobEstimate) -> Iterator[str]:
    """Rows of `compare:`, and their trainings with the time of these."""
    if not needs.compared:
        return
    rows = f"{needs.compared} model{'' if needs.compared == 1 else 's'} beside the winner, evaluations counted above"
    speed = needs.compared_tokens_per_s
    time = f", about {format_time(needs.compared_s)} at {speed:,.0f} tokens/s" if speed else ""
    yield f"Compare         {rows}" + (f"; {needs.compared_trainings}{time}" if needs.compared_trainings else "")


def _describe_speed(needs: JobEstimate, tokens_per_s: float) -> Iterator[str]:
    threads = f" with {needs.threads} thread{'' if needs.threads == 1 else 's'}" if needs.threads else ""
    speed = f"{tokens_per_s:,.0f} tokens/s measured now{threads}"
    yield f"Speed           {speed}; one merge {needs.combine_s:.3f} s"
    if needs.busy_cores > BUSY_CORES:
        yield f"Busy            other work keeps {needs.busy_cores:.1f} cores: alone, the job is faster than this"


def describe_scores(summary: ScoresRecord) -> Iterator[str]:
    """One line a task, then the objective, with 95 % intervals: shares in points, other scores in their own unit."""
    from aftermix.report.number_format import choose_scale

    for task, entry in summary.tasks.items():
        cut = f"; {entry.cut_prompts} prompts cut to the model's length" if entry.cut_prompts else ""
        score = _format_score(entry.score, entry.interval, choose_scale([entry.score]))
        of_texts = f": {-entry.score:.3f} bits per byte over {entry.bytes:,} bytes" if entry.bytes else ""
        yield f"{task}: {score} on {entry.items} items{of_texts}{cut}"

    scale = choose_scale([*summary.objective, *(entry.score for entry in summary.tasks.values())])
    for value, interval in zip(summary.objective, summary.interval, strict=True):
        yield f"objective: {_format_score(value, interval, scale)}"


def describe_diff(facts: VectorFacts, output: Path) -> Iterator[str]:
    """Describe what was stored, what was left out, and how exact it is."""
    stored, left_out = len(facts.error.tensors), len(facts.unchanged)
    yield f"Stored          {stored} tensors as {facts.dtype}"
    yield f"Left out        {left_out} tensors that do not differ from the base"
    yield f"Error           {facts.summary}"

    if facts.error.relative_l2:
        name, worst = max(facts.error.tensors.items(), key=lambda entry: entry[1].relative_l2)
        yield f"Worst tensor    {name}: {worst.relative_l2:.3%}"
    yield f"Vector: {output}"


def describe_prediction(prediction: PredictionRecord) -> list[str]:
    """Lines for the terminal: the objective, then every task."""
    from aftermix.jobs.search.predict import PredictedTaskRecord

    rows = [("objective", prediction.objective), *prediction.tasks.items()]
    width = max(len(name) for name, _ in rows)
    lines = [
        f"{name:<{width}}  {score.mean:.4f}  [{score.low:.4f}, {score.high:.4f}]"
        + (f"  by {score.used}" if isinstance(score, PredictedTaskRecord) else "")
        for name, score in rows
    ]
    if not prediction.inside:
        lines.append("outside the ranges of the search: no merge was measured about here")
    return lines


def describe_comparison(found: ComparisonRecord) -> Iterator[str]:
    """Lines for the terminal: for every task and metric both scores, their difference, its interval and p."""
    yield f"A: {found.a}"
    yield f"B: {found.b}"

    for task, entry in found.tasks.items():
        for metric, each in entry.metrics.items():
            interval = f"[{each.interval[0]:+.4f}, {each.interval[1]:+.4f}]" if each.interval else "(one cluster)"
            p = "" if each.p is None else f"  p {each.p:.2g}"
            of_clusters = f" in {each.clusters:,} clusters" if each.clusters < each.documents else ""
            counted = f"{each.documents:,} documents{of_clusters}"
            scores = f"A {each.a:.4f}  B {each.b:.4f}  A - B {each.difference:+.4f} {interval}{p}"
            yield f"{task} {metric}: {scores}  on {counted}"

            for noun, counts in (("not in the other", each.unmatched), ("without a value", each.without_value)):
                if counts.a or counts.b:
                    yield f"  {noun}: {counts.a:,} documents of A, {counts.b:,} of B"

        if entry.prompts_differ:
            yield f"  asked with other prompts: {entry.prompts_differ:,} documents"
        if entry.not_compared:
            yield f"  not compared: {', '.join(entry.not_compared)}"

    for side, tasks in (("A", found.only_a), ("B", found.only_b)):
        if tasks:
            yield f"in {side} alone: {', '.join(tasks)}"


def describe_calibration(notes: dict[str, StatisticsNote]) -> Iterator[str]:
    """Describe what was measured: a line for each vector, and one for its weights that saw no token."""
    for name, note in notes.items():
        data = note.data
        yield f"{name}: {len(note.weights)} weights, {data.samples} samples of {data.texts} texts, {data.tokens} tokens"
        if note.uncovered:
            first = ", ".join(note.uncovered[:3]) + (", ..." if len(note.uncovered) > 3 else "")
            yield f"{name}: {len(note.uncovered)} weights saw no token: {first}"


def print_geometry(geometry: VectorGeometry, *, base: str) -> None:
    """Print norms and cosines as tables."""
    from aftermix.analysis.geometry_tables import print_geometry as show

    show(geometry, base=base)


def print_fits(fits: Mapping[str, VectorFit], *, base: str) -> None:
    """Print the fits of each vector as a table."""
    from aftermix.analysis.distribution_tables import print_fits as show

    show(fits, base=base)


def print_derivatives(derivatives: DomainDerivatives, *, base: str) -> None:
    """Print the derivatives of each domain's loss as tables."""
    from aftermix.analysis.curvature_tables import print_derivatives as show

    show(derivatives, base=base)


def print_robustness(findings: RobustnessFindings, *, base: str) -> None:
    """Print losses around the base, interference and cosines by layer as tables."""
    from aftermix.analysis.robustness.tables import print_robustness as show

    show(findings, base=base)


def print_search(run: Path) -> None:
    """Print winner, baselines, weights and ratios of a finished search."""
    from aftermix.report.console.search import print_result

    print_result(run)


def print_mixture(run: Path) -> None:
    """Print surrogates, verified mixtures and ratios of a finished mixture run."""
    from aftermix.report.console.mixture import print_mixture as show

    show(run)


def print_run_table(file: Path) -> None:
    """Print surrogates and ratios of the mixture that a table of runs promises."""
    from aftermix.report.console.run_table import print_run_table as show

    show(file)


def _format_score(score: float, interval: Interval | None, scale: ScoreScale) -> str:
    return scale.format_plain(score, interval) if interval else f"{scale.format_plain(score)} [unknown]"


def format_bytes(count: float) -> str:
    """Bytes in units of 1,000 with three digits."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def format_time(seconds: float) -> str:
    """Seconds up to two minutes, minutes up to two hours, then hours."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def describe_rounds(record: IterateRecord, run: Path) -> Iterator[str]:
    """Describe why no round follows, and the model."""
    reasons = {"rounds": "all rounds are done", "no sure gain": "the last round had no sure gain"}
    yield f"Ended: {reasons[record.stopped or 'rounds']}"
    place = record.model if not record.rounds or record.model == record.rounds[0].base else run / record.model
    yield f"Model: {place}"
