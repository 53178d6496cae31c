"""Records of a mixture's `best.json` and `design.json`, and of those of a tree of domains and its groups."""

from __future__ import annotations

from typing import Literal, Optional

from pydantic import Field, RootModel

from aftermix.config import Split
from aftermix.runs.json_record import Finite, Interval, JsonRecord, OptionValue, RunRecord
from aftermix.runs.records import (
    BaselineRecord,
    CandidateRecord,
    ComparedRecord,
    ItemsRecord,
    MixtureScoresRecord,
    ObjectiveRecord,
    ReusedRecord,
    ScanRecord,
    StageSeconds,
    VectorRecord,
)
from aftermix.runs.trials import Setting

DESIGN_FILE = "design.json"


class DesignPointRecord(RunRecord):
    """A mixture that is to be measured."""

    kind: str
    """`uniform`, `prior NAME`, `vertex NAME`, `lattice` or `fill`."""
    shares: dict[str, Finite]


class MixtureDesignRecord(RunRecord):
    """`design.json`: points in the order in which they are measured, and the places of those measured twice."""

    domains: tuple[str, ...]
    points: tuple[DesignPointRecord, ...]
    repeats: tuple[int, ...]
    fitted: Literal["tasks", "capabilities"] | None = None
    """Scores that have surrogates, where capabilities have several tasks; in a run that does not say it, of whole
    capabilities."""


class MixtureWinnerRecord(RunRecord):
    """The mixture that won, and the merge that it stands for whatever its weights."""

    trial: int | None
    """The point of the design that it is, if any."""
    point: str
    """`optimum`, `neighbour N`, `best measured`; of a tree `tree`."""
    method: str
    options: dict[str, OptionValue]
    exclude: tuple[str, ...]


class UtilityRecord(RunRecord):
    """The utility that decided; weights add up to 1."""

    weights: dict[str, Finite]
    expression: str | None
    normalisation: str
    floors: dict[str, Finite]
    left_out: tuple[str, ...]
    """Capabilities, and tasks of those that vary, that scored the same everywhere."""


class PointCountsRecord(RunRecord):
    """Number of the points that were measured, and of those that failed."""

    measured: int
    failed: int


class OutOfFoldRecord(RunRecord):
    """Errors of one regressor at points that it was not fitted to."""

    spearman: Finite
    rmse: Finite
    regret: Finite
    optimism: Finite
    error: Finite


class SurrogateRecord(RunRecord):
    """All regressors of a capability, and the one that was chosen."""

    choice: str
    candidates: dict[str, OutOfFoldRecord]
    tasks: dict[str, SurrogateRecord] | None = None
    """Of a capability of several tasks: theirs; `mean of tasks` is then what the capability is predicted by."""

    def list_rows(self, name: str) -> list[tuple[str, SurrogateRecord]]:
        """Rows of a table: the capability `name`, then its tasks."""
        return [(name, self), *((f"{name}: {task}", entry) for task, entry in (self.tasks or {}).items())]


class NoiseRecord(RunRecord):
    """Noise of a measurement by capability, from points that were measured twice."""

    points: tuple[str, ...]
    sd: dict[str, Finite]


class MomentsRecord(RunRecord):
    """Expected score of a capability."""

    mean: Finite
    sd: Finite


class OptimumRecord(RunRecord):
    """The mixture of largest predicted utility."""

    shares: dict[str, Finite]
    share_intervals: dict[str, Interval]
    utility: Finite | None
    interval: Interval | None
    scores: dict[str, MomentsRecord]
    floors_met: bool
    """By prediction."""
    averaged: int
    """Number of mixtures whose mean it is."""


class PredictedUtilityRecord(RunRecord):
    """The utility that surrogates promise of a mixture; null where an expression has no value."""

    utility: Finite | None
    interval: Interval | None


class VerifiedMixtureRecord(RunRecord):
    """A mixture that was merged and measured on select items."""

    name: str
    trial: int | None
    shares: dict[str, Finite]
    predicted: PredictedUtilityRecord
    select: MixtureScoresRecord


class MergedMixtureRecord(RunRecord):
    """Beginning of any mixture's `best.json`: its winner, its merge, its vectors and the tasks that judged it."""

    winner: MixtureWinnerRecord
    weights: dict[str, Finite]
    settings: dict[str, Setting] = Field(default_factory=dict)
    ratios: dict[str, Finite]
    ratios_note: None
    vectors: dict[str, VectorRecord]
    capabilities: dict[str, tuple[str, ...]]
    utility: UtilityRecord
    objective: tuple[ObjectiveRecord, ...]
    metrics: dict[str, str]
    front: None
    scan: ScanRecord | None
    items: ItemsRecord


class FoundMixtureRecord(MergedMixtureRecord):
    """Findings of the search for a mixture, before the winner is compared on test items."""

    points: PointCountsRecord
    surrogates: dict[str, SurrogateRecord]
    noise: NoiseRecord
    optimum: OptimumRecord
    verified: tuple[VerifiedMixtureRecord, ...]
    search: MixtureScoresRecord | None
    """None unless the winner is a point of the design."""
    select: MixtureScoresRecord
    floors_met: bool
    candidates: tuple[CandidateRecord, ...]
    seconds: StageSeconds

    @property
    def surrogate_rows(self) -> list[tuple[str, SurrogateRecord]]:
        """Rows of a table of all surrogates: each capability, with its tasks where it has several."""
        return [row for name, entry in self.surrogates.items() for row in entry.list_rows(name)]

    @property
    def won(self) -> VerifiedMixtureRecord:
        """The verified mixture that is the winner."""
        return next(mixture for mixture in self.verified if mixture.name == self.winner.point)


class ProxyRecord(RunRecord):
    """A way to rank mixtures without training on them, its price, and its worth where mixtures were trained."""

    name: str
    """`merges`, `surrogates`, `response`, `ensemble`, `null`."""
    price_tokens: int
    spearman: Finite | None
    """With the utility of the trained mixtures, as `rmse` and `regret` are; null where none were trained."""
    rmse: Finite | None
    regret: Finite | None
    trained: int


class ProxyAgreementRecord(RunRecord):
    """Agreement of the proxies of a run at the measured points that mix domains."""

    mixtures: int
    experts: Split
    """Items on which the experts alone were measured."""
    spearman: dict[str, dict[str, Finite | None]]


class FirstOrderRecord(RunRecord):
    """Ratios of tokens that move the base as the merge does, where experts were not trained alike."""

    note: str
    ratios: dict[str, Finite] | None
    """Proportional to weight x mean rate x steps; null where these are not known, or do not tell it."""


class SecondOrderRecord(RunRecord):
    """Second-order difference of a training at the found ratios from the merge, over the way of first order."""

    error: Finite | None
    """Null where the mixture has no gradient, as the others are."""
    cross: Finite | None
    """Of domains that bend each other's gradients."""
    own: Finite | None
    """Of domains that bend their own."""
    reach: Finite | None
    """Rates of a gradient descent added up that goes as far as the vectors do along the gradients."""
    tokens: dict[str, int]
    """Predicted, of the text of each domain."""


class MixtureRecord(FoundMixtureRecord):
    """`best.json` of a finished mixture without a tree."""

    test: MixtureScoresRecord
    baselines: tuple[BaselineRecord, ...]
    proxies: tuple[ProxyRecord, ...] | None = None
    """Absent from runs of earlier versions."""
    agreement: ProxyAgreementRecord | None = None
    """Null where fewer than three measured points mix domains."""
    first_order: FirstOrderRecord | None = None
    """Null where experts were trained alike."""
    second_order: SecondOrderRecord | None = None
    """Absent where `mixture.second_order` does not ask for it."""
    compared: tuple[ComparedRecord, ...] | None = None
    """Absent where the file compares nothing."""
    reused: ReusedRecord | None = None
    """Absent where no merge of an earlier run was scored on further tasks."""


class TableSourceRecord(RunRecord):
    """The table: its name and content, its runs, and how its columns were read."""

    file: str
    sha256: str
    runs: int
    losses: tuple[str, ...]
    """Scores that the table has as losses; all figures have their sign changed."""
    left_alone: tuple[str, ...]
    """Columns that are neither shares nor scores."""
    empty: dict[str, int] = {}  # noqa: RUF012 - pydantic copies defaults
    """Runs with an empty cell by domain, which count as a share of 0; absent where there is none."""


class TableRowRecord(RunRecord):
    """One run of the table."""

    line: int
    """Of the file; the header is line 1."""
    shares: dict[str, Finite]
    utility: Finite | None


class TableMixtureRecord(RunRecord):
    """`best.json` of `aftermix mixture --table`."""

    table: TableSourceRecord
    ratios: dict[str, Finite]
    ratios_note: None
    capabilities: dict[str, tuple[str, ...]]
    utility: UtilityRecord
    surrogates: dict[str, SurrogateRecord]
    optimum: OptimumRecord
    best_run: TableRowRecord | None
    """The run of largest utility within the bounds, if there is one."""
    proxies: tuple[ProxyRecord, ...]
    """The surrogates out of fold, held against the runs."""

    @property
    def surrogate_rows(self) -> list[tuple[str, SurrogateRecord]]:
        """Rows of a table of all surrogates: each capability, with its tasks where it has several."""
        return [row for name, entry in self.surrogates.items() for row in entry.list_rows(name)]


class GroupMembersRecord(JsonRecord, RootModel[dict[str, Optional["GroupMembersRecord"]]]):
    """Members of a group by name: the members of a group below it, or None of an expert."""


class TreeDesignRecord(MixtureDesignRecord):
    """`design.json` of a tree: all experts, and no points, since those are its groups'."""

    tree: GroupMembersRecord
    direction: Literal["top_down", "bottom_up"]
    levels: tuple[str, ...]
    """Names of the groups in the order in which they are searched."""


class LevelDesignRecord(MixtureDesignRecord):
    """`design.json` of a group: its points, and the merge `rest + sum_k share_k * members_k` that one stands for."""

    level: str
    members: dict[str, dict[str, Finite]]
    """By member, the weights of experts at a share of 1."""
    rest: dict[str, Finite]
    """Weights of the experts of other groups."""


class LevelRecord(RunRecord):
    """`best.json` of a group whose search decides nothing, and the beginning of that of any group."""

    level: str
    shares: dict[str, Finite]
    """Of its members, together 1."""
    note: str | None
    """Reason that the group keeps the shares that it had at first."""


class SearchedLevelRecord(FoundMixtureRecord, LevelRecord):
    """`best.json` of a group that was searched; the keys of :class:`LevelRecord` come first, as its last base."""

    reused: ReusedRecord | None = None
    """Absent where no merge of an earlier run was scored on further tasks."""


class TreeGroupRecord(RunRecord):
    """A group of the tree with those below it: shares within it and of the whole, and how sure they are."""

    name: str
    share: Finite
    """Of the whole."""
    shares: dict[str, Finite]
    share_intervals: dict[str, Interval] | None
    point: str | None
    """None: its search decided nothing, and `note` says why."""
    measured: int
    note: str | None
    groups: tuple[TreeGroupRecord, ...]


class TreeRecord(MergedMixtureRecord):
    """`best.json` of a finished mixture of a tree."""

    direction: Literal["top_down", "bottom_up"]
    tree: TreeGroupRecord
    points: PointCountsRecord
    search: None
    select: MixtureScoresRecord
    test: MixtureScoresRecord
    floors_met: bool
    candidates: tuple[CandidateRecord, ...]
    baselines: tuple[BaselineRecord, ...]
    seconds: StageSeconds
    compared: tuple[ComparedRecord, ...] | None = None
    """Absent where the file compares nothing."""
    proxies: tuple[ProxyRecord, ...] | None = None
    """Absent until mixtures were trained to verify it."""
    first_order: FirstOrderRecord | None = None
    """Null where experts were trained alike; absent from runs of earlier versions."""
    second_order: SecondOrderRecord | None = None
    """Of the whole. Absent where `mixture.second_order` does not ask for it."""
    reused: ReusedRecord | None = None
    """Of all groups. Absent where no merge of an earlier run was scored on further tasks."""
