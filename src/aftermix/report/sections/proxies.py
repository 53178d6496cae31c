"""Proxies for trained mixtures side by side: their prices, their worth where mixtures were trained, else agreement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aftermix.report.number_format import format_count, format_tokens, format_weight
from aftermix.runs.mixture_records import MixtureRecord, ProxyAgreementRecord, ProxyRecord, TreeRecord

PROXIES = {
    "merges": "merges",
    "surrogates": "surrogates of merges",
    "response": "response of the items to merging",
    "ensemble": "ensemble of the experts' answers",
    "null": "null proxy: the experts' own scores",
}
NONE = "none"
FEWEST_FOR_VERDICT = 10
"""Trained mixtures below which a difference of two rank correlations is chance."""


@dataclass(frozen=True)
class ProxySection:
    """The section's words and table."""

    lead: str
    columns: tuple[str, ...]
    """After the name of the proxy."""
    rows: tuple[tuple[str, tuple[str, ...]], ...]


def build_proxy_section(record: MixtureRecord | TreeRecord | None) -> ProxySection | None:
    """The section on the proxies of `record`; None for a run that says nothing of them."""
    if record is None or not record.proxies:
        return None
    if record.proxies[0].trained:
        return _tell_worth(record.proxies)
    return _tell_agreement(record.proxies, record.agreement if isinstance(record, MixtureRecord) else None)


def _tell_worth(proxies: Sequence[ProxyRecord]) -> ProxySection:
    rows = tuple(
        (name_proxy(proxy.name), (_format_price(proxy), *map(_format_number, _list_worth(proxy)))) for proxy in proxies
    )
    columns = ("tokens read", "Spearman", "RMSE", "regret")
    return ProxySection(_compose_worth(proxies), columns, rows)


def _compose_worth(proxies: Sequence[ProxyRecord]) -> str:
    """The verdict on merging first: what it tells beyond the experts alone."""
    by_name = {proxy.name: proxy.spearman for proxy in proxies}
    merges, null = by_name.get("merges"), by_name.get("null")
    held = f"Held against {format_count(proxies[0].trained, 'trained mixture')} on the same test items"
    if merges is None or null is None:
        return f"{held}. A proxy without a rank has one value for all of them, or trained models have."

    ranks = f"{format_weight(merges)} by merges and {format_weight(null)} by the experts' own scores, without any merge"
    told = f"{held}, Spearman is {ranks}"
    if proxies[0].trained < FEWEST_FOR_VERDICT:
        return f"{told}; fewer than {FEWEST_FOR_VERDICT} mixtures give no verdict."
    verdict = "Merging adds to the ranks here" if merges > null else "Merging adds nothing to the ranks here"
    return f"{verdict}. {told}."


def _tell_agreement(proxies: Sequence[ProxyRecord], agreement: ProxyAgreementRecord | None) -> ProxySection:
    names = tuple(proxy.name for proxy in proxies)
    rows = tuple(
        (name_proxy(proxy.name), (_format_price(proxy), *_list_pairs(proxy, names, agreement))) for proxy in proxies
    )
    columns = ("tokens read", *names) if agreement else ("tokens read",)
    return ProxySection(_compose_agreement(agreement), columns, rows)


def _compose_agreement(agreement: ProxyAgreementRecord | None) -> str:
    unknown = "No mixture was trained, so that nothing is known of what any proxy is worth"
    if agreement is None:
        return f"{unknown}, and too few mixtures were merged to tell how far proxies agree."
    points = format_count(agreement.mixtures, "measured mixture")
    told = f"agreement of their ranks (Spearman) over {points} of several domains"
    return f"{unknown}; the table has the {told}. `aftermix mixture --verify` trains some."


def _list_pairs(proxy: ProxyRecord, names: Sequence[str], agreement: ProxyAgreementRecord | None) -> list[str]:
    if agreement is None:
        return []
    return ["" if name == proxy.name else _format_number(agreement.spearman[proxy.name][name]) for name in names]


def _list_worth(proxy: ProxyRecord) -> tuple[float | None, ...]:
    return proxy.spearman, proxy.rmse, proxy.regret


def name_proxy(name: str) -> str:
    """A proxy in words.

    >>> name_proxy("null")
    "null proxy: the experts' own scores"
    """
    return PROXIES.get(name, name)


def _format_price(proxy: ProxyRecord) -> str:
    return format_tokens(proxy.price_tokens)


def _format_number(value: float | None) -> str:
    return NONE if value is None else format_weight(value)
