"""Records of `verification.json`, mixtures trained for real beside the merges that stand for them, and of trainings."""

from __future__ import annotations

from typing import Literal

from pydantic import JsonValue

from aftermix.runs.json_record import Finite, Interval, RunRecord
from aftermix.runs.mixture_records import ProxyRecord, UtilityRecord
from aftermix.runs.records import CapabilityScoreRecord, UtilityScore

VERIFICATION_FILE = "verification.json"
DOREMI_FILE = "doremi.json"
LOSSES_FILE = "losses.jsonl"


class MixtureSideRecord(RunRecord):
    """Scores of one mixture, merged or trained."""

    utility: UtilityScore
    capabilities: dict[str, CapabilityScoreRecord]

    def find_score(self, name: str | None) -> float | None:
        """Score of the capability `name`, or without one the utility."""
        return self.utility.value if name is None else self.capabilities[name].score


class TrainedMixtureRecord(RunRecord):
    """One mixture on both sides."""

    name: str
    """Of its folder in `trained/`."""
    point: str
    trial: int | None
    shares: dict[str, Finite]
    folder: str
    tokens: int
    loss: Finite
    merged: MixtureSideRecord
    trained: MixtureSideRecord
    trained_on_search_items: MixtureSideRecord


class ConsistencyRecord(RunRecord):
    """Agreement of both sides in one score; null where a side has one value for all mixtures."""

    mixtures: int
    spearman: Finite | None
    interval: Interval | None
    kendall: Finite | None
    slope: Finite | None
    intercept: Finite | None
    offset: Finite | None
    offset_interval: Interval | None
    regret: Finite | None
    predicted_spearman: Finite | None


class ConsistencyByScoreRecord(RunRecord):
    """Agreement in the utility, and by capability."""

    utility: ConsistencyRecord
    capabilities: dict[str, ConsistencyRecord]


class RegmixRecord(RunRecord):
    """Ratios that RegMix, and our surrogates, learn from the trained models; null with a `note` that says why."""

    prior: Literal["tokens", "uniform"]
    trained: int
    ratios: dict[str, Finite] | None
    surrogate: dict[str, Finite] | None
    note: str | None


class DoremiRecord(RunRecord):
    """Ratios that DoReMi found; `reference` is the trained mixture that it held the proxy against."""

    ratios: dict[str, Finite]
    tokens: int
    reference: str


class MethodCostRecord(RunRecord):
    """Expense of one method until it names its ratios, relative to MergeMix's."""

    method: str
    parameters: Finite
    tokens: Finite
    runs: int
    trained_tokens: Finite
    evaluated_tokens: Finite
    relative: Finite | None
    relative_whole: Finite | None


class RetrainedModelRecord(RunRecord):
    """One model trained at a method's ratios."""

    seed: int
    folder: str
    tokens: int
    loss: Finite
    test: MixtureSideRecord


class RetrainedRatioRecord(RunRecord):
    """Models trained at one method's ratios, a seed each."""

    method: str
    """`found`, `uniform`, `in proportion to tokens`, `prior NAME`, `RegMix`, `DoReMi`."""
    ratios: dict[str, Finite]
    models: tuple[RetrainedModelRecord, ...]
    utility: UtilityScore
    """Mean over the seeds, with a 95 % interval of it where there are two or more."""
    difference: UtilityScore | None
    """Utility of the found ratios minus it, paired by seed; null of the found ones."""


class VerificationRecord(RunRecord):
    """`verification.json`."""

    mixtures: tuple[TrainedMixtureRecord, ...]
    split: Literal["test"]
    items: dict[str, int]
    tokens: int
    """Of each training, as `schedule` and `learning_rate` are."""
    schedule: str
    learning_rate: Finite
    utility: UtilityRecord
    consistency: ConsistencyByScoreRecord
    plain: dict[str, dict[str, Finite]]
    """Shares of the mixtures that need no measurement, by name."""
    regmix: RegmixRecord
    doremi: DoremiRecord | None
    cost: tuple[MethodCostRecord, ...]
    proxies: tuple[ProxyRecord, ...] | None = None
    """Worth of each way to rank mixtures; absent from verifications of earlier versions."""
    retrained: tuple[RetrainedRatioRecord, ...] | None = None
    """Models trained at the ratios of each method; null where none were asked for."""


class LossRecord(RunRecord):
    """Loss of the first step, and the mean of the last ones."""

    first: Finite
    final: Finite


class OwnVectorRecord(RunRecord):
    """The vector of an expert, and what the stored types of the expert lost of it."""

    file: str | None
    """Name of the file beside the weights; null where none was asked for."""
    dtype: Literal["bfloat16", "float32"] | None
    norm: Finite
    """L2 norm before rounding."""
    rounding_lost: Finite
    """Norm of what rounding changed over that norm."""
    unmoved: Finite
    """Share of the entries that training moved and the stored expert has at the base's values."""


class StepLossRecord(RunRecord):
    """A line of `losses.jsonl`: one step of a training, in nats a token."""

    step: int
    """From 0, which is before the first."""
    tokens: int
    """Trained on until then."""
    loss: Finite | None = None
    """On the tokens of the step, before its update; absent in step 0."""
    held_out: dict[str, Finite] | None = None
    """By domain, after the step; absent where it was not measured."""


class HeldOutPointRecord(RunRecord):
    """Losses on held-out documents after so many steps, in nats a token."""

    step: int
    tokens: int
    """Trained on until then."""
    loss: Finite
    """Of all domains, each weighted by its share in the training."""
    domains: dict[str, Finite]


class HeldOutRecord(RunRecord):
    """Documents that were never trained on, and the losses on them."""

    share: Finite
    """Of the documents, as the file asked for it."""
    documents: dict[str, int]
    """Held out, by domain."""
    tokens: dict[str, int]
    """Of these, in what is measured."""
    points: tuple[HeldOutPointRecord, ...]


class NoiseScaleRecord(RunRecord):
    """The scale of merge-aware noise that was found: by its damage, or by the vectors of pilots."""

    scale: Finite
    """In units of the weights; by pilots the mean over the entries that move."""
    damage: Finite | None = None
    """Nats a token that were asked for."""
    rise: Finite | None = None
    """Nats a token that noise of this scale raises the base's loss by."""
    loss: Finite | None = None
    """The base's, without noise."""
    tokens: int | None = None
    data: str | None = None
    """Source or dataset that it was measured on."""
    pilot: tuple[str, ...] | None = None
    """Experts whose vectors give each tensor's scale."""
    tensors: int | None = None
    norm: Finite | None = None
    """Root mean square of the pilots' norms over all tensors that move."""


class TrainingRecord(RunRecord):
    """`train.json` of an expert or a trained mixture: its recipe, and what really happened."""

    format: int
    name: str
    base: str
    recipe: dict[str, JsonValue]
    """All that decides the weights; the training room compares it key by key."""
    data: dict[str, JsonValue]
    tokens: int
    epochs: Finite | None
    documents_begun: int
    sequences: int
    steps: int
    learning_rate: Finite
    seed: int
    checkpoint_tokens: int | tuple[int, ...] | None
    trained_parameters: int
    frozen: tuple[str, ...]
    loss: LossRecord
    processes: int
    threads: int
    versions: dict[str, str]
    of_steps: int | None = None
    """Of a checkpoint on the way, which has no times of its own."""
    seconds: Finite | None = None
    tokens_per_second: Finite | None = None
    device: str | None = None
    passed_through: tuple[str, ...] = ()
    """Tensors of the base that the model class does not load; known where the tensors are written."""
    base_tensors: dict[str, str] | None = None
    """Digests of the base's tensors by name, by which another base is told; absent in records of older versions."""
    held_out: HeldOutRecord | None = None
    """Absent where nothing is held out, and in records of older versions."""
    vector: OwnVectorRecord | None = None
    """Known where the tensors are written; absent in records of older versions."""
    noise: NoiseScaleRecord | None = None
    """Absent where no scale had to be found, and in records of older versions."""


class TrajectoryRecord(RunRecord):
    """Weights and excess losses of the domains, by step."""

    domains: tuple[str, ...]
    weights: tuple[tuple[Finite, ...], ...]
    excess: tuple[tuple[Finite, ...], ...]


class DoremiRunRecord(RunRecord):
    """`doremi.json`: ratios with their trajectory, and the recipe that finds them again."""

    ratios: dict[str, Finite]
    tokens: int
    steps: int
    trajectory: TrajectoryRecord
    reference: str
    proxy: str
    seconds: Finite
    recipe: dict[str, JsonValue]
