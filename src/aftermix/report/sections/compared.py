"""Models of any origin beside the winner: a sentence where one is ahead of it, and a table of scores and costs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from aftermix.report.number_format import DASH, ScoreScale, choose_scale, format_count, format_duration, format_tokens
from aftermix.report.tables.points import format_weights
from aftermix.report.verdict import JudgedResult, judge_standing
from aftermix.runs.reader import RunResult
from aftermix.runs.records import AddedInstructionRecord, BestRecord, ComparedRecord, ScoresRecord


@dataclass(frozen=True)
class ComparedRow:
    """A model of the table: what it is, and a text for each column."""

    name: str
    origin: str
    cells: tuple[str, ...]


@dataclass(frozen=True)
class ComparedSection:
    """The section's words and table."""

    lead: str
    columns: tuple[str, ...]
    """After the name of the model."""
    rows: tuple[ComparedRow, ...]
    """The winner first."""


def compose_rival_lead(judged: JudgedResult | None) -> str:
    """The first words of a report whose winner has rivals ahead of it; empty where none is.

    A rival beats the winner where the interval of the paired difference is all on its side; one whose mean alone is
    higher is within noise, or has no interval to tell.
    """
    if judged is None or not judged.best.compared:
        return ""
    count = len(judged.names)
    sentences = [
        sentence
        for place, name in enumerate(judged.names)
        for sentence in _describe_leaders(judged, place, f" in {name}" if count > 1 else "")
    ]
    return " ".join(sentences)


def _describe_leaders(judged: JudgedResult, place: int, where: str) -> Iterator[str]:
    ahead = [row for row in judged.best.compared or () if row.difference and row.difference.objective[place] < 0]
    by_standing: dict[str, list[ComparedRecord]] = {}
    for row in sorted(ahead, key=lambda row: _read_gap(row, place)):
        interval = row.difference.interval_of(place) if row.difference else None
        by_standing.setdefault(judge_standing(interval), []).append(row)

    verbs = {
        "worse": ("beats", "beat", f"the merge on the same test items{where}"),
        "level": ("scores above", "score above", f"the merge within noise{where}"),
        "unknown": ("scores above", "score above", f"the merge{where}, with no interval to tell it from noise"),
    }
    for standing, (one, several, rest) in verbs.items():
        rows = by_standing.get(standing, [])
        if rows:
            listed = ", ".join(_name_leader(row, place, judged.scale) for row in rows)
            subject = f"A rival {one}" if len(rows) == 1 else f"{len(rows)} rivals {several}"
            yield f"{subject} {rest}: {listed}."


def _read_gap(row: ComparedRecord, place: int) -> float:
    return row.difference.objective[place] if row.difference else 0.0


def _name_leader(row: ComparedRecord, place: int, scale: ScoreScale) -> str:
    """`'datamix' by 2.1 points (one training)`"""
    gap = scale.format_plain(-_read_gap(row, place))
    unit = f" {scale.unit}" if scale.unit else ""
    return f"'{row.name}' by {gap}{unit}{f' ({row.note})' if row.note else ''}"


def build_compared_section(judged: JudgedResult | None) -> ComparedSection | None:
    """The section on the compared models of a result; None where it has none."""
    if judged is None or not judged.best.compared:
        return None
    best, rows = judged.best, judged.best.compared
    measured = [best.test, *(row.test for row in rows if row.test is not None)]
    scales = {task: choose_scale(each.tasks[task].score for each in measured) for task in best.test.tasks}
    columns = [part for name in judged.names for part in (name, "winner minus it")]
    columns += [*scales, "tokens trained", "tokens evaluated", "time"]

    def build_row(
        name: str, origin: str, test: ScoresRecord | None, difference: ScoresRecord | None, cost: Sequence[str]
    ) -> ComparedRow:
        return ComparedRow(name, origin, (*_format_scores(test, difference, judged, scales), *cost))

    table = [build_row("winner", best.winner.method, best.test, None, _list_winner_cost(best))]
    table += [build_row(row.name, describe_origin(row), row.test, row.difference, _list_cost(row)) for row in rows]
    return ComparedSection(_compose_lead(best, rows), tuple(columns), tuple(table))


def _compose_lead(best: RunResult, rows: Sequence[ComparedRecord]) -> str:
    items = sum(score.items for score in best.test.tasks.values())
    text = f"{format_count(len(rows), 'model')} on the winner's own {format_count(items, 'test item')}, paired by item."
    single = any(row.note == "one training" for row in rows)
    if single:
        text += " One training is one draw: its interval is over items, and knows nothing of other seeds."
    return text


def describe_origin(row: ComparedRecord) -> str:
    """`trained: ja 0.50, math 0.50; one training; it at 0.6, tuned`"""
    if row.weights is not None:
        origin = format_weights(row.weights) or "the base"
    elif row.model is not None:
        origin = row.model
    else:
        origin = f"trained: {format_weights(row.ratios)}" if row.ratios else ""
    return "; ".join(filter(None, (origin, row.note, _describe_addition(row.instruction))))


def _describe_addition(added: AddedInstructionRecord | None) -> str:
    if added is None:
        return ""
    return f"{added.vector} at {added.weight:g}{', tuned' if added.tuned else ''}"


def _format_scores(
    test: ScoresRecord | None, difference: ScoresRecord | None, judged: JudgedResult, scales: dict[str, ScoreScale]
) -> Iterator[str]:
    """Each objective with the difference from the winner's, then the tasks."""
    for place in range(len(judged.names)):
        for scores in (test, difference):
            yield (
                "" if scores is None else judged.scale.format_plain(scores.objective[place], scores.interval_of(place))
            )
    for task, scale in scales.items():
        yield "" if test is None else scale.format_plain(test.tasks[task].score)


def _list_cost(row: ComparedRecord) -> tuple[str, str, str]:
    cost = row.cost
    trained = "not known" if cost.tokens_trained is None else f"{cost.tokens_trained:,}"
    return trained, format_tokens(cost.tokens_evaluated), format_duration(cost.seconds)


def _list_winner_cost(best: RunResult) -> tuple[str, str, str]:
    """Tokens of all experts, where they are known; positions of the search; time until there was a winner."""
    experts = [vector.tokens for vector in best.vectors.values() if vector.role == "expert"]
    known = [tokens for tokens in experts if tokens is not None]
    trained = f"{sum(known):,} by experts" if len(known) == len(experts) else "not known"
    certificate = best.certificate if isinstance(best, BestRecord) else None
    evaluated = format_tokens(certificate.tokens) if certificate is not None else ""
    seconds = best.seconds
    spent = seconds.prepare + sum(seconds.search.values()) + seconds.select
    return trained, evaluated or DASH, format_duration(spent)
