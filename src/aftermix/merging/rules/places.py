"""Numbers that depend on the place of a tensor: its depth among the blocks, and the rule that fits its name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from aftermix.checkpoints.names import build_matcher
from aftermix.config.places import Patterns, PlaceRule, Weight, interpolate
from aftermix.errors import MergeError
from aftermix.merging.rules.exclusive import BLOCK_INDEX


@dataclass(frozen=True)
class ModelPlaces:
    """Depth of each tensor of a model, by name.

    The first block of a stack (`model.layers.0`) has depth 0, the last depth 1, and the only one depth 1. What lies
    outside of all blocks has depth 0.
    """

    depths: Mapping[str, float]

    @staticmethod
    def find(names: Iterable[str]) -> ModelPlaces:
        """The depths of tensors called `names`, all of one model.

        >>> ModelPlaces.find(["h.0.a", "h.2.a", "norm"]).depths
        {'h.0.a': 0.0, 'h.2.a': 1.0, 'norm': 0.0}
        """
        indices = {name: (match["block"].rpartition(".")[0], int(match["index"])) for name, match in _match(names)}
        last: Counter[str] = Counter()
        for stack, index in indices.values():
            last[stack] = max(last[stack], index)
        stacks = Counter(stack for stack, _ in set(indices.values()))
        alone = {stack for stack, count in stacks.items() if count == 1}

        def measure(name: str) -> float:
            stack, index = indices.get(name, ("", 0))
            if stack in alone:
                return 1.0
            return index / last[stack] if last[stack] else 0.0

        return ModelPlaces({name: measure(name) for name in names})

    def read(self, number: Weight, name: str, *, where: str) -> float:
        """`number` as it holds for the tensor `name`.

        Raises :class:`MergeError` where no rule fits, `where` being the place of the rules in the file.
        """
        if not isinstance(number, tuple):
            return float(number)
        rule = _find_rule(number, name, where)
        if rule is None:
            remedy = "End the list with a rule without `match`, or exclude the tensor."
            raise MergeError(where, f"no rule fits the tensor '{name}'", remedy)
        return interpolate(rule.value, self.depths[name]) if isinstance(rule.value, tuple) else float(rule.value)


def refuse_unfit_patterns(patterns: Sequence[Patterns | None], names: Iterable[str], *, where: str) -> None:
    """Raise :class:`MergeError` at `where` unless each of `names` has a rule, and each rule a tensor of its own.

    A rule is given by its `patterns`, None where every tensor fits; of several that fit, the first holds.
    """
    tests = [_build_test(PlaceRule(match=match, value=0.0), where) for match in patterns]
    used = set()
    for name in names:
        place = next((place for place, fits in enumerate(tests) if fits(name)), None)
        if place is None:
            remedy = "End the list with a rule without `match`, or exclude the tensor."
            raise MergeError(where, f"no rule fits the tensor '{name}'", remedy)
        used.add(place)

    for place, match in enumerate(patterns):
        if place not in used:
            called = f"'{' or '.join(match)}'" if match else "the rule without `match`"
            found = f"no tensor that the merge moves is left for {called}"
            raise MergeError(where, found, "Correct the pattern, put it before those that fit more, or remove it.")


def _match(names: Iterable[str]) -> list[tuple[str, Any]]:
    return [(name, match) for name in names if (match := BLOCK_INDEX.match(name))]


@lru_cache(maxsize=1 << 16)
def _find_rule(rules: tuple[PlaceRule, ...], name: str, where: str) -> PlaceRule | None:
    """The first rule that fits; kept, since every merge of a search asks for the same."""
    return next((rule for rule in rules if _build_test(rule, where)(name)), None)


@lru_cache(maxsize=1 << 10)
def _build_test(rule: PlaceRule, where: str) -> Callable[[str], bool]:
    return (lambda _: True) if rule.match is None else build_matcher(rule.match, where=f"{where}.match")
