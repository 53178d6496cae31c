"""Checkpoints that are all hole, and a merge of them whose result is dropped; tasks and a tokenizer for random models.

As a command it is the merge alone, in a process of its own, for `large_merge.py --holes`.
"""

from __future__ import annotations

import json
import random
import resource
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from aftermix.checkpoints.pool import open_pool
from aftermix.checkpoints.shards import DTYPE_NAMES, TensorSpec, name_shards, plan_shards, write_index
from aftermix.config import Config, MergeConfig, VectorConfig
from aftermix.merging.merge import Merger
from aftermix.merging.recipe import MergeRecipe
from aftermix.merging.stream import stream_merged_pieces

WEIGHT = 0.25
SHARD_BYTES = 5 * 10**9
SMALL = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 176,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 320,
}
"""Configuration of a model of a few kilobytes."""
VOCABULARY = 320
TASK = """task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {name}.jsonl}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{gold}}}}"
metric_list: [{{metric: acc}}]
"""


def make_holes(folder: Path, values: Mapping[str, Any], vectors: int) -> list[Path]:
    """A base and `vectors` models of the configuration `values`, in bfloat16: headers, then holes of the right length.

    A hole reads as zeros: a finite model, whose differences from the base are zero.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**values))
    layout = [TensorSpec(name, tuple(tensor.shape), torch.bfloat16) for name, tensor in model.named_parameters()]
    shards = plan_shards(sorted(layout, key=lambda spec: spec.name), SHARD_BYTES)

    folders = [folder / "base", *(folder / f"v{number}" for number in range(1, vectors + 1))]
    for path in folders:
        path.mkdir(parents=True)
        (path / "config.json").write_text(json.dumps(values), encoding="utf-8")
        for name, shard in zip(name_shards(len(shards)), shards, strict=True):
            _write_hole(path / name, shard)
        if len(shards) > 1:
            write_index(path, shards)
    return folders


def _write_hole(path: Path, shard: list[TensorSpec]) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    stop = 0
    for spec in shard:
        start, stop = stop, stop + spec.nbytes
        header[spec.name] = {"dtype": DTYPE_NAMES[spec.dtype], "shape": spec.shape, "data_offsets": [start, stop]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + stop)


def write_tokenizer(folder: Path) -> None:
    """A byte-level BPE tokenizer of :data:`VOCABULARY` tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(["the sum of the numbers is even"] * 9, trainer)
    marks = {"bos_token": "<s>", "eos_token": "</s>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **marks).save_pretrained(folder)


def write_tasks(folder: Path, *, items: int) -> None:
    """Two tasks of three choices, of random letters."""
    folder.mkdir(parents=True)
    for name in ("colours", "numbers"):
        draw = random.Random(name)  # noqa: S311 - items of a benchmark
        rows = [
            {
                "question": f"{' '.join(draw.choices(['the', 'sum', 'of', 'numbers', 'is', 'even'], k=30))} {number}?",
                "choices": ["".join(draw.choices("abcdefghij", k=8)) for _ in range(3)],
                "gold": draw.randrange(3),
            }
            for number in range(items)
        ]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        (folder / f"{name}.yaml").write_text(TASK.format(name=name), encoding="utf-8")


def write_merge(folder: Path, folders: list[Path]) -> Path:
    """The file of a merge of all models after the first, which is the base."""
    vectors = {path.name: {"model": str(path), "weight": WEIGHT} for path in folders[1:]}
    values = {"base": str(folders[0]), "vectors": vectors, "merge": {"method": "task_arithmetic", "exclude": []}}
    (folder / "merge.yaml").write_text(json.dumps(values), encoding="utf-8")
    return folder / "merge.yaml"


def open_merger(folders: list[Path]) -> Merger:
    """Task arithmetic of all models after the first, which is the base."""
    vectors = {path.name: VectorConfig(model=str(path), weight=WEIGHT) for path in folders[1:]}
    config = Config(base=str(folders[0]), vectors=vectors, merge=MergeConfig(method="task_arithmetic", exclude=()))
    return Merger.build(open_pool(config), MergeRecipe.from_config(config.merge))


def drop_merged(merger: Merger, *, limit_s: float | None = None) -> int:
    """Merge, drop every piece, and return their bytes; for at most `limit_s` seconds."""
    started, merged = time.perf_counter(), 0
    for piece in stream_merged_pieces(merger, dict.fromkeys(merger.vectors, WEIGHT)):
        merged += piece.values.nbytes
        if limit_s is not None and time.perf_counter() - started > limit_s:
            break
    return merged


def merge_into_nothing(folder: Path, *, limit_s: float) -> Mapping[str, float]:
    """Merge the models below `folder` for at most `limit_s` seconds, and tell bytes, seconds and memory."""
    vectors = sorted(path for path in folder.iterdir() if path.is_dir() and path.name != "base")
    started = time.perf_counter()
    merger = open_merger([folder / "base", *vectors])
    merged = drop_merged(merger, limit_s=limit_s)
    return {
        "parameters": merger.pool.parameters,
        "bytes": sum(spec.nbytes for spec in merger.list_specs()),
        "merged_bytes": merged,
        "read_bytes": merged * (len(vectors) + 1),
        "seconds": time.perf_counter() - started,
        "threads": torch.get_num_threads(),
        "peak_rss_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    }


if __name__ == "__main__" and len(sys.argv) == 3:
    told = merge_into_nothing(Path(sys.argv[1]), limit_s=float(sys.argv[2]))
    (Path(sys.argv[1]) / "told.json").write_text(json.dumps(told), encoding="utf-8")
