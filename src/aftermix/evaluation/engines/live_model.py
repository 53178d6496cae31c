"""An lm-eval model around a live Hugging Face model whose weights change between calls.

Everything that does not depend on the weights (tokens, order, padding, positions) is computed once per set of requests.
"""

from __future__ import annotations

import inspect
import math
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any, TypeVar

import torch
import transformers
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import postprocess_generated_text
from transformers import StoppingCriteriaList

from aftermix.errors import EvaluationError
from aftermix.evaluation.blocks.plan_blocks import PlanBlocks
from aftermix.evaluation.documents.windows import TextWindows, plan_windows
from aftermix.evaluation.engines.batches import ScoringPlan, score_plan
from aftermix.evaluation.engines.generation import (
    BatchAnswers,
    GenerationPlan,
    GenerationSettings,
    PromptBatch,
    StopOnText,
    pack_answers,
    settle_generation,
    unpack_answers,
)
from aftermix.evaluation.engines.plan_choice import ChosenPlan, RequestPlan, choose_plan
from aftermix.evaluation.engines.positions import PositionCounter
from aftermix.evaluation.engines.prefix_tree import Pair
from aftermix.evaluation.engines.tree_scoring import TreeScorer, find_reason_against_trees, find_window
from aftermix.evaluation.kept.references import REFERENCE
from aftermix.evaluation.requests import locate_request
from aftermix.terminal import set_template_date

SAMPLING_SEED = 1234
"""Seed of tasks that sample their answers (`do_sample: true`), set anew for every batch of every candidate."""
BRIEF_TOKENS = 8
"""Longest answer of a run that is made for its time."""
KEPT_PLANS = 32
ENCODED = 8
"""Texts whose tokens are kept for the next request."""
Plan = TypeVar("Plan")


class HarnessModel(HFLM):  # type: ignore[misc]  # lm-eval has no types
    """lm-eval's Hugging Face model for one process and one device, without work repeated between candidates.

    Departures from :class:`lm_eval.models.huggingface.HFLM`: logits only at scored positions (where the architecture
    can), log-softmax always in float32, no progress bars, no answer cache, and beginnings that requests share run
    through the model once (where it can: :func:`~aftermix.evaluation.engines.tree_scoring.find_reason_against_trees`).
    The answers are the same up to the rounding of the last matrix product. A chat template that asks for today's date
    is given midnight of `date`, without which it is today's.
    """

    def __init__(
        self, model: Any, tokenizer: Any, *, batch_size: int, max_length: int | None, date: str | None = None
    ) -> None:
        self._encoded: dict[tuple[Any, ...], list[int]] = {}
        super().__init__(
            pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=batch_size, max_length=max_length
        )
        self._date = date
        self.forwarded_tokens = 0
        self.computed_positions = 0
        self._counter = PositionCounter(model)
        self.truncated_requests = 0
        # A plan holds its requests, so their ids cannot be taken by others while it is kept.
        self._plans: OrderedDict[tuple[int, ...], tuple[Sequence[Any], Any]] = OrderedDict()
        self._endings: dict[tuple[str, ...], dict[int, bool]] = {}
        accepted = inspect.signature(model.forward).parameters
        self._keeps_logits = "logits_to_keep" in accepted
        self._options = {"use_cache": False} if "use_cache" in accepted else {}
        self._scorer = TreeScorer(model, self._keeps_logits)

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:  # noqa: ARG002
        """(log-likelihood, greedy) of each continuation given its context."""
        return self._score_plan(self.find_scoring_plan(requests).plan)

    def reference_loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:  # noqa: ARG002
        """As :meth:`loglikelihood`, for texts that decide no score: NaN where a broken model gives no number."""
        return self._score_plan(self.find_scoring_plan(requests).plan, decides=False)

    def score_pairs(self, pairs: Sequence[Pair]) -> list[float]:
        """Log-likelihoods of continuations in tokens, outside any plan that is kept."""
        with torch.inference_mode():
            return [value for value, _ in self._run_plan(self._plan_pairs(pairs, batch_size=len(pairs)).plan)]

    def can_score(self, context: str, continuation: str) -> bool:
        """Tell whether the model can be asked for the log-likelihood of `continuation` after `context`."""
        try:
            pair = self.tokenise_pair(context, continuation)
            self._refuse_unknown_tokens(token for part in pair for token in part)
        except EvaluationError:
            return False
        return True

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = True) -> list[float]:  # noqa: ARG002
        """Log-likelihood of each whole text, which is read in windows."""
        windows = self.find_windows(requests)
        return windows.join(self._score_plan(windows.chosen.plan))

    def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> list[str]:  # noqa: ARG002
        """Each context continued until a stop text, the end of text or the limit."""
        plan = self.find_generation_plan(requests)
        positions = [batch.most_positions for batch in plan.batches]
        blocks = PlanBlocks.open(positions, lambda: plan.content_hash, engine=self.describe_engine())
        answers = [""] * plan.requests
        for number, block in enumerate(blocks.blocks):
            kept = blocks.find(number)
            made = [self._answer_batch(plan, place) for place in block] if kept is None else unpack_answers(kept)
            if kept is None:
                blocks.keep(number, partial(pack_answers, made))

            for batch, found in zip(plan.batches[block.start : block.stop], made, strict=True):
                self.forwarded_tokens += found.tokens
                self.computed_positions += found.positions
                for request, text in zip(batch.requests, found.texts, strict=True):
                    answers[request] = text
        self.forwarded_tokens += plan.prompt_tokens
        self.truncated_requests += plan.truncated
        return answers

    def _answer_batch(self, plan: GenerationPlan, number: int) -> BatchAnswers:
        batch, before = plan.batches[number], self._counter.count
        generated_BN = self._generate(batch, seed=SAMPLING_SEED + number)
        texts = tuple(self._read_answer(tokens, batch.settings) for tokens in generated_BN.tolist())
        tokens = int((generated_BN != self.tokenizer.pad_token_id).sum())
        return BatchAnswers(texts, tokens, self._counter.count - before)

    def describe_engine(self) -> str:
        """All that decides the rounding of an answer besides the model and the requests, in words."""
        place = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else self.device.type
        sizes = f"batches of {self.batch_size}, {torch.get_num_threads()} threads"
        versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
        return f"{place}, {self.model.dtype}, {sizes}, {versions}"

    def _read_answer(self, tokens: list[int], settings: GenerationSettings) -> str:
        """The text up to the first stop text, without what was thought before it."""
        end = settings.think_end
        if isinstance(end, int):
            thought = len(tokens) - tokens[::-1].index(end) if end in tokens else 0
            text = self.tok_decode(tokens[thought:])
            text, end = text.lstrip() if thought else text, None
        else:
            text = self.tok_decode(tokens)
        answer: str = postprocess_generated_text(text, stop=list(settings.stops), think_end_token=end)
        return answer

    def count_request_tokens(self, requests: Sequence[Any]) -> int:
        """Tokens that `requests` run through the model, generated text at its limit; computes no model output."""
        total = 0
        for kind in {request.request_type for request in requests}:
            of_kind = [request for request in requests if request.request_type == kind]
            if kind == "generate_until":
                total += self.find_generation_plan(of_kind).most_tokens
            elif kind in ("loglikelihood", REFERENCE):
                total += self.find_scoring_plan(of_kind).plan.tokens
            else:
                total += self.find_windows(of_kind).chosen.plan.tokens
        return total

    def apply_chat_template(
        self,
        chat_history: Any,
        add_generation_prompt: bool = True,
        *,
        template_args: Mapping[str, Any] | None = None,
    ) -> str:
        """The conversation as the tokenizer's template writes it, on the day that was given; `template_args` for it."""
        self.chat_template_args = dict(template_args or {})
        with set_template_date(self._date):
            text: str = super().apply_chat_template(chat_history, add_generation_prompt)
        return text

    def has_planned(self, requests: Sequence[Any]) -> bool:
        """True where a plan of exactly these requests is there."""
        return tuple(map(id, requests)) in self._plans

    def count_cut_prompts(self, requests: Sequence[Any]) -> int:
        """Number of `requests` whose prompt exceeds the model's length and loses its beginning; no output is computed.

        What is scored as a whole text (perplexity) is read in windows and loses nothing.
        """
        scored = [request for request in requests if request.request_type == "loglikelihood"]
        generated = [request for request in requests if request.request_type == "generate_until"]
        plans: list[RequestPlan | GenerationPlan] = [self.find_scoring_plan(scored).plan] if scored else []
        plans += [self.find_generation_plan(generated)] if generated else []
        return sum(plan.truncated for plan in plans)

    def run_briefly(self, requests: Sequence[Any]) -> None:
        """Run `requests` for the time it takes: an answer ends after `BRIEF_TOKENS` tokens, a text is one of many."""
        for kind in sorted({request.request_type for request in requests}):
            of_kind = [request for request in requests if request.request_type == kind]
            if kind == "generate_until":
                for batch in self.find_generation_plan(of_kind).batches:
                    settings = batch.settings
                    brief = replace(settings, max_new_tokens=min(settings.max_new_tokens, BRIEF_TOKENS))
                    self._generate(replace(batch, settings=brief), seed=SAMPLING_SEED)
            elif kind == "loglikelihood":
                self.loglikelihood(of_kind)
            else:
                self.loglikelihood_rolling(of_kind[:1], disable_tqdm=True)

    def _score_plan(self, plan: RequestPlan, *, decides: bool = True) -> list[tuple[float, bool]]:
        with torch.inference_mode():
            answers = self._run_plan(plan)
        is_finite = [math.isfinite(value) for value, _ in answers]

        if decides and not all(is_finite):
            raise EvaluationError(
                "model",
                "gives log-likelihoods that are NaN or Inf",
                "The model is broken: look at its merge weights.",
            )

        self.forwarded_tokens += plan.tokens
        self.computed_positions += plan.positions
        if decides:
            self.truncated_requests += plan.truncated
            return answers
        return [answer if finite else (math.nan, answer[1]) for finite, answer in zip(is_finite, answers, strict=True)]

    def _run_plan(self, plan: Any) -> list[tuple[float, bool]]:
        if isinstance(plan, ScoringPlan):
            return score_plan(plan, self._compute_logits, engine=self.describe_engine())
        return self._scorer.score(plan, engine=self.describe_engine())

    def _compute_logits(self, tokens_BT: torch.Tensor, positions_P: torch.Tensor) -> torch.Tensor:
        if self._keeps_logits:
            logits_BPV: torch.Tensor = self.model(tokens_BT, logits_to_keep=positions_P, **self._options).logits
            return logits_BPV
        logits_BTV: torch.Tensor = self.model(tokens_BT, **self._options).logits
        return logits_BTV[:, positions_P]

    def _generate(self, batch: PromptBatch, *, seed: int) -> torch.Tensor:
        prompt_length = batch.tokens_BT.shape[1]
        stopping = StopOnText(
            self.tokenizer,
            batch.settings.stops,
            prompt_length=prompt_length,
            sequences=len(batch.requests),
            endings=self._endings.setdefault(batch.settings.stops, {}),
        )

        # Sampling must not move the generator of whatever runs around it.
        devices = [self.device] if self.device.type == "cuda" else []
        samples = bool(batch.settings.options["do_sample"])
        with torch.inference_mode(), torch.random.fork_rng(devices=devices, enabled=samples):
            if samples:
                torch.manual_seed(seed)
            tokens_BT: torch.Tensor = self.model.generate(
                input_ids=batch.tokens_BT,
                attention_mask=batch.mask_BT,
                max_length=prompt_length + batch.settings.max_new_tokens,
                stopping_criteria=StoppingCriteriaList([stopping]),
                pad_token_id=self.tokenizer.pad_token_id,
                use_cache=True,
                **batch.settings.options,
            )
        return tokens_BT[:, prompt_length:]

    def find_scoring_plan(self, requests: Sequence[Any]) -> ChosenPlan:
        """The plan by which log-likelihoods of `requests` are computed; computes none."""

        def make() -> ChosenPlan:
            pairs = [self.tokenise_pair(*request.args, place=locate_request(request)) for request in requests]
            return self._plan_pairs(pairs, batch_size=self.batch_size)

        return self._keep_plan(requests, make)

    def tokenise_pair(self, context: str, continuation: str, *, place: str = "") -> Pair:
        """Tokens as lm-eval's `loglikelihood` takes them: a context without any becomes the beginning-of-text token.

        Where one token spans the end of the context and the whole continuation, nothing of their common tokens would be
        left to score, at which lm-eval fails: the continuation is then encoded by itself.
        """
        context_tokens: list[int] = []
        if context:
            context_tokens, continuation_tokens = self._encode_pair(context, continuation)
        if not context or not continuation_tokens:
            spaces = context[len(context.rstrip()) :] if continuation else ""  # lm-eval moves them behind the join
            continuation_tokens = self.tok_encode(spaces + continuation, add_special_tokens=False)

        if not context_tokens:
            starts = continuation_tokens[:1] == [self.prefix_token_id]
            first = continuation_tokens[:1] if starts else [self.prefix_token_id]
            context_tokens, continuation_tokens = first, continuation_tokens[starts:]

        if not 0 < len(continuation_tokens) <= self.max_length:
            raise EvaluationError(
                f"{place}continuation {continuation[:80]!r}",
                f"expected 1 to {self.max_length} tokens, found {len(continuation_tokens)}",
                "Correct the task's choices, or raise `evaluate.max_length`.",
            )
        return context_tokens, continuation_tokens

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, left_truncate_len: int | None = None
    ) -> list[int]:
        """Tokens of `string`, as lm-eval has them; the context that an item's choices share is tokenised once."""
        key = (string, add_special_tokens, left_truncate_len)
        if key not in self._encoded:
            if len(self._encoded) >= ENCODED:
                self._encoded.clear()
            self._encoded[key] = super().tok_encode(string, add_special_tokens, left_truncate_len)
        return [*self._encoded[key]]

    def find_windows(self, requests: Sequence[Any]) -> TextWindows:
        """The windows in which whole texts are scored, planned once."""
        return self._keep_plan(requests, lambda: plan_windows(self, requests, self._plan_pairs))

    def _plan_pairs(self, pairs: Sequence[Pair], *, batch_size: int) -> ChosenPlan:
        self._refuse_unknown_tokens(token for pair in pairs for part in pair for token in part)
        return choose_plan(
            pairs,
            batch_size=batch_size,
            max_length=self.max_length,
            device=self.device,
            reason=self.reason_against_trees if len(pairs) > 1 else None,
            window=find_window(self.model.config),
        )

    @cached_property
    def reason_against_trees(self) -> str | None:
        """Words on why shared beginnings are run anew for every request of this model; None where they are not."""
        return find_reason_against_trees(self.model, max_length=self.max_length)

    def find_generation_plan(self, requests: Sequence[Any]) -> GenerationPlan:
        """The batches in which `requests` are generated, planned once."""

        def make() -> GenerationPlan:
            lengths = {request.args[0]: len(self.tok_encode(request.args[0])) for request in requests}
            by_options: dict[str, list[int]] = {}
            for index, request in enumerate(requests):
                by_options.setdefault(repr(sorted(request.args[1].items())), []).append(index)

            batches: list[PromptBatch] = []
            truncated = 0
            for indices in by_options.values():
                # Longest first, as lm-eval sorts them.
                indices.sort(key=lambda index: (-lengths[requests[index].args[0]], requests[index].args[0]))
                settings = self._settle_generation(requests[indices[0]])
                room = self.max_length - settings.max_new_tokens
                truncated += sum(lengths[requests[index].args[0]] > room for index in indices)
                chunks = [indices[start : start + self.batch_size] for start in range(0, len(indices), self.batch_size)]
                batches += [self._prompt_batch(requests, chunk, settings) for chunk in chunks]
            return GenerationPlan(len(requests), tuple(batches), sum(batch.tokens for batch in batches), truncated)

        return self._keep_plan(requests, make)

    def _settle_generation(self, request: Any) -> GenerationSettings:
        """Stop texts, length and options of all requests that are continued as `request` is."""
        end = None if self.eot_token_id is None else self.tok_decode(self.eot_token_id, skip_special_tokens=False)
        return settle_generation(request, default=self.max_gen_toks, max_length=self.max_length, end=end)

    def _prompt_batch(
        self, requests: Sequence[Any], indices: Sequence[int], settings: GenerationSettings
    ) -> PromptBatch:
        tokens_BT, mask_BT = self.tok_batch_encode(
            [requests[index].args[0] for index in indices], left_truncate_len=self.max_length - settings.max_new_tokens
        )

        self._refuse_unknown_tokens(tokens_BT[mask_BT.bool()].tolist())
        return PromptBatch(
            requests=tuple(indices),
            tokens_BT=tokens_BT.to(self.device),
            mask_BT=mask_BT.to(self.device),
            tokens=int(mask_BT.sum()),
            settings=settings,
        )

    def _refuse_unknown_tokens(self, tokens: Any) -> None:
        largest, rows = max(tokens, default=0), self.model.get_input_embeddings().weight.shape[0]
        if largest >= rows:
            raise EvaluationError(
                "tokenizer", f"gives token {largest}, but the model embeds {rows}", "Use the tokenizer of this model."
            )

    def _keep_plan(self, requests: Sequence[Any], make: Callable[[], Plan]) -> Plan:
        """The plan of exactly these request objects, made at their first use."""
        key = tuple(map(id, requests))
        if key not in self._plans:
            self._plans[key] = (list(requests), make())
            while len(self._plans) > KEPT_PLANS:
                self._plans.popitem(last=False)
        self._plans.move_to_end(key)
        plan: Plan = self._plans[key][1]
        return plan
