"""Whole texts cut into windows of the model's length, as lm-eval cuts them, and planned once for all candidates.

The first window begins with the model's first token (beginning of text, else its end), which is not scored. A later one
begins with the last token of the one before it, or, being shorter than the model's length, with as many tokens of it as
fit: every token of the text is scored once, given what stands before it in its window.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lm_eval import utils

from aftermix.errors import EvaluationError
from aftermix.evaluation.engines.plan_choice import ChosenPlan
from aftermix.evaluation.engines.prefix_tree import Pair

if TYPE_CHECKING:
    from aftermix.evaluation.engines.live_model import HarnessModel

MOST_LOGITS = 2**27
"""Logits of one pass: every position of a window is scored, so that a large vocabulary takes fewer of them together."""


@dataclass(frozen=True)
class TextWindows:
    """The windows of a set of texts, text after text, and the plan by which they are run."""

    chosen: ChosenPlan
    counts: tuple[int, ...]
    """Number of windows of each text."""

    def join(self, answers: Sequence[tuple[float, bool]]) -> list[float]:
        """Log-likelihood of each text, in nats, from (log-likelihood, greedy) of each window."""
        found, start = [], 0
        for count in self.counts:
            found.append(float(sum(value for value, _ in answers[start : start + count])))
            start += count
        return found


def plan_windows(lm: HarnessModel, requests: Sequence[Any], plan_pairs: Callable[..., ChosenPlan]) -> TextWindows:
    """The windows of the whole texts that `requests` ask for, with at most `MOST_LOGITS` logits in one pass.

    `plan_pairs` plans contexts with their continuations, in tokens.

    Raises :class:`EvaluationError` for a text of which the tokenizer makes no token.
    """
    windows = [_cut_text(lm, request) for request in requests]
    pairs = [window for of_text in windows for window in of_text]
    longest = max((len(context) + len(continuation) - 1 for context, continuation in pairs), default=1)
    vocabulary = lm.model.get_input_embeddings().weight.shape[0]
    together = max(1, min(lm.batch_size, MOST_LOGITS // (vocabulary * longest)))
    return TextWindows(plan_pairs(pairs, batch_size=together), tuple(map(len, windows)))


def _cut_text(lm: HarnessModel, request: Any) -> list[Pair]:
    text = request.args[0]
    tokens = lm.tok_encode(text)
    if not tokens and text.strip():
        where = f"task '{request.task_name}', item {request.doc_id}" if request.task_name else "a text"
        found = f"expected tokens of {text[:80]!r}, found that the tokenizer makes none of it"
        raise EvaluationError(where, found, "Take this document out of the data, or use the tokenizer of this model.")
    windows = utils.get_rolling_token_windows(
        token_list=tokens, prefix_token=lm.prefix_token_id, max_seq_len=lm.max_length, context_len=1
    )
    return [utils.make_disjoint_window(window) for window in windows]
