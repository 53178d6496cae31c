"""Models, tokenizer, tasks and texts that all scenarios share: `python world.py FOLDER`.

Made by torch, transformers and tokenizers alone, from seeds: neither version that is compared has a part in it.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

VOCABULARY = 320
EXPERTS = ("a", "b", "c", "d", "e")
TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}A: {% generation %}{{ message['content'] }}"
    "</s>{% endgeneration %}{% else %}Q: {{ message['content'] }} {% endif %}{% endfor %}"
)
SENTENCE = "the sum of the numbers is even and the answer is one of these"
OPENINGS = {
    "b": "the sum of the numbers is even ",
    "c": "one of these is the answer and the sum ",
    "d": "even numbers and the sum of one ",
    "e": "is the answer one of the numbers ",
}
TASK = """\
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
  - metric: acc_norm
"""


def make_world(folder: Path) -> None:
    """Write the whole world into `folder`, which must not exist."""
    folder.mkdir(parents=True)
    make_family(folder / "tied", tied=True, dtype=torch.bfloat16)
    make_family(folder / "untied", tied=False, dtype=torch.float32)
    make_odd_inputs(folder / "odd", folder / "tied")
    make_damaged(folder / "damaged", folder / "tied")
    make_texts(folder / "texts")
    make_tasks(folder / "tasks")


def make_family(folder: Path, *, tied: bool, dtype: torch.dtype) -> None:
    """Write a Llama base and five experts at a small random distance; `a` is sharded and has a chat template."""
    torch.manual_seed(0)
    base = LlamaForCausalLM(llama(tied=tied)).to(dtype)
    base.save_pretrained(folder / "base")
    save_tokenizer(folder / "base")
    for number, name in enumerate(EXPERTS, 1):
        expert = LlamaForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
        torch.manual_seed(number)
        with torch.no_grad():
            for parameter in expert.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.02)
        expert.to(dtype).save_pretrained(folder / name, max_shard_size="20KB" if name == "a" else "5GB")
        save_tokenizer(folder / name, template=TEMPLATE if name == "a" else None)


def llama(*, tied: bool) -> LlamaConfig:
    """Return the configuration of a model of about 25,000 weights."""
    return LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=tied,
        bos_token_id=0,
        eos_token_id=1,
    )


def save_tokenizer(folder: Path, *, template: str | None = None, added: tuple[str, ...] = ()) -> None:
    """Write a byte-level BPE tokenizer of `VOCABULARY` tokens, `<s>` being 0 and `</s>` 1, and the tokens `added`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([SENTENCE] * 9, trainer)
    tokenizer.add_tokens(list(added))
    marks = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **marks)
    fast.chat_template = template
    fast.save_pretrained(folder)


def make_odd_inputs(folder: Path, family: Path) -> None:
    """Write vectors that are stored otherwise than their base: an adapter, FP8, other names, another vocabulary."""
    make_adapter(folder / "adapter")
    make_fp8(folder / "fp8", family / "b")
    weights = load_file(family / "b" / "model.safetensors")
    copy_with(folder / "renamed", family / "b", {f"language_{name}": value for name, value in weights.items()})
    name = "model.embed_tokens.weight"
    rows = torch.randn(2, 32, generator=torch.Generator().manual_seed(7)).to(torch.bfloat16)
    copy_with(folder / "wider", family / "c", load_file(family / "c" / "model.safetensors") | {
        name: torch.cat([load_file(family / "c" / "model.safetensors")[name], rows])
    })  # fmt: skip
    change_config(folder / "wider", vocab_size=VOCABULARY + 2)
    save_tokenizer(folder / "wider", added=("<ja>", "<zh>"))


def make_adapter(folder: Path) -> None:
    """Write a LoRA adapter of the query and down projections, as PEFT stores one."""
    folder.mkdir(parents=True)
    draw = torch.Generator().manual_seed(11)
    tensors = {}
    for layer in range(2):
        for path, rows, columns in (("self_attn.q_proj", 32, 32), ("mlp.down_proj", 32, 48)):
            stem = f"base_model.model.model.layers.{layer}.{path}"
            tensors[f"{stem}.lora_A.weight"] = torch.randn(4, columns, generator=draw) * 0.1
            tensors[f"{stem}.lora_B.weight"] = torch.randn(rows, 4, generator=draw) * 0.1
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "base",
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ["q_proj", "down_proj"],
        "bias": "none",
    }
    write_json(folder / "adapter_config.json", settings)


def make_fp8(folder: Path, model: Path) -> None:
    """Write `model` with its linear weights in FP8 and a scale for each block of 16 x 16."""
    tensors = {}
    for name, value in load_file(model / "model.safetensors").items():
        if "_proj" not in name:
            tensors[name] = value
            continue
        blocks = value.float().unfold(0, 16, 16).unfold(1, 16, 16)
        scales = blocks.abs().amax(dim=(2, 3)) / 448
        spread = scales.repeat_interleave(16, 0).repeat_interleave(16, 1)
        tensors[name] = (value.float() / spread).to(torch.float8_e4m3fn)
        tensors[f"{name}_scale_inv"] = scales
    copy_with(folder, model, tensors)
    change_config(folder, quantization_config={"quant_method": "fp8", "weight_block_size": [16, 16], "fmt": "e4m3"})


def make_damaged(folder: Path, family: Path) -> None:
    """Write copies of expert `b` that no merge may take, each with one fault."""
    weights = load_file(family / "b" / "model.safetensors")
    first = "model.layers.0.mlp.up_proj.weight"
    copy_with(folder / "nan", family / "b", weights | {first: torch.full_like(weights[first], float("nan"))})
    copy_with(folder / "shape", family / "b", weights | {first: weights[first][:40].clone()})
    copy_with(folder / "missing", family / "b", {name: value for name, value in weights.items() if name != first})
    copy_with(folder / "extra", family / "b", weights | {"model.layers.2.mlp.up_proj.weight": weights[first].clone()})
    copy_with(folder / "renamed", family / "b", {f"net.{name}": value for name, value in weights.items()})
    copy_with(folder / "integers", family / "b", weights | {first: weights[first].to(torch.int32)})
    make_broken_files(folder, family / "b")


def make_broken_files(folder: Path, model: Path) -> None:
    """Write copies of `model` whose files themselves are broken."""
    whole = (model / "model.safetensors").read_bytes()
    headers = {
        "header": b"\x20" + bytes(7) + b"{not json" + whole[17:],
        "length": b"\xff" * 8 + whole[8:],
        "short": whole[: len(whole) // 2],
        "empty": b"",
    }
    for name, content in headers.items():
        shutil.copytree(model, folder / name)
        (folder / name / "model.safetensors").write_bytes(content)
    shutil.copytree(model, folder / "pickled")
    (folder / "pickled" / "model.safetensors").rename(folder / "pickled" / "pytorch_model.bin")
    shutil.copytree(model, folder / "no-config")
    (folder / "no-config" / "config.json").unlink()
    shutil.copytree(model, folder / "bad-config")
    (folder / "bad-config" / "config.json").write_text('{"vocab_size": ')
    shutil.copytree(model, folder / "outside")
    (folder / "outside" / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": {"model.norm.weight": "../b/model.safetensors"}}
    write_json(folder / "outside" / "model.safetensors.index.json", index)
    (folder / "bare").mkdir()


def copy_with(folder: Path, model: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Copy the folder `model` and give it other `tensors`."""
    shutil.copytree(model, folder)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def change_config(folder: Path, **changed: Any) -> None:
    """Change keys of the `config.json` in `folder`."""
    file = folder / "config.json"
    write_json(file, json.loads(file.read_text()) | changed)


def make_texts(folder: Path) -> None:
    """Write documents by domain, conversations and completions, as JSON lines."""
    folder.mkdir()
    for name, text in OPENINGS.items():
        write_lines(folder / f"{name}.jsonl", ({"text": f"{text * (2 + n % 3)}{n}"} for n in range(60)))
    (folder / "plain.txt").write_text(f"{SENTENCE} " * 20)
    (folder / "nothing.jsonl").write_text("")
    write_lines(folder / "chats.jsonl", (
        {"messages": [{"role": "user", "content": f"is {n} even"}, {"role": "assistant", "content": "the answer"}]}
        for n in range(40)
    ))  # fmt: skip
    rows = ({"prompt": f"the sum of {n} ", "completion": "is one of these"} for n in range(40))
    write_lines(folder / "completions.jsonl", rows)


def make_tasks(folder: Path) -> None:
    """Write two local multiple-choice tasks of 60 items for the evaluation harness."""
    folder.mkdir()
    for name, question in {"colours": "What colour is", "numbers": "How many are"}.items():
        draw = random.Random(name)  # noqa: S311 - nothing secret
        # Random letters: what a random model prefers among them changes with its weights.
        write_lines(folder / f"{name}.jsonl", [
            {
                "question": f"{question} thing {number}?",
                "choices": ["".join(draw.choices("abcdefghij", k=4)) for _ in range(3)],
                "gold": draw.randrange(3),
            }
            for number in range(60)
        ])  # fmt: skip
        (folder / f"{name}.yaml").write_text(TASK.format(name=name))


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON."""
    path.write_text(json.dumps(value, indent=2) + "\n")


def write_lines(path: Path, rows: Iterable[Any]) -> None:
    """Write each of `rows` as one line of JSON."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    make_world(Path(sys.argv[1]))
