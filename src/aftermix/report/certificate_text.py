"""The certificate of a search in sentences, for terminal and page."""

from __future__ import annotations

from collections.abc import Iterator

from aftermix.report.number_format import ScoreScale
from aftermix.runs.answers.certificate_records import CertificateRecord
from aftermix.runs.reader import RunResult
from aftermix.runs.records import BestRecord


def describe_certificate(best: RunResult | None, scale: ScoreScale) -> list[str]:
    """Sentences on why the search ended and what is certain of the winner; none for a run without a certificate."""
    certificate = best.certificate if isinstance(best, BestRecord) else None
    return list(_walk_sentences(certificate, scale)) if certificate is not None else []


def _walk_sentences(certificate: CertificateRecord, scale: ScoreScale) -> Iterator[str]:
    bound, precision, fixed = certificate.bound, certificate.precision, certificate.bound_items_fixed
    unit = f" {scale.unit}" if scale.unit else ""
    if certificate.status == "budget":
        spent = f" ({certificate.tokens:,} tokens)" if certificate.tokens is not None else ""
        yield f"The budget ended the search after {certificate.runs} trials{spent}."
    if certificate.status == "flat":
        yield "The winner is a prior: no merge within the ranges is better by more than the items can tell."
    if certificate.status == "met" and fixed is not None and precision is not None:
        yield (
            f"The search ended after {certificate.runs} trials: on its items no merge is better by more than "
            f"{scale.format_plain(fixed)}{unit}, where {scale.format_plain(precision)} were asked for."
        )

    if bound is not None:
        more = ""
        if certificate.items_factor is not None:
            more = f"; {certificate.items_factor:.1f} times as many search items would halve that"
        yield (
            f"On other items of the same kind no merge within the ranges is better than the winner by more than "
            f"{scale.format_plain(bound)}{unit} (95 %){more}."
        )
