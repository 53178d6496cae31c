"""Log-likelihoods by a plan over a prefix tree, and the question which models may be run so.

B rows, T tokens, K kept positions, P cached tokens, S scored nodes, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar, cast

import torch
from transformers import DynamicCache

from aftermix.evaluation.blocks.scored_passes import PassAnswers, score_passes
from aftermix.evaluation.engines.batches import answer_targets, build_scoring_plan, score_plan
from aftermix.evaluation.engines.prefix_tree import Pair
from aftermix.evaluation.engines.tree_plan import TreeBatch, TreePlan, TreeStage, build_tree_plan

PROBE_LENGTH = 48
"""Longest sequence of the probe, where the model's own length is no less."""
PROBE_ROWS = 3
"""Its batch size: its rows are then too many for one pass, and their beginning is cached."""
CONTINUATIONS = 4
"""Of each context of the probe; one of them is scored by itself, too."""
SHARE_OF_EFFECT = 0.05
"""Part of another context's effect on a log-likelihood by which the probe may differ."""
NEEDED = ("attention_mask", "position_ids", "past_key_values", "use_cache")
WINDOWS = ("sliding_window", "attention_chunk_size")
ROW_WINDOWS = ("window_size", "keep_window_size")
"""Windows of attention over places in a row, where packed sequences lie apart: GPT-Neo's, and Doge's by number."""
Item = TypeVar("Item")


@dataclass(frozen=True)
class TreeScorer:
    """A live causal language model that is run on plans over prefix trees."""

    model: Any
    keeps_logits: bool
    """True where it takes `logits_to_keep`."""

    def score(self, plan: TreePlan, *, engine: str = "") -> list[tuple[float, bool]]:
        """For each request the log-likelihood of its continuation, and whether greedy decoding would give it.

        Log-softmax in float32, summed in float64, as :func:`~.batches.score_plan` does.
        """
        return score_passes(plan, partial(self._run_passes, plan), engine=engine)

    def _run_passes(self, plan: TreePlan, wanted: Sequence[bool]) -> Iterator[PassAnswers]:
        return self._run_stage(plan.root, None, deque(wanted))

    def _run_stage(self, stage: TreeStage, above: DynamicCache | None, wanted: deque[bool]) -> Iterator[PassAnswers]:
        """Answers of the wanted passes of a stage, which come next in `wanted`; a beginning is run for those below."""
        own = [wanted.popleft() for _ in range(stage.count_passes())]
        if not any(own):
            return

        cache, left = above, deque(own)
        if stage.beginning is not None:
            cache = repeat_cache(above, 1)
            answers = self._run_batch(stage.beginning, cache, grow=True)
            if left.popleft():
                yield answers
        for batch in stage.batches:
            if left.popleft():
                yield self._run_batch(batch, repeat_cache(cache, len(batch.tokens_BT)) if cache is not None else None)
        for deeper in stage.stages:
            yield from self._run_stage(deeper, cache, left)

    def _run_batch(self, batch: TreeBatch, cache: DynamicCache | None, *, grow: bool = False) -> PassAnswers:
        """Answers for the batch's targets; with `grow`, `cache` takes its tokens."""
        cached = cache.get_seq_length() if cache is not None else 0
        options: dict[str, Any] = {"logits_to_keep": batch.kept} if self.keeps_logits else {}
        with gather_before_head(self.model, batch) as gathered:
            logits = self.model(
                batch.tokens_BT,
                attention_mask=batch.build_mask(cached, self.model.dtype),
                position_ids=batch.positions_BT,
                past_key_values=cache,
                use_cache=cache is not None or grow,
                **options,
            ).logits

        logits_SV = logits[0] if gathered.is_done else batch.select_scored(logits)
        return answer_targets(logits_SV, batch.entry_Q, batch.target_Q)


@dataclass
class HeadGather:
    """Note of the tokens that a pass gives to the head of its model."""

    is_done: bool = False
    """True where it was the scored nodes alone."""


@contextmanager
def gather_before_head(model: Any, batch: TreeBatch) -> Iterator[HeadGather]:
    """Within the block the model's head gets the S scored nodes of `batch` as (1, S) in place of all kept positions.

    A head that is no module of its own, or is given anything else, is left as it is.
    """
    head, gathered = model.get_output_embeddings(), HeadGather()
    rows, length = batch.tokens_BT.shape

    def gather(_head: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        hidden = inputs[0] if inputs else None
        if not isinstance(hidden, torch.Tensor) or hidden.shape[:-1] not in ((rows, batch.kept), (rows, length)):
            return None
        gathered.is_done = True
        return (batch.select_scored(hidden)[None], *inputs[1:])

    handle = head.register_forward_pre_hook(gather) if isinstance(head, torch.nn.Module) else None
    try:
        yield gathered
    finally:
        if handle is not None:
            handle.remove()


def repeat_cache(cache: DynamicCache | None, rows: int) -> DynamicCache:
    """A cache of its own that begins as `cache`, of one row, in each of `rows` rows."""
    layers: Any = cache.layers if cache is not None else []
    held = [(layer.keys.expand(rows, -1, -1, -1), layer.values.expand(rows, -1, -1, -1)) for layer in layers]
    return DynamicCache(held)


def find_reason_against_trees(model: Any, *, max_length: int) -> str | None:
    """Words on why `model` cannot be run on trees: by its signature, its configuration, and a probe of few tokens.

    None where it can.

    The probe scores continuations of made-up tokens by a tree, with a cached beginning, and one of each context by
    itself: they may differ by rounding, which is little beside what another context changes. A model without weights
    is believed.
    """
    accepted = inspect.signature(model.forward).parameters
    missing = [name for name in NEEDED if name not in accepted]
    if missing:
        return f"its forward pass takes no {missing[0]}"
    if any(getattr(model.config.get_text_config(), name, None) for name in ROW_WINDOWS):
        return "its window of attention counts places in a row"
    if model.device.type == "meta":
        return None

    length = min(PROBE_LENGTH, max_length)
    vocabulary = int(model.get_input_embeddings().weight.shape[0])
    pairs, other = (_make_pairs(vocabulary, length=length, shift=shift) for shift in (0, 1))
    plan = build_tree_plan(pairs, batch_size=PROBE_ROWS, max_length=length, device=model.device)
    try:
        with torch.inference_mode():
            scorer = TreeScorer(model, "logits_to_keep" in accepted)
            packed = _choose_one_of_each(scorer.score(plan))
            alone, changed = (_score_alone(scorer, _choose_one_of_each(each), length=length) for each in (pairs, other))
    except Exception as error:  # whatever the model's own code makes of a mask and a cache
        return f"it cannot be run with a mask and a cache of ours ({type(error).__name__})"

    effect = max(abs(a - b) for a, b in zip(alone, changed, strict=True))
    difference = max(abs(a - b) for (a, _), b in zip(packed, alone, strict=True))
    return None if difference <= SHARE_OF_EFFECT * effect else "its tokens do not see those above them alone"


def find_window(config: Any) -> int | None:
    """Tokens up to which attention is the same for every layer of a model of this configuration; None without limit.

    Beyond it a layer sees a window or a chunk, or the rotation of positions changes with the length.
    """
    text = config.get_text_config()
    kinds = getattr(text, "layer_types", None)
    windows = [getattr(text, name, None) for name in WINDOWS]
    limits = [int(window) for window in windows if window and (kinds is None or set(kinds) != {"full_attention"})]

    rope: Any = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}
    entries = [rope, *(value for value in rope.values() if isinstance(value, Mapping))]
    limits += [
        int(entry.get("original_max_position_embeddings") or text.max_position_embeddings)
        for entry in entries
        if entry.get("rope_type", entry.get("type")) in ("dynamic", "longrope")
    ]
    return min(limits, default=None)


def _make_pairs(vocabulary: int, *, length: int, shift: int) -> list[Pair]:
    """Two beginnings, of the usual length long enough to be cached, each with contexts that have several continuations.

    `shift` exchanges all tokens of the contexts.
    """

    def choose(number: int) -> int:
        return (7919 * number + 11) % vocabulary

    pairs: list[Pair] = []
    for beginning in range(2):
        start = [choose(100 * beginning + n + shift) for n in range(max(1, length - 10))]
        for context in range(12):
            middle = [*start, choose(500 + 40 * beginning + context + shift), choose(600 + context + shift)]
            pairs += [
                (middle, [choose(700 + n), choose(800 + context + n), choose(900 + n)]) for n in range(CONTINUATIONS)
            ]
    return pairs


def _choose_one_of_each(values: Sequence[Item]) -> list[Item]:
    """The entry of one continuation of each context, in turn the first, the second and so on."""
    return [values[first + turn % CONTINUATIONS] for turn, first in enumerate(range(0, len(values), CONTINUATIONS))]


def _score_alone(scorer: TreeScorer, pairs: Sequence[Pair], *, length: int) -> list[float]:
    """Log-likelihoods by the model as it is, without a mask or a cache: all sequences are of one length."""

    def compute_logits(tokens_BT: torch.Tensor, positions_P: torch.Tensor) -> torch.Tensor:
        if scorer.keeps_logits:
            logits_BPV: torch.Tensor = scorer.model(tokens_BT, logits_to_keep=positions_P).logits
            return logits_BPV
        return cast(torch.Tensor, scorer.model(tokens_BT).logits[:, positions_P])

    plan = build_scoring_plan(pairs, batch_size=len(pairs), max_length=length, device=scorer.model.device)
    return [value for value, _ in score_plan(plan, compute_logits)]
