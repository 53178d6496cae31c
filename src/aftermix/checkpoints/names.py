"""Names of tensors: patterns that select them, kinds of them across families, and tensors that have several names."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from aftermix.errors import ConfigError, ask_meant

KINDS: Mapping[str, str] = {
    "embeddings": r"(^|\.)(embed_tokens\w*|tok_embeddings|token_embedding|word_embeddings|token_type_embeddings?"
    r"|wte|embed_in|patch_embed\w*|(cls|class|mask)_(token|embedding))(\.|$)|(^|\.)(embeddings|shared)\.weight$",
    "head": r"(^|\.)(lm_head|embed_out|final_logits_bias)(\.|$)|^(head|proj_out|score|classifier|cls)\."
    r"|^decoder\.(weight|bias)$",
    "positions": r"(^|\.)(embed_positions|position_embeddings?|positional_embedding\w*|pos_embed|wpe|rotary\w*"
    r"|relative_attention_bias)(\.|$)",
}
"""Names of whole parts, over the families of `transformers`, by what the tensor is for."""

EMBEDDINGS = (
    "embed_tokens.weight",
    "tok_embeddings.weight",
    "word_embeddings.weight",
    "wte.weight",
    "embed_in.weight",
    ".embeddings.weight",
    "shared.weight",
)
"""Ends of the name of the matrix that turns tokens into vectors."""
HEADS = (
    "lm_head.weight",
    "embed_out.weight",
    "proj_out.weight",
    "lm_head.decoder.weight",
    "cls.predictions.decoder.weight",
)
"""Ends of the name of a head, which may be that matrix under a second name."""
UNUSUAL_HEADS = {
    "embed_in.weight": "embed_out.weight",
    "cls.predictions.bias": "cls.predictions.decoder.weight",
    "lm_head.dense.weight": "lm_head.decoder.weight",
    "embeddings.tok_embeddings.weight": "decoder.weight",
    "model.encoder.conv1.weight": "proj_out.weight",
}
"""Name of a head that is not stored, by the end of a stored name which shows that it is not `lm_head`."""
SHARED = "shared.weight"
EMBEDDING_BY_LAYERS = {
    "transformer.h.": "transformer.wte.weight",
    "gpt_neox.layers.": "gpt_neox.embed_in.weight",
    "model.decoder.layers.": "model.decoder.embed_tokens.weight",
    "model.layers.": "model.embed_tokens.weight",
}
"""Name of the embedding by what the names of layers hold, for models that store it as their head alone."""
COPIES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
"""Further names of :data:`SHARED`, the embedding that the two halves of a model have in common."""

LAYER_COUNTS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
"""Keys of the number of layers in the configuration of a language model."""

COMPUTED = re.compile(
    r"(^|\.)(\w*inv_freq|(cos|sin|cos_sin)(_cached?)?|freqs_(cis|cos|sin)|(rope|rotary\w*)\.freqs|masked_bias|causal_mask"
    r"|attn_mask|position_ids|token_type_ids|relative_position_index|num_batches_tracked)$"
)
CAUSAL_MASK = re.compile(r"(^|\.)(attn|attention)\.bias$")


def build_matcher(patterns: Sequence[str], *, where: str) -> Callable[[str], bool]:
    """A test whether a tensor name is meant by one of `patterns`.

    A pattern is a part of the name (`lm_head`), a shell glob over the whole name when it holds `*`, `?` or `[`
    (`model.layers.0.*`), `re:` and a regular expression that is searched for, or `kind:` and one of :data:`KINDS`.

    >>> excluded = build_matcher(["embed_tokens", "*.layers.0.*", r"re:norm\\.weight$"], where="merge.exclude")
    >>> [excluded(name) for name in ("model.embed_tokens.weight", "model.layers.0.mlp.weight", "model.layers.10.mlp")]
    [True, True, False]
    >>> positions = build_matcher(["kind:positions"], where="merge.exclude")
    >>> [positions(name) for name in ("transformer.wpe.weight", "h.0.rotary_emb.inv_freq", "h.0.ln_1.weight")]
    [True, True, False]
    """
    tests = [_build_single_matcher(pattern, where) for pattern in patterns]
    return lambda name: any(test(name) for test in tests)


def _build_single_matcher(pattern: str, where: str) -> Callable[[str], bool]:
    if not pattern.strip():
        raise ConfigError(where, "an empty pattern would match every tensor", "Remove it, or write `*`.")

    if pattern.startswith("kind:"):
        return _compile_search(_look_up_kind(pattern.removeprefix("kind:"), where))
    if pattern.startswith("re:"):
        from aftermix.checkpoints.expressions import build_searcher  # what few recipes need, and a library for it

        return build_searcher(pattern.removeprefix("re:"), where=where)

    if any(character in pattern for character in "*?["):
        return _compile_glob(pattern, where)
    return lambda name: pattern in name


def _compile_glob(pattern: str, where: str) -> Callable[[str], bool]:
    try:
        glob = re.compile(fnmatch.translate(pattern))
    except (re.error, RecursionError) as error:
        raise ConfigError(where, f"'{pattern}' is no glob ({error})", "Correct it.") from error
    return lambda name: glob.match(name) is not None


def _look_up_kind(kind: str, where: str) -> str:
    if kind not in KINDS:
        raise ConfigError(
            where, f"there is no kind '{kind}' of tensors", ask_meant(f"There are: {', '.join(KINDS)}.", kind, KINDS)
        )
    return KINDS[kind]


def _compile_search(expression: str) -> Callable[[str], bool]:
    compiled = re.compile(expression)
    return lambda name: compiled.search(name) is not None


def find_tied_head(names: Iterable[str], config: dict[str, Any]) -> dict[str, str]:
    """`{second name: name}` of the embedding that has several names, whether or not the checkpoint stores the second.

    The head is one of them when the configuration ties it, or when it is silent and no head is stored. The two halves
    of an encoder-decoder share their embedding in any case. A file may store the matrix as the head alone: then the
    embedding is the second name.

    >>> find_tied_head(["model.embed_tokens.weight", "model.norm.weight"], {"tie_word_embeddings": True})
    {'lm_head.weight': 'model.embed_tokens.weight'}
    >>> find_tied_head(["model.embed_tokens.weight", "lm_head.weight"], {})
    {}
    >>> find_tied_head(["lm_head.weight", "model.layers.0.mlp.up_proj.weight"], {"tie_word_embeddings": True})
    {'model.embed_tokens.weight': 'lm_head.weight'}
    >>> sorted(find_tied_head(["shared.weight", "lm_head.weight"], {"tie_word_embeddings": False}))
    ['decoder.embed_tokens.weight', 'encoder.embed_tokens.weight']
    """
    known = set(names)
    copies = {
        name.removesuffix(SHARED) + copy: name for name in known if f".{name}".endswith(f".{SHARED}") for copy in COPIES
    }
    originals = [name for name in known if name.endswith(EMBEDDINGS) and name not in copies]
    guessed = {_guess_head_name(name, known) for name in originals}
    heads = sorted(name for name in known if name.endswith(HEADS) or name in guessed)
    if not originals and len(heads) == 1:
        return _find_tied_embedding(heads[0], known, config)
    if len(originals) != 1:
        return {}

    tied = is_tied(config, default=not heads)
    if not tied:
        return copies
    return copies | dict.fromkeys(heads or [_guess_head_name(originals[0], known)], originals[0])


def is_tied(config: dict[str, Any], *, default: bool = True) -> bool:
    """Tell whether `config` ties the head to the embedding; `default` where it is silent."""
    return bool(config.get("tie_word_embeddings", select_text_config(config).get("tie_word_embeddings", default)))


def _find_tied_embedding(head: str, known: Iterable[str], config: dict[str, Any]) -> dict[str, str]:
    """`{embedding: head}` of a model that stores its tied matrix as the head."""
    if not is_tied(config):
        return {}
    for mark, embedding in EMBEDDING_BY_LAYERS.items():
        outer = next((name.partition(mark)[0] for name in known if f".{name}".find(f".{mark}") >= 0), None)
        if outer is not None:
            return {f"{outer}{embedding}": head}
    return {}


def _guess_head_name(embedding: str, known: Iterable[str]) -> str:
    """The name under which `transformers` would store the head."""
    for sign, head in UNUSUAL_HEADS.items():
        if any(name.endswith(sign) for name in known):
            return head
    outer, inner, _ = f".{embedding}".rpartition(".model.embed_tokens.weight")
    return f"{outer}.lm_head.weight".removeprefix(".") if inner else "lm_head.weight"


def select_text_config(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration of the language model: a part of a multimodal one, or all of it."""
    nested = config.get("text_config")
    return nested if isinstance(nested, dict) else config


def count_layers(text: Mapping[str, Any]) -> int | None:
    """Number of layers in the configuration of a language model; None where it says none."""
    return next((text[key] for key in LAYER_COUNTS if type(text.get(key)) is int), None)


def is_computed(name: str, shape: tuple[int, ...]) -> bool:
    """Tell whether a model computes this tensor for itself: frequencies, positions, masks and counters of batches.

    One file may store it, and another leave it out.

    >>> is_computed("gpt_neox.layers.0.attention.bias", (1, 1, 2048, 2048)), is_computed("h.0.attn.bias", (768,))
    (True, False)
    """
    return COMPUTED.search(name) is not None or (CAUSAL_MASK.search(name) is not None and shape[:-2] == (1, 1))
