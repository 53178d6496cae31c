"""Make the demo's world again from its source packages: `python make_world.py all`.

Needs a Debian or Ubuntu machine (`apt-get download`, `dpkg-deb`) and the Python packages that aftermix installs.
The steps can be run one by one: `texts` (tokenizer and excerpts), `base`, `tasks` (items and instruction text),
`puzzles` (excerpts and items of the domains of puzzles, made by a package from PyPI).
README.md says what it took. With `--tiny` all steps run in seconds, on a few documents of made-up words.
"""

import argparse
import random
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from world.base import save_base, train_base
from world.sources import fetch, read_all, read_puzzles
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
from world.tiny import write_packages
from world.tokenizer import train_tokenizer

HERE = Path(__file__).resolve().parent
STEPS = ("texts", "base", "tasks", "puzzles")


@dataclass(frozen=True)
class WorldSizes:
    """How much is made."""

    excerpt_tokens: int = 400_000
    puzzle_tokens: int = 60_000
    instruction_tokens_per_domain: int = 50_000
    items: int = 800


TINY = WorldSizes(excerpt_tokens=2_000, puzzle_tokens=1_000, instruction_tokens_per_domain=1_000, items=24)
TINY_BASE_TOKENS = 8_192  # two steps


def main() -> None:
    """Run the steps asked for, in order."""
    options = _options()
    steps = STEPS if options.step == "all" else (options.step,)
    sizes = TINY if options.tiny else WorldSizes()

    root = write_packages(options.packages / "root") if options.tiny else fetch(options.packages)
    documents = read_all(root)
    splits = {domain: split(documents[domain], seed=options.seed) for domain in documents}

    if "texts" in steps:
        make_texts(splits, options.out, sizes)
    tokenizer = AutoTokenizer.from_pretrained(options.out / "base")
    if "base" in steps:
        make_base(splits, tokenizer, options)
    if "tasks" in steps:
        make_tasks(splits, tokenizer, options, sizes)
    if "puzzles" in steps:
        make_puzzles(tokenizer, options, sizes)


def make_texts(splits: dict[str, Split], out: Path, sizes: WorldSizes) -> None:
    """The tokenizer, and an excerpt of each expert domain that the base does not see."""
    tokenizer = train_tokenizer(splits)
    tokenizer.save_pretrained(out / "base")
    for domain in EXPERT_DOMAINS:
        texts = excerpt(splits[domain], tokenizer, sizes.excerpt_tokens)
        write_jsonl_gz(out / "texts" / f"{domain}.jsonl.gz", texts.values())
        print(f"texts/{domain}: {len(texts)} documents")


def excerpt(domain: Split, tokenizer: PreTrainedTokenizerFast, budget_tokens: int) -> dict[str, str]:
    """The first documents of an expert domain, so many tokens and the rest of the last document."""
    texts, tokens = {}, 0
    for name, text in domain.main.items():
        if tokens >= budget_tokens:
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


def make_tasks(
    splits: dict[str, Split], tokenizer: PreTrainedTokenizerFast, options: argparse.Namespace, sizes: WorldSizes
) -> None:
    """The items of every domain from held-out text, and the instruction text."""
    for domain in (GENERAL, *EXPERT_DOMAINS):
        held_out = splits[domain].held_out
        write_task(options.out / "tasks", domain, held_out, tokenizer, items=sizes.items, seed=options.seed)
    examples = [
        instruction(span)
        for domain in (GENERAL, *EXPERT_DOMAINS)
        for span in instruction_spans(splits, domain, tokenizer, sizes, seed=options.seed)
    ]
    write_jsonl_gz(options.out / "instruction" / "general.jsonl.gz", examples)
    print(f"instruction/general: {len(examples)} examples")


def make_puzzles(tokenizer: PreTrainedTokenizerFast, options: argparse.Namespace, sizes: WorldSizes) -> None:
    """Excerpt and items of every domain of puzzles; the choices of an item are equally long."""
    for domain, documents in read_puzzles(options.packages, tiny=bool(options.tiny)).items():
        parts = split(documents, seed=options.seed)
        texts = excerpt(parts, tokenizer, sizes.puzzle_tokens)
        write_jsonl_gz(options.out / "texts" / f"{domain}.jsonl.gz", texts.values())
        tasks = options.out / "tasks"
        write_task(tasks, domain, parts.held_out, tokenizer, items=sizes.items, seed=options.seed, as_long=True)
        print(f"puzzles/{domain}: {len(texts)} documents")


def instruction_spans(
    splits: dict[str, Split], domain: str, tokenizer: PreTrainedTokenizerFast, sizes: WorldSizes, *, seed: int
) -> list[Span]:
    """Spans of documents that neither the base, nor an expert, nor a task has."""
    if domain == GENERAL:
        texts = splits[domain].slice
    else:
        taken = excerpt(splits[domain], tokenizer, sizes.excerpt_tokens)
        texts = {name: text for name, text in splits[domain].main.items() if name not in taken}
    draws = random.Random(f"{seed}/instruction/{domain}")  # noqa: S311
    longest = INSTRUCTION_CONTINUATION_TOKENS
    spans = list(spans_of(texts, tokenizer, spaced=domain not in UNSPACED, longest=longest, draws=draws))
    draws.shuffle(spans)
    return spans[: sizes.instruction_tokens_per_domain // (CONTEXT_TOKENS + longest)]


def _options() -> argparse.Namespace:
    """The command line; with `--tiny` nothing is written outside of its folder."""
    options = _parser().parse_args()
    if options.tiny:
        options.packages, options.out = options.tiny / "demo" / "packages", options.tiny / "demo"
        options.tokens = TINY_BASE_TOKENS
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", nargs="?", default="all", choices=(*STEPS, "all"), help="default: all")
    parser.add_argument("--packages", type=Path, default=Path("packages"), help="where source packages are kept")
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tokens", type=float, default=12e6, help="training tokens of the base")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--bfloat16", action="store_true", help="autocast (fast on GPUs and on CPUs with AVX512-BF16)")
    parser.add_argument("--compile", action="store_true", help="torch.compile the base")
    parser.add_argument(
        "--tiny",
        nargs="?",
        type=Path,
        const=Path("runs/tiny"),
        metavar="FOLDER",
        help="on made-up documents, to see that it runs; all of it lies in FOLDER (default: runs/tiny)",
    )
    return parser


if __name__ == "__main__":
    main()
