"""Tiny real models shared by the tests: Llama bases and experts, written by transformers itself."""

from __future__ import annotations

import atexit
import gc
import os
import random
import shutil
import sys
import tempfile

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Workers share the cores: two threads of one process would wait for each other at every small operation.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch

from aftermix import progress
from aftermix.cli import cli
from aftermix.command_end import run_guarded

# As the command line does: looking for garbage while libraries load is a part of their loading.
gc.set_threshold(100_000, 20, 100)

Family = dict[str, Path]
VOCABULARY = 320

# A deadline for an example is a timing assertion: on a busy machine each test that has one fails at times.
hypothesis.settings.register_profile("aftermix", deadline=None)
hypothesis.settings.load_profile("aftermix")

# A test sees a pipe without colours and of no width, wherever it runs; so do the processes that it starts.
for _name in ("COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR", "CLICOLOR_FORCE", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
    os.environ.pop(_name, None)

# Data sets are prepared in a folder of this run: the user's may be old, or not be writable. Workers inherit it.
if "HF_DATASETS_CACHE" not in os.environ:
    os.environ["HF_DATASETS_CACHE"] = tempfile.mkdtemp(prefix="aftermix-datasets-")
    atexit.register(shutil.rmtree, os.environ["HF_DATASETS_CACHE"], ignore_errors=True)


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--whole`, which `make test-all` gives."""
    parser.addoption("--whole", action="store_true", help="run whole published tables and further instances, too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what is too long for `make test`; a smaller instance of the same runs there."""
    if not config.getoption("--whole"):
        for item in items:
            if item.get_closest_marker("whole"):
                item.add_marker(pytest.mark.skip(reason="a whole table, or one instance more: `make test-all`"))


@pytest.fixture(autouse=True)
def own_tasks_are_indexed_once() -> None:
    """Index the tasks that come with lm-eval once a process, in place of some 15 CPU seconds each time."""
    module = sys.modules.get("lm_eval.tasks._index")
    if module is None or hasattr(module.TaskIndex.build, "cache"):
        return
    build, package, cache = module.TaskIndex.build, Path(module.__file__).parent, {}

    def build_once(paths: Iterable[Path], **options: Any) -> dict[str, Any]:
        roots = list(paths)
        if not roots or Path(roots[0]) != package or options:
            return build(roots, **options)
        if not cache:
            cache.update(build([package]))
        added = build(roots[1:])
        return build(roots) if cache.keys() & added.keys() else {**cache, **added}  # which warns of each

    build_once.cache = cache
    module.TaskIndex.build = staticmethod(build_once)


@pytest.fixture(scope="session", autouse=True)
def environment_is_not_described() -> None:
    """Leave out what lm-eval tells of the machine in its results: a list of all packages, by pip, in each call."""
    from torch.utils import collect_env

    collect_env.get_pretty_env_info = lambda: "left out by the tests"


@pytest.fixture(scope="module", autouse=True)
def loaded_code_is_no_garbage() -> None:
    """Leave the modules loaded so far out of the search for garbage, which each training asks for several times."""
    gc.collect()
    gc.freeze()


def run_cli(*arguments: object) -> int:
    """The exit code of `aftermix ARGUMENTS`, run in this process."""
    return run_guarded(lambda: cli.main([str(argument) for argument in arguments], standalone_mode=False))


@pytest.fixture
def shown() -> Iterator[None]:
    """Bars are drawn and lines told, as by the command line."""
    with progress.shown():
        yield


def save_tokenizer(folder: Path, *, chat_template: str | None = None) -> None:
    """A byte-level BPE tokenizer of `VOCABULARY` tokens with `<s>` (0) and `</s>` (1)."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["the sum of the numbers is even and the answer is one of these"] * 9, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>")
    fast.chat_template = chat_template
    fast.save_pretrained(folder)


def make_family(
    folder: Path,
    *,
    tied: bool = True,
    experts: tuple[str, ...] = ("a", "b", "c"),
    dtype: str = "bfloat16",
    layers: int = 2,
) -> Family:
    """A small Llama base and experts at a small random distance from it; the first expert is sharded."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=tied,
        bos_token_id=0,
        eos_token_id=1,
    )
    kind = getattr(torch, dtype)
    torch.manual_seed(0)
    base = LlamaForCausalLM(config).to(kind)
    base.save_pretrained(folder / "base")
    save_tokenizer(folder / "base")
    family = {"base": folder / "base"}
    for number, name in enumerate(experts, 1):
        expert = LlamaForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
        torch.manual_seed(number)
        with torch.no_grad():
            for parameter in expert.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.02)
        expert.to(kind).save_pretrained(folder / name, max_shard_size="20KB" if number == 1 else "5GB")
        save_tokenizer(folder / name, chat_template="{{ messages }}" if name == "a" else None)
        family[name] = folder / name
    return family


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    """A tied bfloat16 base with experts a (sharded), b and c."""
    return make_family(tmp_path_factory.mktemp("family"))


@pytest.fixture(scope="session")
def deep_family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    """An untied float32 base of four layers with experts a (sharded), b and c."""
    return make_family(tmp_path_factory.mktemp("deep-family"), tied=False, dtype="float32", layers=4)


@pytest.fixture(scope="session")
def untied_family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    """An untied float32 base with experts a (sharded), b and c."""
    return make_family(tmp_path_factory.mktemp("untied"), tied=False, dtype="float32")


def write_statistics(folder: Path, family: Family, vectors: Sequence[str] = ("a", "b", "c")) -> Path:
    """Statistics of the linear weights of `family`, drawn by name; `q_proj` of layer 0 saw no token."""
    from aftermix.checkpoints.reader import open_checkpoint
    from aftermix.saliency.naming import ChannelStatistic
    from aftermix.saliency.storage import DataNote, StatisticsNote, list_uncovered, note_weights, save_statistics

    folder.mkdir()
    for vector in vectors:
        model = open_checkpoint(family[vector])
        found = {}
        for name, info in model.tensors.items():
            if "_proj" in name:
                seen = "layers.0.self_attn.q_proj" not in name
                draw = torch.Generator().manual_seed(len(found) + 100 * ord(vector))
                values = torch.rand(info.shape[1], generator=draw) * seen
                found[name] = ChannelStatistic(values, (100 if seen else 0,), 1)
        note = StatisticsNote(
            format="aftermix statistics",
            version=1,
            vector=vector,
            model=model.label,
            data=DataNote(source="-", sha256="-", samples_sha256="-", texts=1, samples=1, context=1, tokens=100),
            options={},
            uncovered=list_uncovered(found),
            alias={},
            weights=note_weights(found, model),
            versions={},
        )
        save_statistics(folder, note, found)
    return folder


@pytest.fixture(scope="session")
def statistics(tmp_path_factory: pytest.TempPathFactory, family: Family, untied_family: Family) -> dict[str, Path]:
    """Folders of statistics by the folder of the base that they belong to."""
    folder = tmp_path_factory.mktemp("statistics")
    return {
        str(family["base"]): write_statistics(folder / "tied", family),
        str(untied_family["base"]): write_statistics(folder / "untied", untied_family),
    }


QUESTIONS = {"colours": "What colour is", "numbers": "How many are"}


@pytest.fixture(scope="session")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two local multiple-choice tasks, `colours` and `numbers`, of 60 items each."""
    import json

    folder = tmp_path_factory.mktemp("tasks")
    for name, question in QUESTIONS.items():
        draw = random.Random(name)
        items = [
            {
                "question": f"{question} thing {number}?",
                # Random letters: what a random model prefers among them changes with its weights.
                "choices": ["".join(draw.choices("abcdefghij", k=4)) for _ in range(3)],
                "gold": draw.randrange(3),
            }
            for number in range(60)
        ]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
        (folder / f"{name}.yaml").write_text(
            f"""task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {name}.jsonl}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{gold}}}}"
metric_list:
  - metric: acc
  - metric: acc_norm
"""
        )
    return folder


@pytest.fixture
def copied(tmp_path: Path, family: Family) -> Callable[[str], Path]:
    """A private copy of a member of `family`, to be damaged."""

    def copy(name: str) -> Path:
        return Path(shutil.copytree(family[name], tmp_path / f"copy-of-{name}"))

    return copy
