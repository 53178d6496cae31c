"""Multiple-choice items and instruction text in one prompt format that the base has never seen."""

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerFast

CONTEXT_TOKENS, CONTINUATION_TOKENS = 24, 8
INSTRUCTION_CONTINUATION_TOKENS = 200  # with 24, as short as the items, the sibling lost everywhere
CHOICES = 4
SPANS_PER_DOCUMENT = 24  # of an item task, so that no long document rules it
UNSPACED = ("ja", "zh")

TASK = """\
task: continue_{domain}
dataset_path: json
dataset_kwargs:
  data_files: {{test: continue_{domain}.jsonl}}  # relative to this file
test_split: test
output_type: multiple_choice
doc_to_text: "Continue: {{{{context}}}}"
target_delimiter: ""  # a choice brings its own space
doc_to_choice: choices
doc_to_target: answer
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
metadata: {{version: 1.0}}
"""


@dataclass(frozen=True)
class Span:
    """A piece of one document: what is shown, and how the document goes on."""

    document: str
    context: str
    continuation: str


def instruction(span: Span) -> str:
    """The prompt of the tasks with its answer."""
    return f"Continue: {span.context}{span.continuation}"


def write_task(
    folder: Path,
    domain: str,
    texts: Mapping[str, str],
    tokenizer: PreTrainedTokenizerFast,
    *,
    items: int,
    seed: int,
    as_long: bool = False,
) -> None:
    """One task file and its items; the wrong choices are how other documents of the same domain go on.

    `as_long`: with as many tokens as the right one. A choice's log-likelihood is a sum over its tokens, so that among
    choices of unlike length the shortest is often the likeliest, whatever was learned.
    """
    draws = random.Random(f"{seed}/{domain}")  # noqa: S311
    spaced = domain not in UNSPACED
    spans = list(
        spans_of(texts, tokenizer, spaced=spaced, longest=CONTINUATION_TOKENS, draws=draws, most=SPANS_PER_DOCUMENT)
    )
    draws.shuffle(spans)
    if len(spans) < items:
        raise ValueError(f"{domain}: {len(spans)} spans of held-out text, {items} items wanted")
    chosen = _list_alike(spans, tokenizer, items) if as_long else [(span, spans) for span in spans[:items]]
    lines = [json.dumps(_item(span, others, draws), ensure_ascii=False) for span, others in chosen]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"continue_{domain}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / f"continue_{domain}.yaml").write_text(TASK.format(domain=domain), encoding="utf-8")


def spans_of(
    texts: Mapping[str, str],
    tokenizer: PreTrainedTokenizerFast,
    *,
    spaced: bool,
    longest: int,
    draws: random.Random,
    most: int | None = None,
) -> Iterator[Span]:
    """Random spans of every document, at most `most`, hardly overlapping, no character (or spaced word) cut."""
    length = CONTEXT_TOKENS + longest
    for name, text in texts.items():
        offsets = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)["offset_mapping"]
        starts = list(range(0, len(offsets) - length, length))
        for start in draws.sample(starts, min(len(starts), most or len(starts))):
            cuts = [_cut(text, offsets, at, spaced) for at in (start, start + CONTEXT_TOKENS, start + length)]
            context, continuation = text[cuts[0] : cuts[1]].lstrip(), text[cuts[1] : cuts[2]]
            if len(continuation.strip()) > 3:
                yield Span(name, context, continuation)


def _cut(text: str, offsets: Sequence[tuple[int, int]], at: int, spaced: bool) -> int:
    """The first character at or after token `at` where a cut splits no character; if `spaced`, before a space."""
    cut = offsets[at][0]
    if at and offsets[at][0] < offsets[at - 1][1]:  # the token is the tail of a character
        cut = offsets[at - 1][1]
    while spaced and 0 < cut < len(text) and (not text[cut].isspace() or text[cut - 1].isspace()):
        cut += 1
    return cut


def _list_alike(
    spans: Sequence[Span], tokenizer: PreTrainedTokenizerFast, items: int
) -> list[tuple[Span, Sequence[Span]]]:
    """The first `items` spans that have enough others with as many tokens, each with all of those."""
    lengths = [len(tokenizer(span.continuation, add_special_tokens=False)["input_ids"]) for span in spans]
    alike = {
        length: [span for span, each in zip(spans, lengths, strict=True) if each == length] for length in set(lengths)
    }
    found = []
    for span, length in zip(spans, lengths, strict=True):
        others = {other.continuation for other in alike[length] if other.document != span.document}
        if len(others - {span.continuation}) >= CHOICES - 1:
            found.append((span, alike[length]))
    return found[:items]


def _item(span: Span, spans: Sequence[Span], draws: random.Random) -> dict[str, object]:
    choices = [span.continuation]
    while len(choices) < CHOICES:
        other = draws.choice(spans)
        if other.document != span.document and other.continuation not in choices:
            choices.append(other.continuation)
    draws.shuffle(choices)
    return {
        "context": span.context,
        "choices": choices,
        "answer": choices.index(span.continuation),
        "document": span.document,
    }
