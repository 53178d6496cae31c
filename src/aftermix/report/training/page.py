"""One self-contained page on the experts of a training: losses along the way, and what each of them saw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from aftermix.files import write_atomically
from aftermix.report.number_format import format_duration, format_percent, format_tokens
from aftermix.report.page import open_templates, read_style
from aftermix.report.training.curves import LossCurves, draw_curves
from aftermix.runs.json_record import read_text
from aftermix.runs.verification_records import LOSSES_FILE, StepLossRecord, TrainingRecord

PAGE = "report.html"
TRAINING_FILE = "train.json"


@dataclass(frozen=True)
class HeldOutLine:
    """One domain's held-out loss, before and after."""

    domain: str
    documents: str
    tokens: str
    before: str
    after: str
    change: str
    best: str
    """Lowest, where that is not the last."""


@dataclass(frozen=True)
class TrainingSection:
    """One expert of the page."""

    name: str
    facts: tuple[tuple[str, str], ...]
    curves: Markup
    held_out: tuple[HeldOutLine, ...]
    epochs: tuple[tuple[str, str, str, str], ...]
    """Of a mixture: domain, its ratio, its tokens, its epochs."""


def write_training_report(output: Path, names: Sequence[str]) -> Path | None:
    """Write `output`/report.html on those experts of `names` that have a `losses.jsonl`; None where none has.

    The same files give the same bytes. Raises :class:`AftermixError` for a damaged one.
    """
    sections = [
        _build_section(output / name, number)
        for number, name in enumerate(names)
        if (output / name / LOSSES_FILE).is_file()
    ]
    if not sections:
        return None
    template = open_templates().get_template("training/training.html")
    page = output / PAGE
    write_atomically(page, template.render(title=output.resolve().name, sections=sections, style=read_style()))
    return page


def read_losses(folder: Path) -> list[StepLossRecord]:
    """The lines of `losses.jsonl` in `folder`. Raises :class:`AftermixError` for a damaged one."""
    file = folder / LOSSES_FILE
    return [
        StepLossRecord.parse(line, where=f"{file}, line {number}")
        for number, line in enumerate(read_text(file).splitlines(), 1)
    ]


def _build_section(folder: Path, number: int) -> TrainingSection:
    record, lines = TrainingRecord.read(folder / TRAINING_FILE), read_losses(folder)
    return TrainingSection(
        name=record.name,
        facts=tuple(_list_facts(record)),
        curves=draw_curves(LossCurves.collect(lines), name=record.name, number=number),
        held_out=tuple(_list_held_out(record)),
        epochs=tuple(_list_epochs(record)),
    )


def _list_facts(record: TrainingRecord) -> list[tuple[str, str]]:
    facts = [
        ("Tokens", format_tokens(record.tokens)),
        ("Steps", f"{record.steps:,}"),
        ("Peak rate", f"{record.learning_rate:g}"),
        ("Training loss, first and last", f"{record.loss.first:.3f}, {record.loss.final:.3f}"),
    ]
    if record.epochs is not None:
        facts.insert(1, ("Epochs", f"{record.epochs:.2f}"))
    if record.tokens_per_second is not None and record.seconds is not None:
        facts.append(("Tokens a second", f"{record.tokens_per_second:,.0f}"))
        facts.append(("Time", format_duration(record.seconds)))
    if record.vector is not None:
        facts.append(("Vector lost to rounding", format_percent(record.vector.rounding_lost)))
    return facts


def _list_held_out(record: TrainingRecord) -> list[HeldOutLine]:
    if record.held_out is None:
        return []
    lines = []
    for domain, documents in record.held_out.documents.items():
        losses = [float(point.domains[domain]) for point in record.held_out.points]
        lowest = min(range(len(losses)), key=losses.__getitem__)
        best, last = record.held_out.points[lowest], record.held_out.points[-1].step
        lines.append(
            HeldOutLine(
                domain=domain,
                documents=f"{documents:,}",
                tokens=format_tokens(record.held_out.tokens[domain]),
                before=f"{losses[0]:.4f}",
                after=f"{losses[-1]:.4f}",
                change=f"{losses[-1] - losses[0]:+.4f}".replace("-", "\N{MINUS SIGN}"),
                best=f"{losses[lowest]:.4f} after {format_tokens(best.tokens)} tokens" if best.step != last else "",
            )
        )
    return lines


def _list_epochs(record: TrainingRecord) -> list[tuple[str, str, str, str]]:
    mixture = record.data.get("mixture")
    if not isinstance(mixture, dict):
        return []
    rows = []
    for domain, given in mixture.items():
        if isinstance(given, dict):
            ratio, tokens, epochs = (float(str(given[key])) for key in ("ratio", "tokens", "epochs"))
            rows.append((domain, format_percent(ratio), format_tokens(tokens), f"{epochs:.2f}"))
    return rows
