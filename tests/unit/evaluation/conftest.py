"""A tiny real Llama, a tiny real tokenizer and lm-eval tasks in a folder, for the evaluation tests."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from aftermix.config import EvaluateConfig

COLOURS = ("red", "green", "blue", "dark yellow")
CHAT_TEMPLATE = (
    "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


@pytest.fixture(autouse=True, scope="session")
def _one_thread_and_own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    threads, cache = torch.get_num_threads(), datasets.config.HF_DATASETS_CACHE
    torch.set_num_threads(1)
    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("datasets")
    yield
    torch.set_num_threads(threads)
    datasets.config.HF_DATASETS_CACHE = cache


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def question(number: int, *, seed: str) -> dict[str, Any]:
    draw = random.Random(f"{seed}-{number}")
    things = [draw.choice(["ball", "door", "lamp", "tree", "boat"]) for _ in range(draw.randint(1, 4))]
    return {
        "question": f"{seed} {number}: what colour has the {' and the '.join(things)}?",
        "choices": list(COLOURS),
        "answer": number % 4,
        "text": COLOURS[number % 4],
    }


def rows(count: int, *, seed: str) -> list[dict[str, Any]]:
    return [question(number, seed=seed) for number in range(count)]


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level BPE trained on the tasks' own words."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator([row["question"] + " " + row["text"] for row in rows(50, seed="test")], trainer)
    folder = tmp_path_factory.mktemp("tokenizer")
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>")
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)
    return folder


def tiny_llama(folder: Path, *, seed: int, tied: bool = False, dtype: torch.dtype = torch.float32) -> Path:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=320,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.4,
        tie_word_embeddings=tied,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    LlamaForCausalLM(config).to(dtype).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def model_a(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("a"), seed=1)


@pytest.fixture(scope="session")
def model_b(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("b"), seed=2)


COMMON = """
dataset_path: json
dataset_kwargs:
  data_files: {train: data/train.jsonl, test: data/test.jsonl}
training_split: train
test_split: test
fewshot_split: train
doc_to_text: "Question: {{question}}\\nAnswer:"
"""
CHOICE = (
    COMMON
    + """
output_type: multiple_choice
doc_to_choice: "{{choices}}"
doc_to_target: answer
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
"""
)
TASKS = {
    "colours": CHOICE,
    "write_colour": COMMON
    + """
output_type: generate_until
doc_to_target: "{{text[0]}}"
generation_kwargs: {until: ["\\n", "."], max_gen_toks: 12, do_sample: false}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true, ignore_case: true}
filter_list:
  - {name: strict, filter: [{function: take_first}]}
  - name: last_letter
    filter: [{function: regex, regex_pattern: "([a-z])", group_select: -1, fallback: d}, {function: take_first}]
""",
    "continue_colour": COMMON
    + """
output_type: loglikelihood
doc_to_target: " {{text}}"
metric_list:
  - {metric: perplexity, aggregation: perplexity, higher_is_better: false}
  - {metric: acc, aggregation: mean, higher_is_better: true}
""",
    "same_split": CHOICE.replace("training_split: train\n", "").replace("fewshot_split: train", "fewshot_split: test"),
    "test_only": CHOICE.replace("training_split: train\n", "").replace("fewshot_split: train\n", ""),
    "runs_code": CHOICE + "unsafe_code: true\n",
    "rough": CHOICE.replace("doc_to_target: answer", "doc_to_target: no_such_field"),
}


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    """A folder of local tasks: 40 test and 12 training questions, with data files relative to the YAML files."""
    folder = tmp_path / "tasks"
    (folder / "data").mkdir(parents=True)
    write_rows(folder / "data" / "test.jsonl", rows(40, seed="test"))
    write_rows(folder / "data" / "train.jsonl", rows(12, seed="train"))
    for name, text in TASKS.items():
        if name not in ("runs_code", "rough"):
            add_task(folder, name, text)
    (folder / "both.yaml").write_text("group: both\ntask: [colours, continue_colour]\n")
    return folder


def add_task(folder: Path, name: str, text: str) -> None:
    (folder / f"{name}.yaml").write_text(f"task: {name}\n{text}")


def evaluate_config(folder: Path, *names: str | dict[str, Any], **options: Any) -> EvaluateConfig:
    items = options.pop("items", {"search": 8, "select": 10})
    return EvaluateConfig.model_validate(
        {"tasks": list(names), "include_path": str(folder), "items": items, "batch_size": 4, "threads": 1, **options}
    )


@pytest.fixture(scope="session")
def config_of() -> Any:
    return evaluate_config


@pytest.fixture(scope="session")
def add_task_to() -> Any:
    return add_task


@pytest.fixture(scope="session")
def make_llama() -> Any:
    return tiny_llama


@pytest.fixture(scope="session")
def task_texts() -> dict[str, str]:
    return TASKS
