"""Models that name the same tensors under other prefixes: a multimodal wrapper and its text model, old and new exports.

The map is the user's, `{expert's prefix: base's prefix}`; nothing is renamed without it. :func:`propose_prefixes`
finds the map that an error message can offer.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch

from aftermix.checkpoints.alignment.families.settings import find_part
from aftermix.checkpoints.alignment.fused import is_expert_part
from aftermix.checkpoints.alignment.tokens import is_embedding, is_head
from aftermix.checkpoints.alignment.view import BlockReader, ModelView, summarise_names
from aftermix.checkpoints.model import Model, Span, TensorInfo
from aftermix.errors import Problem, join_place, refuse_if_any

Prefixes = Mapping[str, str]
MOST_NAMES = 5000
"""Names that are searched for a map; the time grows with their square."""


@dataclass(frozen=True)
class PrefixView(ModelView):
    """An expert under the base's names; base tensors outside of the mapped subtree pass through."""

    source: Mapping[str, str]
    """The expert's name by the base's; what is missing here passes through from the base."""

    def differs(self, name: str) -> bool:
        """Tell whether the expert has this tensor."""
        return name in self.source

    def gather(self, name: str, span: Span, *, read: BlockReader, absent: BlockReader) -> torch.Tensor:
        """Elements `span` under the expert's own name, or the base's."""
        return read(self.source[name], span) if name in self.source else absent(name, span)


def map_name(name: str, prefixes: Prefixes) -> str:
    """`name` with its longest mapped prefix replaced; a name under none stays.

    >>> map_name("model.norm.weight", {"model.": "model.language_model."})
    'model.language_model.norm.weight'
    """
    key = _find_key(name, prefixes)
    return name if key is None else prefixes[key] + name.removeprefix(key)


def build_prefix_view(base: Model, expert: Model, prefixes: Prefixes, *, vector: str) -> PrefixView:
    """`expert` under the names of `base`.

    A tensor under no mapped prefix is matched under its own name, and ignored (and listed) when the base has none of
    that name. A base tensor under none of the mapped targets passes through (and is listed). Inside the mapped
    subtree the names are compared afterwards, as those of any expert. Raises :class:`ManyProblemsError` for a map that
    does not fit the two.
    """
    targets = {name: map_name(name, prefixes) for name in expert.tensors}
    ignored = [name for name, target in targets.items() if _find_key(name, prefixes) is None and not base.has(target)]
    source = {target: name for name, target in targets.items() if name not in set(ignored)}
    refuse_if_any(list(_find_faults(base, expert, prefixes, targets=targets, ignored=ignored, vector=vector)))

    alias = _map_ties(base, expert, prefixes, source)
    passed = [
        name
        for name in base.tensors
        if name not in source and name not in alias and not name.startswith(tuple(prefixes.values()))
    ]

    tensors = {target: replace(expert.info(name), name=target) for target, name in source.items()}
    tensors |= {name: base.tensors[name] for name in passed}
    notes = _describe_map(prefixes, list(targets), ignored=ignored, passed=passed)
    return PrefixView(expert, base, dict(sorted(tensors.items())), alias, notes, source)


def restore_own_names(base: Model, prefixes: Prefixes) -> PrefixView:
    """`base` under the names that `prefixes` maps from: what an adapter is read against that has those names.

    Only the mapped subtree and the head are seen, and no tensor that such a name would not lead back to.
    """
    back = {value: key for key, value in prefixes.items()}
    visible = [name for name in base.tensors if is_head(name) or _find_key(name, back) is not None]
    source = {map_name(name, back): name for name in visible}
    source = {own: name for own, name in source.items() if map_name(own, prefixes) == name}

    tensors = {own: replace(base.tensors[name], name=own) for own, name in source.items()}
    alias = {map_name(head, back): map_name(name, back) for head, name in base.alias.items()}
    alias = {head: name for head, name in alias.items() if name in source}
    return PrefixView(base, base, dict(sorted(tensors.items())), alias, (), source)


def propose_prefixes(base: Model, expert: Model) -> dict[str, str] | None:
    """The map under which every tensor of `expert` that is not in `base` by name finds its counterpart, if one does.

    Where the names agree and one of the two has a part of its own (a vision tower), the other part is mapped to itself.
    Prefixes end at dots; counterparts have the same shape but for the rows of embeddings. None where two maps would do,
    where none does, where no embedding is matched, and where it is matched as it is and single matrices are not. Left
    out of the comparison are experts stored in another layout, and what a model computes for itself, which one file
    stores and another leaves out.
    """
    theirs, ours = (
        {name: info for name, info in model.tensors.items() if not (is_expert_part(name) or info.computed)}
        for model in (expert, base)
    )
    unmatched = {name: info for name, info in theirs.items() if name not in ours}
    free = {name: info for name, info in ours.items() if name not in theirs}
    if len(unmatched) > MOST_NAMES or len(free) > MOST_NAMES:
        return None

    # Each round takes the prefix that covers most names, as long as there is one.
    prefixes: dict[str, str] = {}
    while unmatched and free:
        pairs = next(filter(None, (_find_pairs(name, unmatched, free) for name in unmatched)), None)
        if pairs is None:
            break
        if len({map_name(name, {key: value}) for name, key, value, _ in pairs}) > 1:
            return None

        _, key, value, covered = max(pairs, key=lambda pair: (len(pair[3]), len(pair[1])))
        prefixes[key] = value
        free = {name: info for name, info in free.items() if name not in {map_name(n, {key: value}) for n in covered}}
        unmatched = {name: info for name, info in unmatched.items() if name not in covered}

    matched = {map_name(name, prefixes) for name in theirs}
    embedding = next((name for name in ours if is_embedding(name) and name in matched), None)
    if find_part(base.config, expert.config) not in (None, "text_config"):  # a tower reads no tokens
        return (prefixes or _map_common_part(theirs)) if matched <= ours.keys() else None
    if embedding is None:
        return None

    # Two single matrices of one size under equal embeddings are two things, a pooler and a head for example.
    if embedding in theirs and not all(_moves_layers(key, theirs) for key in prefixes):
        return None

    # Alike inside and unlike outside: a map of a prefix to itself says which part is compared.
    parent = embedding[: embedding.rfind(".", 0, embedding.rfind(".")) + 1]
    return prefixes or ({parent: parent} if parent else None)


def _map_common_part(names: Iterable[str]) -> dict[str, str] | None:
    """The first part that all `names` have in common, mapped to itself."""
    parts = {name.partition(".")[0] for name in names}
    part = f"{next(iter(parts))}." if len(parts) == 1 else ""
    return {part: part} if part else None


def _find_pairs(
    name: str, unmatched: Mapping[str, TensorInfo], free: Mapping[str, TensorInfo]
) -> list[tuple[str, str, str, list[str]]]:
    """Every (prefix, target) that takes `name` and all other names with that prefix to a free counterpart.

    Prefixes end before the first number: layers keep theirs.
    """
    pairs = []
    parts = name.split(".")
    for length in range(2, len(parts) + 1):
        suffix = ".".join(parts[-length:])
        key = name.removesuffix(suffix)
        if _holds_number(key):
            continue
        covered = [other for other in unmatched if other.startswith(key)]

        for target in free:
            value = target.removesuffix(suffix)
            if (
                value != target
                and not _holds_number(value)
                and (not value or value.endswith("."))
                and _fit(covered, key, value, unmatched, free)
            ):
                pairs.append((name, key, value, covered))
    return pairs


def _moves_layers(key: str, names: Iterable[str]) -> bool:
    return any(name.startswith(key) and _holds_number(name) for name in names)


def _holds_number(prefix: str) -> bool:
    return any(part.isdigit() for part in prefix.split("."))


def _fit(
    names: list[str], key: str, value: str, unmatched: Mapping[str, TensorInfo], free: Mapping[str, TensorInfo]
) -> bool:
    for name in names:
        target = free.get(value + name.removeprefix(key))
        if target is None or not _same_shape(
            unmatched[name].shape, target.shape, rows=is_embedding(name) or is_head(name)
        ):
            return False
    return True


def _same_shape(ours: tuple[int, ...], theirs: tuple[int, ...], *, rows: bool) -> bool:
    return (ours[1:] == theirs[1:] and len(ours) == len(theirs)) if rows else ours == theirs


def _find_key(name: str, prefixes: Prefixes) -> str | None:
    return max((key for key in prefixes if name.startswith(key)), key=len, default=None)


def _map_ties(base: Model, expert: Model, prefixes: Prefixes, source: Mapping[str, str]) -> dict[str, str]:
    """Ties of the expert under the base's names: a head that it does not store has the base's name for the head."""
    alias: dict[str, str] = {}
    for head, embedding in expert.alias.items():
        target = map_name(embedding, prefixes)
        known = [map_name(head, prefixes)] if head in expert.tensors else []
        known += [name for name, tied in base.alias.items() if tied == target]
        known += [name for name in base.tensors if is_head(name) and name not in source]
        alias |= {name: target for name in known if base.has(name)}
    return alias


def _find_faults(
    base: Model, expert: Model, prefixes: Prefixes, *, targets: Mapping[str, str], ignored: list[str], vector: str
) -> Iterator[Problem]:
    where = join_place("vectors", vector, "prefix")
    for key, value in prefixes.items():
        if not any(_find_key(name, prefixes) == key for name in expert.tensors):
            found = f"no tensor of vector '{vector}' begins with '{key}'" + _list_beginnings(expert)
            yield Problem(where, found, "Correct the left side.")
        if not any(name.startswith(value) for name in base.tensors):
            found = f"no tensor of the base begins with '{value}'" + _list_beginnings(base)
            yield Problem(where, found, "Correct the right side.")

    for name in ignored:
        # Without its head or embedding, a model would silently speak with the base's.
        if (is_head(name) or is_embedding(name)) and name not in expert.alias:
            found = f"leaves '{name}' of vector '{vector}' without a place in the base"
            yield Problem(where, found, f"Add a line for '{name.rpartition('.')[0]}.'.")

    name_by_target: dict[str, str] = {}
    for name, target in targets.items():
        if target in name_by_target:
            found = f"gives '{name_by_target[target]}' and '{name}' of vector '{vector}' the same name '{target}'"
            yield Problem(where, found, "Map them apart.")
        name_by_target[target] = name


def _list_beginnings(model: Model) -> str:
    first = sorted({".".join(name.split(".")[:2]) for name in model.tensors})
    return f"; its names begin with {', '.join(first[:6])}" + (", ..." if len(first) > 6 else "")


def _describe_map(prefixes: Prefixes, names: list[str], *, ignored: list[str], passed: list[str]) -> tuple[str, ...]:
    notes = []
    for key, value in prefixes.items():
        count = sum(_find_key(name, prefixes) == key for name in names)
        notes.append(f"maps prefix {key or '(none)'} -> {value or '(none)'} ({count} tensors)")

    if ignored:
        notes.append(f"is not used where the base has no such tensor: {summarise_names(ignored)}")
    if passed:
        notes.append(f"has nothing for, so that they pass through from the base: {summarise_names(passed)}")
    return tuple(notes)


def format_yaml_map(prefixes: Prefixes) -> str:
    """A map as it is written in the YAML file, on one line.

    >>> format_yaml_map({"model.": "model.language_model."})
    '{"model.": "model.language_model."}'
    """
    return json.dumps(dict(prefixes))
