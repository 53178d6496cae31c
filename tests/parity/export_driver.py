"""Run by the Python of an environment with the trainers: `export_driver.py TRAINER FOLDER WORLD`.

FOLDER is what `aftermix export` wrote. Prints a JSON object: how often each text came out of the trainer's own loading
of the data, or for megatron the samples by prefix.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import sys
import types
import warnings
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from unittest.mock import MagicMock

warnings.filterwarnings("ignore")
os.environ |= {"DISABLE_VERSION_CHECK": "1", "AXOLOTL_DO_NOT_TRACK": "1", "HF_DATASETS_OFFLINE": "1"}
NOT_FOR_TEXTS = """
    numba s3fs gcsfs cached_path boto3 botocore google olmo_eval json_repair
    cryptography adlfs ocifs wandb mlflow bitsandbytes mistral_common schedulefree kernels trackio art dotenv
    colorama langdetect evaluate optimum fastcore zstandard torchaudio av
"""
ABSENT = NOT_FOR_TEXTS.split()
"""What trainers import for models, pictures, sounds and trackers, and reading texts needs not."""


class StandIns(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Empty modules in place of those of `ABSENT` that are not installed; asked last."""

    def find_spec(self, name, path=None, target=None):
        wanted = name.split(".")[0] in ABSENT
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if wanted else None

    def create_module(self, spec):
        module = MagicMock(name=spec.name)
        module.__path__, module.__spec__, module.__name__ = [], spec, spec.name
        return module

    def exec_module(self, module):
        pass


def read_yaml(file: Path) -> dict:
    import yaml

    return yaml.safe_load(file.read_text())


def trl(folder: Path, _: Path) -> Iterable[str]:
    """The three parts of a configuration that TRL's script for fine-tuning reads the file as."""
    from trl import DatasetMixtureConfig, ScriptArguments, SFTConfig, TrlParser, get_dataset

    words = ["--config", str(folder / "mixture.yaml"), "--bf16", "false", "--use_cpu", "true"]
    words += ["--output_dir", str(folder / "trained")]
    _, training, mixture = TrlParser((ScriptArguments, SFTConfig, DatasetMixtureConfig)).parse_args_and_config(words)
    assert 0 < training.num_train_epochs < 10
    return get_dataset(mixture)["train"][training.dataset_text_field]


def llamafactory(folder: Path, _: Path) -> Iterable[str]:
    sys.meta_path.append(StandIns())
    from llamafactory.data.loader import _get_merged_dataset
    from llamafactory.hparams.data_args import DataArguments

    keys = read_yaml(folder / "mixture.yaml")
    stage, _ = keys.pop("stage"), keys.pop("num_train_epochs")
    data_args = DataArguments(**keys)
    model_args = types.SimpleNamespace(cache_dir=str(folder / "cache"), hf_hub_token=None)
    training_args = types.SimpleNamespace(seed=1, dataloader_num_workers=0, local_process_index=0)
    merged = _get_merged_dataset(data_args.dataset, model_args, data_args, training_args, stage=stage)
    columns = zip(*(merged[f"_{name}"] for name in ("tools", "system", "prompt", "response")), strict=True)
    return [
        "".join([tools, system or "", *(message["content"] for message in (*prompt, *response))])
        for tools, system, prompt, response in columns
    ]


def axolotl(folder: Path, world: Path) -> Iterable[str]:
    sys.meta_path.append(StandIns())
    from axolotl.utils.data.sft import _load_and_process_single_dataset
    from axolotl.utils.dict import DictDefault
    from axolotl.utils.schemas.datasets import SFTDataset
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(world / "base")
    cfg = DictDefault(
        {
            "sequence_len": 2048,
            "dataset_num_proc": 1,
            "dataset_processes": 1,
            "is_preprocess": True,
            "chat_template": "tokenizer_default",
        }
    )
    for entry in read_yaml(folder / "mixture.yaml")["datasets"]:
        SFTDataset(**entry)
        rows, _ = _load_and_process_single_dataset(DictDefault(entry), cfg, split="train", seed=42, tokenizer=tokenizer)
        yield from tokenizer.batch_decode([row["input_ids"] for row in rows], skip_special_tokens=True)


def streaming(folder: Path, world: Path) -> Iterable[str]:
    # The package imports torchvision for its pictures, so it is entered below its top.
    top = types.ModuleType("streaming")
    top.__path__ = list(importlib.util.find_spec("streaming").submodule_search_locations)
    sys.modules["streaming"] = top
    from streaming.base import MDSWriter, Stream, StreamingDataset

    values = read_yaml(folder / "streams.yaml")
    for name, stream in values["streams"].items():
        stream["local"] = str(folder / stream["local"])
        with MDSWriter(out=stream["local"], columns={"text": "str"}) as writer:
            for line in (world / f"{name}.jsonl").read_text().splitlines():
                writer.write({"text": json.loads(line)["text"]})
    streams = [Stream(**stream) for stream in values["streams"].values()]
    dataset = StreamingDataset(streams=streams, epoch_size=values["epoch_size"], shuffle=True, batch_size=1)
    return (sample["text"] for sample in dataset)


def megatron(folder: Path, _: Path) -> Iterable[str]:
    """Megatron core's own blending of 100,000 samples; its samples are of one length."""
    import numpy as np
    from megatron.core.datasets import helpers_cpp
    from megatron.core.datasets.utils import get_blend_from_list, normalize

    prefixes, weights = get_blend_from_list((folder / "data_args.txt").read_text().split())
    size = 100_000
    of_dataset, place = np.zeros(size, dtype=np.int16), np.zeros(size, dtype=np.int64)
    helpers_cpp.build_blending_indices(of_dataset, place, normalize(weights), len(prefixes), size, False)
    return (prefixes[number] for number in of_dataset)


def megatron_bridge(folder: Path, world: Path) -> Iterable[str]:
    """Megatron core's dataset of indexed files of the prefixes, at the blend of the configuration."""
    import numpy as np
    import torch
    from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
    from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder, get_bin_path, get_idx_path

    values = read_yaml(folder / "mixture.yaml")["dataset"]
    length, blend = values["seq_length"], values["blend"]
    for number, prefix in enumerate(blend[0]):
        builder = IndexedDatasetBuilder(get_bin_path(prefix), dtype=np.int32)
        builder.add_document(torch.full((4 * length + 1,), number + 1), [4 * length + 1])
        builder.finalize(get_idx_path(prefix))

    tokenizer = types.SimpleNamespace(eod=0, pad=-1, vocab_size=99, unique_identifiers={"name": "none"})
    config = GPTDatasetConfig(
        random_seed=1,
        sequence_length=length,
        blend=tuple(blend),
        split="1,0,0",
        tokenizer=tokenizer,
        reset_position_ids=False,
        reset_attention_mask=False,
        eod_mask_loss=False,
        path_to_cache=str(folder / "cache"),
    )
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/group", rank=0, world_size=1)
    builder = BlendedMegatronDatasetBuilder(GPTDataset, [1000, 0, 0], lambda: True, config)
    dataset, _, _ = builder.build()
    return (blend[0][int(dataset[at]["tokens"][0]) - 1] for at in range(1000))


def olmo_core(folder: Path, world: Path) -> Iterable[str]:
    """Sequences of 64 tokens by source, as OLMo-core's own plan of its dataset has them."""
    sys.meta_path.append(StandIns())
    import numpy as np
    from olmo_core.data.source_mixture import SourceMixtureDatasetConfig, SourceMixtureList
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(world / "base")
    sources = SourceMixtureList.from_dict(read_yaml(folder / "sources.yaml"))
    for source in sources.sources:
        texts = [json.loads(line)["text"] for line in (world / f"{source.source_name}.jsonl").read_text().splitlines()]
        ids = [number for row in tokenizer(texts)["input_ids"] for number in (*row, 1)]
        held = Path(source.paths[0]).parent
        held.mkdir(parents=True)
        np.array(ids, dtype=np.uint16).tofile(held / "part.npy")

    asked = 150_000 // 512 * 512
    config = SourceMixtureDatasetConfig(sources, requested_tokens=asked, global_batch_size=512, render_tables=False)
    mixture = config.build(npdtype=np.uint16, sequence_length=64)
    return (each.name for each in mixture.sources for piece in each.path_tokens for _ in range(piece.tokens // 64))


def ms_swift(folder: Path, _: Path) -> Iterable[str]:
    sys.meta_path.append(StandIns())
    from swift.dataset import load_dataset, register_dataset_info

    keys = read_yaml(folder / "mixture.yaml")
    register_dataset_info(keys["custom_dataset_info"][0])
    options = {
        name: keys[name] for name in ("split_dataset_ratio", "streaming", "strict", "disable_auto_column_mapping")
    }
    rows, _ = load_dataset(keys["dataset"], shuffle=keys["dataset_shuffle"], **options)
    return ["".join(message["content"] for message in row["messages"]) for row in rows]


if __name__ == "__main__":
    trainer, folder, world = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    found = Counter(globals()[trainer.replace("-", "_")](folder, world))
    sys.stdout.write(f"\n{json.dumps(found)}\n")
