"""`response`, `certificate`, `optimism`, `elimination` of `best.json`: what is predicted, and certain of the winner."""

from __future__ import annotations

from typing import Literal

from aftermix.runs.json_record import Finite, RunRecord

CertificateStatus = Literal["met", "flat", "budget", "trials", "interrupted"]


class ResponseTaskRecord(RunRecord):
    """A task of the response; errors are of the metric at each trial, predicted from the others."""

    temperature: Finite | None
    """Null where the score is predicted alone."""
    slope: Finite | None
    spearman: Finite
    rmse: Finite
    spearman_upper: Finite
    """Over the better half of the trials, like `rmse_upper`."""
    rmse_upper: Finite
    used: Literal["loglikelihood", "score"]


class ResponseSummaryRecord(RunRecord):
    """The fitted response."""

    tasks: dict[str, ResponseTaskRecord]


class CertificateRecord(RunRecord):
    """Facts of the winner against all merges within the ranges, and why the search ended.

    `status`: `met`, further merges tell less than the items do; `flat`, a prior is as good as any merge; `budget`,
    `trials`: what was allowed is spent.
    """

    status: CertificateStatus
    probability: Finite | None
    """Share of the draws in which no merge is better than the winner by more than `precision`."""
    precision: Finite | None
    bound: Finite | None
    """No merge within the ranges is better by more, with a confidence of 95 %, on other items of the same kind."""
    bound_items_fixed: Finite | None
    """The same on the search items themselves."""
    runs: int
    items: int | None
    """Search items of all tasks."""
    tokens: int | None
    """Positions computed on search and select items."""
    model: Literal["response", "none"]
    items_factor: Finite | None = None
    """Times as many items would halve `bound`; absent or null where more merges are needed as well."""

    @property
    def is_met(self) -> bool:
        """True where no merge is better than the winner by more than the precision, on the search items."""
        fixed, precision = self.bound_items_fixed, self.precision
        return fixed is not None and precision is not None and fixed <= precision


class SplitOptimismRecord(RunRecord):
    """Winner's score on the items of one split minus its true score, over the repetitions."""

    mean: Finite
    deviation: Finite
    """Standard deviation over the repetitions."""


class OptimismRecord(RunRecord):
    """Simulated optimism of the whole procedure: the same merges measured again and again on other documents."""

    repetitions: int
    runs: int
    """Merges among which each repetition chooses."""
    finalists: int
    """Of these, merges that are measured on the select items."""
    search: SplitOptimismRecord
    select: SplitOptimismRecord


class EliminationRecord(RunRecord):
    """Finalists measured in rounds of select items, and dropped where they are surely beaten."""

    rounds: int
    """Parts of the select items."""
    error: Finite
    """Most chance with which the best finalist is dropped, over all tests."""
    tokens: int
    """Positions that the finalists took, as planned."""
    tokens_whole: int
    """Positions that they take where nobody is dropped, each measured at once."""
