"""Make the demo's world again from its source packages: `python make_world.py all`.

Needs a Debian or Ubuntu machine (`apt-get download`, `dpkg-deb`) and the Python packages that aftermix installs.
The steps can be run one by one: `texts` (tokenizer and excerpts), `base`, `tasks` (items and instruction text).
README.md says what it took.
"""

import argparse
import random
from pathlib import Path

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from world.base import save_base, train_base
from world.sources import fetch, read_all
from world.splits import EXPERT_DOMAINS, GENERAL, Split, split, write_jsonl_gz
from world.tasks import (
    CONTEXT_TOKENS,
    INSTRUCTION_CONTINUATION_TOKENS,
    UNSPACED,
    Span,
    instruction,
    spans_of,
    write_task,
)
from world.tokenizer import train_tokenizer

HERE = Path(__file__).resolve().parent
EXCERPT_TOKENS = 400_000
INSTRUCTION_TOKENS_PER_DOMAIN = 50_000
ITEMS = 800
STEPS = ("texts", "base", "tasks")


def main() -> None:
    """Run the steps asked for, in order."""
    options = _parser().parse_args()
    steps = STEPS if options.step == "all" else (options.step,)
    documents = read_all(fetch(options.packages))
    splits = {domain: split(documents[domain], seed=options.seed) for domain in documents}
    if "texts" in steps:
        make_texts(splits, options.out)
    tokenizer = AutoTokenizer.from_pretrained(options.out / "base")
    if "base" in steps:
        make_base(splits, tokenizer, options)
    if "tasks" in steps:
        make_tasks(splits, tokenizer, options)


def make_texts(splits: dict[str, Split], out: Path) -> None:
    """The tokenizer, and an excerpt of each expert domain that the base does not see."""
    tokenizer = train_tokenizer(splits)
    tokenizer.save_pretrained(out / "base")
    for domain in EXPERT_DOMAINS:
        texts = excerpt(splits[domain], tokenizer)
        write_jsonl_gz(out / "texts" / f"{domain}.jsonl.gz", texts.values())
        print(f"texts/{domain}: {len(texts)} documents")


def excerpt(domain: Split, tokenizer: PreTrainedTokenizerFast) -> dict[str, str]:
    """The first documents of an expert domain, `EXCERPT_TOKENS` tokens and the rest of the last document."""
    texts, tokens = {}, 0
    for name, text in domain.main.items():
        if tokens >= EXCERPT_TOKENS:
            break
        texts[name] = text
        tokens += len(tokenizer(text, add_special_tokens=False)["input_ids"])
    return texts


def make_base(splits: dict[str, Split], tokenizer: PreTrainedTokenizerFast, options: argparse.Namespace) -> None:
    """The base, trained to a plateau."""
    model = train_base(
        splits,
        tokenizer,
        budget_tokens=int(options.tokens),
        seed=options.seed,
        device=options.device,
        autocast=options.bfloat16,
        compile_model=options.compile,
    )
    save_base(model, tokenizer, options.out / "base")


def make_tasks(splits: dict[str, Split], tokenizer: PreTrainedTokenizerFast, options: argparse.Namespace) -> None:
    """The items of every domain from held-out text, and the instruction text."""
    for domain in (GENERAL, *EXPERT_DOMAINS):
        held_out = splits[domain].held_out
        write_task(options.out / "tasks", domain, held_out, tokenizer, items=ITEMS, seed=options.seed)
    examples = [
        instruction(span)
        for domain in (GENERAL, *EXPERT_DOMAINS)
        for span in instruction_spans(splits, domain, tokenizer, seed=options.seed)
    ]
    write_jsonl_gz(options.out / "instruction" / "general.jsonl.gz", examples)
    print(f"instruction/general: {len(examples)} examples")


def instruction_spans(
    splits: dict[str, Split], domain: str, tokenizer: PreTrainedTokenizerFast, *, seed: int
) -> list[Span]:
    """Spans of documents that neither the base, nor an expert, nor a task has."""
    if domain == GENERAL:
        texts = splits[domain].slice
    else:
        taken = excerpt(splits[domain], tokenizer)
        texts = {name: text for name, text in splits[domain].main.items() if name not in taken}
    draws = random.Random(f"{seed}/instruction/{domain}")  # noqa: S311
    longest = INSTRUCTION_CONTINUATION_TOKENS
    spans = list(spans_of(texts, tokenizer, spaced=domain not in UNSPACED, longest=longest, draws=draws))
    draws.shuffle(spans)
    return spans[: INSTRUCTION_TOKENS_PER_DOMAIN // (CONTEXT_TOKENS + longest)]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=(*STEPS, "all"))
    parser.add_argument("--packages", type=Path, default=Path("packages"), help="where source packages are kept")
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tokens", type=float, default=12e6, help="training tokens of the base")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--bfloat16", action="store_true", help="autocast (fast on GPUs and on CPUs with AVX512-BF16)")
    parser.add_argument("--compile", action="store_true", help="torch.compile the base")
    return parser


if __name__ == "__main__":
    main()
