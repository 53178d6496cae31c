"""Names of tensors: patterns that select them, and heads that are embeddings under a second name."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from aftermix.errors import ConfigError

HEADS = ("lm_head.weight", "embed_out.weight")
EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight")


def matcher(patterns: Sequence[str], *, where: str) -> Callable[[str], bool]:
    """A test whether a tensor name is meant by one of `patterns`.

    A pattern is a part of the name (`lm_head`), a shell glob over the whole name when it holds `*`, `?` or `[`
    (`model.layers.0.*`), or `re:` and a regular expression that is searched for.

    >>> excluded = matcher(["embed_tokens", "*.layers.0.*", r"re:norm\\.weight$"], where="merge.exclude")
    >>> [excluded(name) for name in ("model.embed_tokens.weight", "model.layers.0.mlp.weight", "model.layers.10.mlp")]
    [True, True, False]
    """
    tests = [_single_matcher(pattern, where) for pattern in patterns]
    return lambda name: any(test(name) for test in tests)


def _single_matcher(pattern: str, where: str) -> Callable[[str], bool]:
    if not pattern.strip():
        raise ConfigError(where, "an empty pattern would match every tensor", "Remove it, or write `*`.")
    try:
        if pattern.startswith("re:"):
            expression = re.compile(pattern[3:])
            return lambda name: expression.search(name) is not None
        if any(character in pattern for character in "*?["):
            glob = re.compile(fnmatch.translate(pattern))
            return lambda name: glob.match(name) is not None
    except re.error as error:
        raise ConfigError(where, f"'{pattern}' is no regular expression ({error})", "Correct it.") from error
    return lambda name: pattern in name


def tied_head(names: Iterable[str], config: dict[str, Any]) -> dict[str, str]:
    """`{head: embedding}` when the configuration ties them, or when it is silent and no head is stored.

    >>> tied_head(["model.embed_tokens.weight", "model.norm.weight"], {"tie_word_embeddings": True})
    {'lm_head.weight': 'model.embed_tokens.weight'}
    >>> tied_head(["model.embed_tokens.weight", "lm_head.weight"], {})
    {}
    """
    known = set(names)
    embeddings = sorted(name for name in known if name.endswith(EMBEDDINGS))
    stored_heads = sorted(name for name in known if name.endswith(HEADS))
    text_config = config.get("text_config")
    nested = text_config if isinstance(text_config, dict) else {}
    tied = config.get("tie_word_embeddings", nested.get("tie_word_embeddings", not stored_heads))
    if not tied or len(embeddings) != 1:
        return {}
    return dict.fromkeys(stored_heads or ["lm_head.weight"], embeddings[0])
