"""Held-out documents of one expert: what is measured, when, and where it is written down."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from aftermix.config import TrainConfig
from aftermix.files import format_lines, write_atomically
from aftermix.jobs.train.expert_data import SequenceParts
from aftermix.runs.verification_records import LOSSES_FILE, HeldOutPointRecord, HeldOutRecord, StepLossRecord
from aftermix.training.data.collate import TokenSequence
from aftermix.training.data.mixture import SequenceMixture
from aftermix.training.distributed.processes import read_process_index
from aftermix.training.held_out.curve import HeldOutCurve, HeldOutPoint, plan_points


@dataclass(frozen=True)
class HeldOutRun:
    """Held-out sequences of one expert, and the points at which it is measured on them."""

    share: float
    documents: Mapping[str, int]
    sequences: Mapping[str, Sequence[TokenSequence]]
    weights: Mapping[str, float]
    """By domain, its share of the trained tokens."""
    due: frozenset[int]
    batch_size: int
    tokens_after: tuple[int, ...]
    """Tokens trained on after each step, from none on."""

    @classmethod
    def plan(cls, name: str, parts: SequenceParts, *, settings: TrainConfig) -> HeldOutRun | None:
        """Plan the measurements of the expert called `name`; None where nothing is held out."""
        held = {domain: rows for domain, rows in parts.held.items() if rows}
        if not held:
            return None

        trained = parts.trained
        weights = {name: 1.0}
        if isinstance(trained, SequenceMixture):
            weights = {domain: given.share for domain, given in trained.given.items()}
        lengths, batch_size = trained.lengths.tolist(), settings.batch_size
        tokens = [sum(lengths[start : start + batch_size]) for start in range(0, len(lengths), batch_size)]

        return cls(
            share=settings.held_out,
            documents={domain: parts.splits[domain].documents for domain in held},
            sequences=held,
            weights={domain: weights[domain] for domain in held},
            due=plan_points(len(tokens), trained_tokens=trained.tokens, held_tokens=_count_tokens(held)),
            batch_size=max(1, batch_size // settings.accumulation),
            tokens_after=(0, *accumulate(tokens)),
        )

    def build_curve(self, folder: Path) -> HeldOutCurve:
        """A curve to be measured; at each of its points the journal in `folder`, the run's hidden one, is written."""
        curve = HeldOutCurve(self.sequences, self.weights, self.due, self.batch_size)

        def write_journal(losses: Sequence[float]) -> None:
            if read_process_index() == 0:
                write_atomically(folder / LOSSES_FILE, self.format_journal(losses, curve.measured))

        curve.after_point = write_journal
        return curve

    def format_journal(self, losses: Sequence[float], measured: Sequence[HeldOutPoint]) -> str:
        """Content of `losses.jsonl`: a line for each step, from 0 on, with what was measured there."""
        points = {point.step: point for point in measured}
        lines = []
        for step, tokens in enumerate(self.tokens_after[: len(losses) + 1]):
            line = StepLossRecord(step=step, tokens=tokens)
            if step:
                line = line.model_copy(update={"loss": losses[step - 1]})
            if step in points:
                line = line.model_copy(update={"held_out": dict(points[step].domains)})
            lines.append(line.model_dump(exclude_unset=True))
        return format_lines(lines)

    def build_record(self, measured: Sequence[HeldOutPoint]) -> HeldOutRecord:
        """Part of `train.json`."""
        return HeldOutRecord(
            share=self.share,
            documents=dict(self.documents),
            tokens={domain: sum(map(len, rows)) for domain, rows in self.sequences.items()},
            points=tuple(self._list_points(measured)),
        )

    def describe(self) -> str:
        """Line for the console, before the first step."""
        parts = [
            f"{count} document{'s' * (count != 1)} ({sum(map(len, self.sequences[domain]))} tokens) of {domain}"
            for domain, count in self.documents.items()
        ]
        return f"holds out {', '.join(parts)}, never trained on; the loss on them is measured {len(self.due)} times"

    def _list_points(self, measured: Sequence[HeldOutPoint]) -> Iterator[HeldOutPointRecord]:
        for point in measured:
            tokens = self.tokens_after[point.step]
            yield HeldOutPointRecord(step=point.step, tokens=tokens, loss=point.loss, domains={**point.domains})


def describe_held_out(run: HeldOutRun | None, settings: TrainConfig) -> list[str]:
    """Line on what is held out, where that was asked for."""
    if run is not None:
        return [run.describe()]
    found = "holds out nothing: its documents are one and the same, or nothing is learnt of those that would be"
    return [found] if settings.held_out else []


def _count_tokens(held: Mapping[str, Sequence[TokenSequence]]) -> int:
    return sum(len(row) for rows in held.values() for row in rows)
