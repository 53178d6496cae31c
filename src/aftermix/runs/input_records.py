"""Records of a run's inputs: `lock.json`, `from.json` and `items/split.json`."""

from __future__ import annotations

from pydantic import Field, RootModel

from aftermix.runs.json_record import JsonRecord, RunRecord

CONFIG_FILE = "config.yaml"
LOCK_FILE = "lock.json"
SOURCE_FILE = "from.json"
SPLIT_FILE = "items/split.json"


class LockedModelRecord(RunRecord):
    """Identity of a model by the hashes of its files."""

    model: str
    files: dict[str, str]
    config: str | None = None
    """Hash of `config.json`; an adapter has none."""


class SeedsRecord(RunRecord):
    """Seeds of what the run does."""

    merge: int
    search: int
    items: int | None = None
    mixture: int | None = None


class LockedTaskRecord(RunRecord):
    """Identity of a task: its hashes are those of :class:`~aftermix.evaluation.fingerprints.TaskFingerprint`."""

    requests: str
    documents: str
    metric: str
    """The metric that counts, as `name,filter`."""
    items: int
    """Items of all splits."""


class FunctionLockRecord(RunRecord):
    """Identity of a user's own scorer."""

    name: str
    """`FILE.py:NAME`, or `MODULE:NAME` of one that was handed over in Python."""
    files: dict[str, str]
    """Path -> `sha256:HEX` of every file of the user's code that defines it."""


class EvaluationLockRecord(RunRecord):
    """Identity of what decides a score besides the model."""

    tasks: dict[str, LockedTaskRecord]
    tokenizer: str
    chat_template: str | None
    """Null where the tokenizer has none. It decides scores only where it is applied."""
    threads: int | None = None
    """CPU threads that the run began with, and goes on with; absent in runs of earlier versions: all cores."""
    function: FunctionLockRecord | None = None
    """Absent where lm-eval's tasks are scored."""


class LockRecord(RunRecord):
    """`lock.json`: identity of all inputs, seeds and versions."""

    inputs: dict[str, LockedModelRecord]
    """`base` and each `vectors.NAME`."""
    seeds: SeedsRecord
    versions: dict[str, str]
    statistics: dict[str, str] = Field(default_factory=dict)
    """Hash of each file of statistics that was used."""
    alignment: tuple[str, ...] = ()
    """Lines on what was mapped, aligned and passed through."""
    evaluation: EvaluationLockRecord | None = None
    """Absent in runs of earlier versions, whose tasks are not compared."""


class SourceRecord(RunRecord):
    """`from.json`: the earlier run whose trials this one began with."""

    run: str


class TaskSplitRecord(RunRecord):
    """Items of one task by split, as `leaf task/document number`."""

    search: tuple[str, ...]
    select: tuple[str, ...]
    test: tuple[str, ...]
    overlap: bool
    """True if search and select share items."""
    note: str | None
    """Difference from the counts asked for."""
    grouped: int | None = None
    """Items whose row others have, too, and which stand in one split with them; absent where there are none."""


class SplitRecord(JsonRecord, RootModel[dict[str, TaskSplitRecord]]):
    """`items/split.json`: items by task."""

    @property
    def tasks(self) -> dict[str, TaskSplitRecord]:
        """Items of each task."""
        return self.root
