"""Documents as bytes: the same for the same content, whatever the machine, the order of keys and the cache."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

import numpy as np


def encode_document(document: Any) -> bytes:
    """Canonical JSON of `document`: keys sorted, no spaces, other values than JSON's by their content.

    >>> encode_document({"b": 1, "a": "日"}) == encode_document({"a": "日", "b": 1})
    True
    """
    text = json.dumps(
        document, sort_keys=True, default=_describe_value, ensure_ascii=False, separators=(",", ":"), skipkeys=True
    )
    return text.encode("utf-8", "surrogatepass")


def hash_document(document: Any) -> bytes:
    """16 bytes that tell documents apart."""
    return hashlib.blake2b(encode_document(document), digest_size=16).digest()


def digest_documents(documents: Iterable[Any]) -> str:
    """`sha256:HEX` of `documents` in order."""
    digest = hashlib.sha256()
    for document in documents:
        digest.update(encode_document(document) + b"\n")
    return f"sha256:{digest.hexdigest()}"


def drop_nulls(value: Any) -> Any:
    """`value` without null entries of objects, at any depth: storage in columns fills them in for absent ones.

    >>> drop_nulls({"a": 1, "b": None, "c": [{"d": None}]})
    {'a': 1, 'c': [{}]}
    """
    if isinstance(value, dict):
        return {key: drop_nulls(part) for key, part in value.items() if part is not None}
    return [drop_nulls(part) for part in value] if isinstance(value, list) else value


def _describe_value(value: Any) -> Any:
    """Stand-in for a value that JSON does not have. A text that names an address in memory would differ each time."""
    if isinstance(value, bytes):
        return {"bytes": hashlib.sha256(value).hexdigest()}
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if hasattr(value, "tobytes"):  # an image
        return {"bytes": hashlib.sha256(value.tobytes()).hexdigest()}
    if callable(value) or f"{id(value):x}" in repr(value):
        return str(getattr(value, "__qualname__", type(value).__qualname__))
    return str(value)
