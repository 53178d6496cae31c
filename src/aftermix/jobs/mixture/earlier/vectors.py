"""Vectors of an earlier run that are, by content, vectors of this file, whichever domains came, went or were split.

A vector at weight 0 takes no part in a merge, and where rules are sums or means over all vectors a weight of a rounding
error takes none that counts. So a merge of the earlier run is a merge of these vectors if each vector
that weighs anything in it is one of them, by the hashes of its files; a vector that is new weighs nothing in it: the
merge lies on a face of the new simplex. A domain that was split is gone, and its parts are new: nothing tells which
merge of the parts one of the whole would be. Under a rule that shares entries out among all vectors, whatever their
weights, all of them have to be the same; where entries are drawn by the vector's name, it has to be the same too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from aftermix.merging.methods import BoundMethod
from aftermix.merging.rules.inter import weighted_mean, weighted_sum
from aftermix.merging.rules.intra import magnitude_sampled, random_rescale
from aftermix.runs.input_records import LockedModelRecord, LockRecord
from aftermix.runs.trials import Weights

PREFIX = "vectors."
SUMS = (weighted_sum, weighted_mean)
ROUNDING = 1e-9
DRAWN = (random_rescale, magnitude_sampled)
"""Rules that draw what they keep by the name of the vector."""


@dataclass(frozen=True)
class VectorMatch:
    """Vectors of an earlier run beside those of this file."""

    names: tuple[str, ...]
    """All vectors of this file, in its order."""
    same: Mapping[str, str]
    """Name here by name there."""
    gone: Mapping[str, str]
    """By name there, the reason why it is none of this file's vectors."""
    nothing: float = 0.0
    """The largest weight that is as good as none."""

    @property
    def new(self) -> tuple[str, ...]:
        """Vectors that the earlier run had not."""
        return tuple(name for name in self.names if name not in self.same.values())

    @property
    def is_whole(self) -> bool:
        """True if both have the same vectors under the same names."""
        return not self.gone and not self.new and all(there == here for there, here in self.same.items())

    def translate_weights(self, weights: Weights) -> Weights | None:
        """Weights of this file's vectors that make the merge with `weights` there; None where none do."""
        if self.find_obstacle(weights) is not None:
            return None
        mine = {here: weights[there] for there, here in self.same.items() if there in weights}
        return {name: mine.get(name, 0.0) for name in self.names}

    def find_obstacle(self, weights: Weights) -> str | None:
        """The first vector that weighs something in a merge and is none of this file's."""
        return next((name for name in self.gone if abs(weights.get(name, 0.0)) > self.nothing), None)


def match_vectors(theirs: LockRecord, ours: LockRecord, names: tuple[str, ...], *, method: BoundMethod) -> VectorMatch:
    """Match vectors by content: of equal ones that of the same name, else the first that is left.

    >>> lock = LockRecord(inputs={"vectors.ja": {"model": "x", "files": {"a": "1"}}}, seeds={"merge": 0, "search": 0},
    ...                   versions={})
    >>> from aftermix.config import MergeConfig
    >>> from aftermix.merging.methods import bind
    >>> match_vectors(lock, lock, ("ja",), method=bind(MergeConfig())).same
    {'ja': 'ja'}
    """
    before, now = _list_contents(theirs), _list_contents(ours)
    same = {name: name for name in before if name in now and before[name] == now[name]}
    if not _needs_names(method):
        for there, content in before.items():
            free = [name for name in names if name not in same.values() and now.get(name) == content]
            if there not in same and free:
                same[there] = free[0]

    gone = {name: _explain_absence(name, names) for name in before if name not in same}
    ordered = {name: same[name] for name in before if name in same}
    return VectorMatch(names, ordered, gone, ROUNDING if method.rules[1] in SUMS else 0.0)


def _needs_names(method: BoundMethod) -> bool:
    return method.is_exclusive or method.needs_statistics or method.rules[0] in DRAWN


def _explain_absence(name: str, names: tuple[str, ...]) -> str:
    return "has another content by now" if name in names else "is no vector of this file"


def _list_contents(lock: LockRecord) -> dict[str, tuple[object, ...]]:
    """Identity of each vector's content, wherever it lies."""
    return {
        key.removeprefix(PREFIX): _identify_content(model)
        for key, model in lock.inputs.items()
        if key.startswith(PREFIX)
    }


def _identify_content(model: LockedModelRecord) -> tuple[object, ...]:
    return tuple(sorted(model.files.items())), model.config


def is_same_base(theirs: LockRecord, ours: LockRecord) -> bool:
    """True if both started from a base of one content."""
    first, second = theirs.inputs.get("base"), ours.inputs.get("base")
    if first is None or second is None:
        return first is second
    return _identify_content(first) == _identify_content(second)
