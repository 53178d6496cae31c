"""Hashes of what decides a task's scores besides the model: requests, documents and the code that scores."""

from __future__ import annotations

import ast
import hashlib
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from inspect import unwrap
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from aftermix.evaluation.documents.canonical import digest_documents, encode_document
from aftermix.evaluation.documents.generators import own_generators
from aftermix.evaluation.loading import BUILT_IN
from aftermix.evaluation.requests import LeafRequests, compile_templates_once
from aftermix.evaluation.scoring.metrics import TaskMetric

INSTALLED = tuple(Path(sysconfig.get_path(kind)).resolve() for kind in ("stdlib", "purelib", "platlib"))
"""Folders of code that is no task's own; `versions` of the lock tells of it."""


@dataclass(frozen=True)
class TaskFingerprint:
    """Hashes of one task, as `sha256:HEX`. Scores of equal fingerprints are of the same task."""

    requests: str
    """Of contexts with their few-shot text, continuations, targets and generation options of all items in order, and
    of the code that turns answers into scores."""
    documents: str
    """Of the documents of all items in order, as the task's own code sees them."""


def fingerprint_task(parts: Sequence[LeafRequests], metric: TaskMetric) -> TaskFingerprint:
    """Hash the requests of all splits of one task, in order, and the documents that they are of.

    `metric`, with all that it says of how items become the score, is hashed with the requests.
    """
    requests = hashlib.sha256(encode_document(asdict(metric)) + b"\n")
    with compile_templates_once(), own_generators():
        for part in parts:
            for item, group in zip(part.items, part.instances, strict=True):
                asked = [[request.request_type, request.args, request.repeats] for request in group]
                target = part.leaf.doc_to_target(group[0].doc)
                requests.update(encode_document([item, asked, target]) + b"\n")
        documents = digest_documents(group[0].doc for part in parts for group in part.instances)

    for leaf in {id(part.leaf): part.leaf for part in parts}.values():
        requests.update(encode_document([leaf.get_config("task"), _list_settings(leaf), _list_code(leaf)]) + b"\n")
    return TaskFingerprint(f"sha256:{requests.hexdigest()}", documents)


def _list_settings(leaf: Any) -> list[Any]:
    """Metrics and filters as the task's YAML has them."""
    return [leaf.get_config("metric_list"), leaf.get_config("filter_list")]


def _list_code(leaf: Any) -> list[tuple[str, str]]:
    """Name and content of every file of the task's own code that scoring may run: of its functions, and what they use.

    Comments and layout do not count.
    """
    found: dict[Path, str] = {}
    waiting = [values for function in _list_functions(leaf) for values in _list_globals(function)]
    while waiting:
        values = waiting.pop()
        path = Path(values.get("__file__") or "").resolve()
        if path.suffix != ".py" or path in found or not _is_own_code(path):
            continue
        found[path] = _read_code(path)
        waiting += [more for value in list(values.values()) for more in _list_globals(value)]
    return sorted((path.name, code) for path, code in found.items())


def _list_functions(leaf: Any) -> Iterator[Any]:
    """Functions and classes that score: `process_results`, metrics, aggregations, filters and their own options."""
    yield leaf.get_config("process_results")
    yield from leaf._metric_fn_list.values()
    yield from leaf._aggregation_list.values()
    yield from _find_callables([leaf.get_config("metric_list"), leaf.get_config("filter_list")])
    for ensemble in leaf._filters:
        for step in ensemble.filters:
            yield getattr(step, "func", step)


def _find_callables(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for part in value:
            yield from _find_callables(part)
    elif callable(value):
        yield value


def _list_globals(value: Any) -> list[dict[str, Any]]:
    """Namespaces of the modules that `value` is, or comes from."""
    if isinstance(value, ModuleType):
        return [vars(value)]
    if isinstance(value, type):
        module = sys.modules.get(value.__module__)
        own = [part for part in vars(value).values() if isinstance(part, FunctionType)]
        return [unwrap(part).__globals__ for part in own] or ([vars(module)] if module else [])
    function = unwrap(value) if callable(value) else None
    function = getattr(function, "__func__", function)
    return [function.__globals__] if isinstance(function, FunctionType) else []


def _is_own_code(path: Path) -> bool:
    """Say if `path` is a task's: beside its YAML, or among lm-eval's own tasks."""
    return BUILT_IN.resolve() in path.parents or not any(folder in path.parents for folder in INSTALLED)


def _read_code(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
    try:
        return ast.unparse(ast.parse(text))
    except SyntaxError:
        return text


def hash_texts(texts: Iterable[bytes]) -> str:
    """`sha256:HEX` of texts in order."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(len(text).to_bytes(8, "little") + text)
    return f"sha256:{digest.hexdigest()}"
