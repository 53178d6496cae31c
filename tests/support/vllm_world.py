"""A small world for the vLLM engine: models of head size 32, which its CPU kernels take, tasks of each kind of request,
and a worker that can be told to skip an exchange.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VECTORS = ("a", "b")
ITEMS = 24
CHOICE = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {name}.jsonl}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{gold}}}}"
metric_list:
  - metric: acc
"""
SUMS = """
task: sums
dataset_path: json
dataset_kwargs: {data_files: {test: sums.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "Question: {{question}} Answer:"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["Question:"], do_sample: false, max_gen_toks: 24}
filter_list:
  - name: strict-match
    filter:
      - function: regex
        regex_pattern: "#### (\\\\-?[0-9]+)"
      - function: take_first
metric_list:
  - metric: exact_match
"""


@dataclass(frozen=True)
class VllmWorld:
    """Folders of models and tasks."""

    base: Path
    vectors: Mapping[str, Path]
    tasks: Path

    def describe_search(
        self, *, engine: str, tasks: tuple[str, ...] = ("words", "letters", "sums"), **search: Any
    ) -> dict[str, Any]:
        """Content of a search file over all vectors."""
        options = {"trials": 4, "batch": 2, "startup": 2, "top": 1, "max_consecutive_failures": 2} | search
        return {
            "base": str(self.base),
            "vectors": {name: {"model": str(folder), "range": [0.0, 1.5]} for name, folder in self.vectors.items()},
            "merge": {"method": "task_arithmetic", "exclude": []},
            "evaluate": {
                "tasks": list(tasks),
                "include_path": str(self.tasks),
                "items": {"search": 6, "select": 6, "test": 6},
                "engine": engine,
                "device": "cpu",
            },
            "search": options,
        }


def make_vllm_world(folder: Path, *, tied: bool, save_tokenizer: Any, architecture: str = "Llama") -> VllmWorld:
    """A float32 base with two experts, tasks `words` (choices of several tokens), `letters` (of one) and `sums`
    (generated, with worked answers).
    """
    import torch
    import transformers

    config = getattr(transformers, f"{architecture}Config")(
        vocab_size=320,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=256,
        initializer_range=0.25,
        tie_word_embeddings=tied,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    torch.manual_seed(0)
    base = getattr(transformers, f"{architecture}ForCausalLM")(config)
    base.save_pretrained(folder / "base")
    save_tokenizer(folder / "base")
    for number, name in enumerate(VECTORS, 1):
        expert = type(base).from_pretrained(folder / "base")
        torch.manual_seed(number)
        with torch.no_grad():
            for parameter in expert.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.05)
        expert.save_pretrained(folder / name)
        save_tokenizer(folder / name)
    write_tasks(folder / "tasks")
    return VllmWorld(folder / "base", {name: folder / name for name in VECTORS}, folder / "tasks")


def write_tasks(folder: Path) -> None:
    """Three local tasks; a question is longer than a block of vLLM's cache on a CPU, so that prompts are kept there."""
    folder.mkdir()
    draw = random.Random(7)
    for name in ("words", "letters"):
        rows = []
        for number in range(ITEMS):
            drawn = ["".join(draw.choices("abcdefghij", k=3)) for _ in range(3)]
            choices = drawn if name == "words" else draw.sample("abcdefghij", 3)
            question = f"{' '.join(''.join(draw.choices('klmnopq', k=4)) for _ in range(28))} number {number}:"
            rows.append({"question": question, "choices": choices, "gold": draw.randrange(3)})
        _write_task(folder, name, CHOICE.format(name=name), rows)

    sums = []
    for _ in range(ITEMS):
        left, right = draw.randrange(90), draw.randrange(90)
        question = f"the sum of the numbers {left} and {right} is one of these: what is it?"
        sums.append({"question": question, "answer": f"{left} + {right} = {left + right} #### {left + right}"})
    _write_task(folder, "sums", SUMS, sums)


def _write_task(folder: Path, name: str, text: str, rows: list[dict[str, Any]]) -> None:
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / f"{name}.yaml").write_text(text)
