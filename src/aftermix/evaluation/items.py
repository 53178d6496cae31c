"""Items of a task that search, select and test the weights: seeded, stratified, disjoint."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from aftermix.config import ItemsConfig, Split
from aftermix.errors import EvaluationError
from aftermix.evaluation.equal_items import SPLITS as SPLITS
from aftermix.evaluation.equal_items import EqualItems, cut_disjoint, cut_first
from aftermix.seeds import derived_seed

MIN_ITEMS = 3


@dataclass(frozen=True)
class TaskItems:
    """The items of one task by purpose. An item is named `leaf task/document number`."""

    task: str
    search: tuple[str, ...]
    select: tuple[str, ...]
    test: tuple[str, ...]
    overlap: bool
    """True if search and select share items (scheme `first`). The test items are always apart from both."""
    note: str | None
    """Difference from the counts asked for, in words."""
    grouped: int = 0
    """Items whose row another item has, too, in this task or another. Equal rows stand in one split."""

    def of(self, split: Split) -> tuple[str, ...]:
        """The items of `split`, ascending by leaf task and document."""
        items: tuple[str, ...] = getattr(self, split)
        return items


def list_fixed_counts(items: ItemsConfig) -> frozenset[str]:
    """The counts that the user's file sets itself. The others are shares, and shrink for a small task."""
    written = items.model_fields_set
    return frozenset(name for name in SPLITS if name in written and isinstance(getattr(items, name), int))


def split_items(
    golds: Mapping[str, str],
    *,
    task: str,
    items: ItemsConfig,
    fixed: frozenset[str],
    equal: EqualItems | None = None,
) -> TaskItems:
    """Split the items of `task` three ways.

    `golds` maps every usable item, in the order of the documents, to its gold answer (or any other class).
    Scheme `disjoint`: the items of one leaf and answer are shuffled and become a stratum; of its `n` items the one of
    rank `r` takes the place `(r + u) / n`, with one random `u` in [0, 1) for the stratum. So the strata of a leaf are
    merged, then in the same way the leaves, and the result is cut into search, select and test: each part holds every
    leaf and answer in proportion, up to about one item. The order depends on the seed, the task's name and the items,
    not on the counts: a longer select leaves the search items as they are.
    Where search is the rest, select and test are cut off before it.
    Scheme `first` (OptiMer): search and select are the first items in document order, test is all that follows them.
    Of a task too small for the default counts, where the file sets none, the parts are those of :func:`_grow_evenly`
    unless `items.small` says otherwise.
    Items that are `equal` go whole to one part: to the first that has room, in the same order. In scheme `first` those
    after search and select that equal one of these, of whichever task, are left out.

    Raises :class:`EvaluationError` when counts in `fixed` cannot be met, or when fewer than three items are there.
    """
    available = len(golds)
    if available < MIN_ITEMS:
        raise EvaluationError(
            f"task '{task}'", f"expected at least {MIN_ITEMS} usable items, found {available}", "Take another task."
        )

    first = items.scheme == "first"
    counts = _settle_counts(available, task=task, items=items, fixed=fixed)
    order = _sort_by_document(golds) if first else _stratify(golds, task=task, seed=items.seed)

    rest, names = _find_rest(items), _order_parts(items)
    cut = cut_first(order, counts) if first else cut_disjoint(order, counts, names)
    note = _describe_counts(available, counts, items)
    grouped = [item for item in order if equal and item in equal.groups]
    if equal and grouped:
        limits = counts if rest is None else {**counts, rest: available}
        cut = equal.cut_first(order, counts, limits) if first else equal.cut_disjoint(order, limits, names)
        note = join_notes(note, _describe_groups(cut, counts, task))

    place = {item: index for index, item in enumerate(golds)}
    parts = {name: tuple(sorted(cut[name], key=place.__getitem__)) for name in SPLITS}
    return TaskItems(task=task, overlap=first, note=note, grouped=len(grouped), **parts)


def _find_rest(items: ItemsConfig) -> Split | None:
    """The part that takes all items which the others leave, if any."""
    return next((name for name in SPLITS if getattr(items, name) == "rest"), None)


def _order_parts(items: ItemsConfig) -> tuple[Split, ...]:
    """The order in which parts are cut off: what is the rest comes last."""
    return ("select", "test", "search") if _find_rest(items) == "search" else SPLITS


def _sort_by_document(golds: Mapping[str, str]) -> list[str]:
    """By document number, so that the first items of a group are the first of each of its leaves."""
    return sorted(golds, key=lambda item: int(item.rpartition("/")[2]))


def _stratify(golds: Mapping[str, str], *, task: str, seed: int) -> list[str]:
    by_leaf: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for item, gold in golds.items():
        by_leaf[item.rpartition("/")[0]][gold].append(item)

    leaves = {}
    for leaf, by_gold in by_leaf.items():
        shuffled = {gold: _shuffle(items, seed, "items", task, leaf, gold) for gold, items in by_gold.items()}
        leaves[leaf] = _interleave(shuffled, seed, "interleave", task, leaf)
    return _interleave(leaves, seed, "interleave", task)


def _shuffle(items: list[str], seed: int, *key: str) -> list[str]:
    raw = np.random.SFC64(derived_seed(seed, *key)).random_raw(len(items))
    return [items[index] for index in np.argsort(raw, kind="stable")]


def _interleave(strata: Mapping[str, list[str]], seed: int, *key: str) -> list[str]:
    """One list in which every run holds the strata in proportion: rank `r` of `n` takes the place `(r + u) / n`."""
    place: dict[str, float] = {}
    for name, members in strata.items():
        offset = float(np.random.SFC64(derived_seed(seed, *key, name)).random_raw()) / 2.0**64
        place.update({item: (rank + offset) / len(members) for rank, item in enumerate(members)})
    return sorted(place, key=lambda item: (place[item], item))


def _describe_groups(cut: Mapping[str, Sequence[str]], counts: Mapping[str, int], task: str) -> str | None:
    """The parts' sizes where equal rows move them. Raises :class:`EvaluationError` for an empty part."""
    sizes = {name: len(cut[name]) for name in SPLITS}
    if not all(sizes.values()):
        empty = next(name for name in SPLITS if not sizes[name])
        found = f"expected items to {empty} on, found none: too many are of equal rows, which stay together"
        raise EvaluationError(f"task '{task}'", found, "Lower `evaluate.items`, or drop the repeated rows.")
    if sizes == dict(counts):
        return None
    return f"equal rows stay together: {', '.join(f'{name} {size}' for name, size in sizes.items())}"


def join_notes(*notes: str | None) -> str | None:
    """Notes that there are, in one line; None for none."""
    return "; ".join(note for note in notes if note) or None


def _settle_counts(available: int, *, task: str, items: ItemsConfig, fixed: frozenset[str]) -> dict[str, int]:
    """Items of each split: as asked where they fit; otherwise what is not `fixed` shares the rest in proportion."""
    if items.search == "rest":
        return _settle_rest_of_search(available, task=task, items=items, fixed=fixed)
    wanted = {"search": items.search, "select": items.select}
    before_test = max(wanted.values()) if items.scheme == "first" else sum(wanted.values())
    rest = available - before_test
    least_test = items.test if isinstance(items.test, int) else (1 if fixed >= {"search", "select"} else items.search)
    if rest >= least_test:
        return {**wanted, "test": items.test if isinstance(items.test, int) else rest}
    if items.small == "even" and items.scheme == "disjoint" and not items.states_counts:
        return _grow_evenly(available, search=wanted["search"])
    if items.scheme == "first":
        return _share_first_items(available, task=task, items=items, fixed=fixed)
    # A `rest` that does not fit has no count of its own; it is as long as select, the other held-out part.
    weights = {**wanted, "test": items.test if isinstance(items.test, int) else items.select}
    return _share_items(available, weights, task=task, items=items, fixed=fixed)


def _grow_evenly(available: int, *, search: int) -> dict[str, int]:
    """Thirds until each part has `search` items; all further ones are for select, which has the most by default.

    No part of a larger task is smaller. What thirds leave goes to test, then to search.

    >>> _grow_evenly(100, search=100), _grow_evenly(350, search=100)
    ({'search': 33, 'select': 33, 'test': 34}, {'search': 100, 'select': 150, 'test': 100})
    """
    searched, tested = min((available + 1) // 3, search), min((available + 2) // 3, search)
    return {"search": searched, "select": available - searched - tested, "test": tested}


def _settle_rest_of_search(available: int, *, task: str, items: ItemsConfig, fixed: frozenset[str]) -> dict[str, int]:
    """As many search items as select and test leave; where that is too few, as many as there are select items."""
    assert isinstance(items.test, int)  # noqa: S101 - the file is refused otherwise; for the type checker
    rest = available - items.select - items.test
    if rest >= (1 if "select" in fixed else items.select):
        return {"search": rest, "select": items.select, "test": items.test}
    weights = {"search": items.select, "select": items.select, "test": items.test}
    return _share_items(available, weights, task=task, items=items, fixed=fixed)


def _share_items(
    available: int, weights: Mapping[str, int], *, task: str, items: ItemsConfig, fixed: frozenset[str]
) -> dict[str, int]:
    """Items in proportion to `weights` for what is not `fixed`."""
    shared = [name for name in SPLITS if name not in fixed]
    left = available - sum(weights[name] for name in fixed)
    if left < len(shared) or not shared:
        raise _explain_too_few(available, task=task, items=items)

    total = sum(weights[name] for name in shared)
    counts: dict[str, int] = {
        # One item each, and the others in proportion.
        name: weights[name] if name in fixed else 1 + (left - len(shared)) * weights[name] // total
        for name in SPLITS
    }
    counts[shared[-1]] = left - sum(counts[name] for name in shared[:-1])
    return counts


def _share_first_items(available: int, *, task: str, items: ItemsConfig, fixed: frozenset[str]) -> dict[str, int]:
    if fixed or items.search == "rest":
        raise _explain_too_few(available, task=task, items=items)
    before, after = max(items.search, items.select), items.select
    counts: dict[str, int] = {
        name: max(1, available * count // (before + after))
        for name, count in (("search", items.search), ("select", items.select))
    }
    return {**counts, "test": available - max(counts.values())}


def _explain_too_few(available: int, *, task: str, items: ItemsConfig) -> EvaluationError:
    wanted = f"search {items.search}, select {items.select}, test {items.test}"
    return EvaluationError(
        f"task '{task}'",
        f"asked for {wanted} items ({items.scheme}), but it has {available}",
        "Lower `evaluate.items`, or leave its counts out to split small tasks in proportion.",
    )


def _describe_counts(available: int, counts: Mapping[str, int], items: ItemsConfig) -> str | None:
    if all(getattr(items, name) in ("rest", counts[name]) for name in SPLITS):
        return None
    sizes = ", ".join(f"{name} {counts[name]}" for name in SPLITS)
    if items.small == "even" and items.scheme == "disjoint" and not items.states_counts:
        return f"only {available} items, fewer than the default counts need: {sizes}"
    return f"only {available} items, so they are split in proportion: {sizes}"
