"""The section on proxies: worth where mixtures were trained, agreement elsewhere, and the verdict in its first line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aftermix.report.sections.proxies import build_proxy_section
from aftermix.runs.mixture_records import MixtureRecord, ProxyAgreementRecord, ProxyRecord

OLD = Path(__file__).parents[3] / "data" / "runs-0a1294b" / "mixture" / "best.json"


def make_record(
    ranks: dict[str, float | None], *, trained: int, agreement: ProxyAgreementRecord | None = None
) -> MixtureRecord:
    proxies = tuple(
        ProxyRecord(name=name, price_tokens=12_500, spearman=rank, rmse=rank, regret=rank, trained=trained)
        for name, rank in ranks.items()
    )
    return MixtureRecord.read(OLD).model_copy(update={"proxies": proxies, "agreement": agreement})


@pytest.mark.parametrize(
    ("merges", "null", "verdict"),
    [
        (0.68, 0.82, "Merging adds nothing to the ranks here."),
        (0.5, 0.5, "Merging adds nothing to the ranks here."),
        (0.92, 0.82, "Merging adds to the ranks here."),
    ],
)
def test_the_first_words_say_what_merging_adds(merges: float, null: float, verdict: str) -> None:
    section = build_proxy_section(make_record({"merges": merges, "null": null}, trained=13))
    assert section is not None
    assert section.lead.startswith(f"{verdict} Held against 13 trained mixtures on the same test items, Spearman is ")
    assert f"{merges:.2f} by merges and {null:.2f} by the experts' own scores" in section.lead
    assert section.columns == ("tokens read", "Spearman", "RMSE", "regret")
    assert section.rows[1] == (
        "null proxy: the experts' own scores", ("12.5 K", f"{null:.2f}", f"{null:.2f}", f"{null:.2f}")
    )  # fmt: skip


def test_few_trained_mixtures_give_no_verdict() -> None:
    section = build_proxy_section(make_record({"merges": 0.5, "null": 1.0}, trained=3))
    assert section is not None
    assert section.lead.startswith("Held against 3 trained mixtures")
    assert section.lead.endswith("; fewer than 10 mixtures give no verdict.")


def test_a_rank_that_is_not_there_is_no_verdict() -> None:
    section = build_proxy_section(make_record({"merges": None, "null": 0.3}, trained=3))
    assert section is not None
    assert "Merging adds" not in section.lead
    assert section.rows[0][1] == ("12.5 K", "none", "none", "none")


def test_without_trained_mixtures_there_is_agreement_and_no_worth() -> None:
    agreement = ProxyAgreementRecord(
        mixtures=5, experts="search", spearman={"merges": {"null": 0.4}, "null": {"merges": 0.4}}
    )
    section = build_proxy_section(make_record({"merges": None, "null": None}, trained=0, agreement=agreement))
    assert section is not None
    assert section.lead.startswith("No mixture was trained, so that nothing is known of what any proxy is worth")
    assert "over 5 measured mixtures of several domains" in section.lead
    assert [cells for _, cells in section.rows] == [("12.5 K", "", "0.40"), ("12.5 K", "0.40", "")]


def test_too_few_mixtures_have_no_agreement_and_old_runs_no_section() -> None:
    section = build_proxy_section(make_record({"merges": None, "null": None}, trained=0))
    assert section is not None
    assert section.columns == ("tokens read",)
    assert "too few mixtures" in section.lead
    assert json.loads(OLD.read_text()).get("proxies") is None
    assert build_proxy_section(MixtureRecord.read(OLD)) is None
    assert build_proxy_section(None) is None
