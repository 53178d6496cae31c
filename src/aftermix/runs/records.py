"""Records of `best.json` of a search, and of the parts that a mixture's has too."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, RootModel

from aftermix.config import Split
from aftermix.runs.answers.certificate_records import (
    CertificateRecord,
    EliminationRecord,
    OptimismRecord,
    ResponseSummaryRecord,
)
from aftermix.runs.json_record import Finite, Interval, JsonRecord, OptionValue, RunRecord
from aftermix.runs.trials import Setting

BEST_FILE = "best.json"
MODEL_FOLDER = "model"
COMPARED_SECONDS_FILE = "items/compared.json"


class TaskScore(RunRecord):
    """Mean score of one task over the `items` items that have a value of its metric, with its interval."""

    score: Finite
    interval: Interval | None
    """Null of a task that was scored whole."""
    items: int
    cut_prompts: int | None = None
    """Requests whose prompt lost its beginning to the model's length; absent where there are none."""
    bytes: int | None = None
    """UTF-8 bytes of the texts that the score is of, which is minus their bits per byte; absent of other tasks."""


class UtilityScore(RunRecord):
    """A mixture's utility with its interval; null where an expression has no value."""

    value: Finite | None
    interval: Interval | None


class CapabilityScoreRecord(RunRecord):
    """Score of a capability with its interval."""

    score: Finite
    interval: Interval | None


class ScoresRecord(RunRecord):
    """One measurement on one split: a value and an interval per objective, and every task's score.

    A difference of two has no tasks. That of mixtures has a utility.
    """

    objective: tuple[Finite, ...] = Field(min_length=1)
    interval: tuple[Interval | None, ...]
    tasks: dict[str, TaskScore] = Field(default_factory=dict)
    utility: UtilityScore | None = None
    """Measure by which a mixture is judged, its objective being a mean of raw scores."""
    capabilities: dict[str, CapabilityScoreRecord] = Field(default_factory=dict)

    def interval_of(self, index: int) -> Interval | None:
        """The interval of the objective at `index`, if it was computed."""
        return self.interval[index] if index < len(self.interval) else None


class MixtureScoresRecord(ScoresRecord):
    """One measurement of a mixture, which has a utility, and capabilities beside the tasks."""

    utility: UtilityScore
    capabilities: dict[str, CapabilityScoreRecord]


class SearchWinner(RunRecord):
    """The trial that won, and the merge that it stands for whatever its weights."""

    trial: int
    method: str
    options: dict[str, OptionValue]
    """With `lambda` and `seed`, which every method has."""
    exclude: tuple[str, ...]


class RangeRuleRecord(RunRecord):
    """A rule of a vector's range."""

    weight: str
    """Name of its weight in `weights`."""
    match: tuple[str, ...] | None
    """Null where every tensor fits."""
    range: Interval
    """Equal ends where the weight is fixed."""


class VectorRecord(RunRecord):
    """A distribution vector."""

    model: str
    role: Literal["instruction", "expert"]
    tokens: int | None
    range: Interval
    """Of rules the lowest and the highest end."""
    rules: tuple[RangeRuleRecord, ...] | None = None
    """Absent where one weight holds for all tensors."""


class ObjectiveRecord(RunRecord):
    """A resolved objective: weights of its tasks (adding up to 1) and floors."""

    name: str | None
    tasks: dict[str, Finite]
    floors: dict[str, Finite]


class CandidateRecord(RunRecord):
    """One of the best distinct trials, measured again on the select items.

    Candidates of a mixture need not be trials, and have scores on search items only where they are.
    """

    trial: int | None
    weights: dict[str, Finite]
    settings: dict[str, Setting] = Field(default_factory=dict)
    search: ScoresRecord | None
    select: ScoresRecord
    dropped_after: int | None = None
    """The round of select items after which it was surely beaten, and measured no further; else absent."""


class BaselineRecord(RunRecord):
    """A model that costs no search; `difference` is winner minus baseline over the same test items."""

    name: str
    kind: str
    method: str | None
    density: Finite | None
    weights: dict[str, Finite]
    test: ScoresRecord
    difference: ScoresRecord | None


class ComparedCostRecord(RunRecord):
    """Expense of a model that the winner is compared with."""

    tokens_trained: int | None
    """Null of a finished model whose training is not known; 0 of a merge."""
    tokens_evaluated: int
    """Positions on select and test items, padding included."""
    seconds: Finite
    """Wall time of training, as `train.json` tells it, and of evaluation."""


class AddedInstructionRecord(RunRecord):
    """The instruction vector that was added to a compared model."""

    vector: str
    weight: Finite
    tuned: bool
    """True where the weight was chosen on select items."""


class ComparedTrainingRecord(RunRecord):
    """One training of a compared model."""

    seed: int
    folder: str
    """Within the run."""
    tokens: int
    loss: Finite
    test: ScoresRecord


class ComparedRecord(RunRecord):
    """A model of any origin beside the winner; `difference` is winner minus it over the same test items."""

    name: str
    model: str | None = None
    """Of a finished model; else absent, as the two keys below are where they do not hold."""
    weights: dict[str, Finite] | None = None
    """Of a merge."""
    ratios: dict[str, Finite] | None = None
    """Of trainings; null where the found weights stand for none."""
    trained: tuple[ComparedTrainingRecord, ...] | None = None
    """The trainings, one for each seed."""
    instruction: AddedInstructionRecord | None
    note: str | None
    """A remark without which the row says too much: `one training`, or why there are no scores."""
    test: ScoresRecord | None
    """Of several trainings, of the mean score of each item over them."""
    difference: ScoresRecord | None
    cost: ComparedCostRecord


class ComparedSecondsRecord(JsonRecord, RootModel[dict[str, dict[Split, Finite]]]):
    """`items/compared.json`: wall seconds of each measurement of a compared model, by its key and split."""


class ScanPoint(RunRecord):
    """A weight of one vector alone, and its score on select items."""

    weight: Finite
    select: Finite


class ScanRecord(RunRecord):
    """The weight of one vector alone against the select score."""

    vector: str
    points: tuple[ScanPoint, ...]


class TaskItemCounts(RunRecord):
    """Number of items of a task in each split."""

    search: int
    select: int
    test: int
    note: str | None
    cut_prompts: dict[Split, int] | None = None
    """Requests by split whose prompt lost its beginning to the model's length; absent where there are none."""


class ItemsRecord(RunRecord):
    """Split of the items of all tasks, as counts."""

    scheme: str
    overlap: bool
    tasks: dict[str, TaskItemCounts]


class ReusedRecord(RunRecord):
    """Merges of an earlier run that were scored on further tasks alone, and the price of that."""

    merges: int
    failed: int
    """Of these not one score was taken."""
    tasks: tuple[str, ...]
    tokens: int
    """Positions that the model computed."""


class StageSeconds(RunRecord):
    """Wall time of each stage of the job, of the search by phase."""

    prepare: Finite
    search: dict[str, Finite]
    select: Finite
    test: Finite


class BestRecord(RunRecord):
    """`best.json` of a finished search."""

    winner: SearchWinner
    weights: dict[str, Finite]
    settings: dict[str, Setting] = Field(default_factory=dict)
    ratios: dict[str, Finite] | None
    ratios_note: str | None
    """Reason that there are no ratios."""
    vectors: dict[str, VectorRecord]
    objective: tuple[ObjectiveRecord, ...]
    metrics: dict[str, str]
    search: ScoresRecord
    select: ScoresRecord
    test: ScoresRecord
    floors_met: bool
    candidates: tuple[CandidateRecord, ...]
    front: tuple[int, ...] | None
    baselines: tuple[BaselineRecord, ...]
    scan: ScanRecord | None
    items: ItemsRecord
    seconds: StageSeconds
    response: ResponseSummaryRecord | None = None
    """Absent where the run keeps no log-likelihoods, or has too few trials."""
    certificate: CertificateRecord | None = None
    """Absent in runs of earlier versions."""
    elimination: EliminationRecord | None = None
    """Absent where finalists are all measured on all select items at once, or there is only one."""
    optimism: OptimismRecord | None = None
    """Absent in runs of earlier versions, without a response, of several objectives, and where splits overlap."""
    compared: tuple[ComparedRecord, ...] | None = None
    """Absent where the file compares nothing."""
    reused: ReusedRecord | None = None
    """Absent where no merge of an earlier run was scored on further tasks."""
