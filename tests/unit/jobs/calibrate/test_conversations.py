"""Statistics over conversations, written by the expert's own chat template: what is read, what counts, what is told."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, MixtralConfig

from aftermix.config import Config, parse_config
from aftermix.errors import AftermixError
from aftermix.jobs.calibrate.command import calibrate
from aftermix.saliency.storage import StoredStatistics, read_statistics
from support.chat_world import CHATML, build_chat_tokenizer, encode_messages, said

OWN = CHATML.replace("<|' + m['role'] + '|>", "<|' + m['role'] + '|> ")
"""Another template than the base's."""
TALKS = [
    [
        said("user", f"the cat {number}"),
        said("assistant", "the red dog"),
        said("user", "and"),
        said("assistant", "sees"),
    ]
    for number in range(6)
]
SIZES = {"vocab_size": 400, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
HEADS = {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 128}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A base and an expert with templates of their own, and conversations as JSON lines and as parquet."""
    torch.set_num_threads(1)
    for name, template in (("base", CHATML), ("expert", OWN)):
        torch.manual_seed(len(name))
        LlamaForCausalLM(LlamaConfig(**SIZES, **HEADS)).save_pretrained(tmp_path / name)
        build_chat_tokenizer(template).save_pretrained(tmp_path / name)
    lines = [json.dumps({"messages": talk}) for talk in TALKS]
    (tmp_path / "talks.jsonl").write_text("\n".join(lines) + "\n")
    pq.write_table(pa.table({"messages": TALKS}), tmp_path / "talks.parquet")
    return tmp_path


def build_config(folder: Path, *, calibrate: dict[str, Any] | None = None, **calibration: Any) -> Config:
    vector = {"model": "expert", "calibration": {"data": "talks.jsonl", "format": "chat", **calibration}}
    values = {"base": "base", "vectors": {"e": vector}, "calibrate": calibrate or {}}
    return parse_config(values, where="merge.yaml", folder=folder)


def measure(folder: Path, output: str, **options: Any) -> StoredStatistics:
    calibrate(build_config(folder, **options), folder / output)
    return read_statistics(folder / output, "e")


def measure_by_hand(folder: Path, *, answers_alone: bool) -> tuple[torch.Tensor, int]:
    """Mean squares of what the first linear layer of the expert's MLP is fed, and the tokens that count."""
    model = AutoModelForCausalLM.from_pretrained(folder / "expert")
    tokenizer = AutoTokenizer.from_pretrained(folder / "expert")
    taken: list[torch.Tensor] = []
    marks: list[bool] = []
    model.model.layers[0].mlp.up_proj.register_forward_pre_hook(lambda _, args: taken.append(args[0][0].detach()))
    for talk in TALKS:
        found = encode_messages(tokenizer, *talk)
        assert tokenizer.apply_chat_template(talk, return_dict=False) == found.ids.tolist()
        assert found.answered is not None
        marks += found.answered.tolist() if answers_alone else [True] * len(found.ids)
        model(torch.from_numpy(found.ids).long()[None])
    rows = torch.cat(taken)[torch.tensor(marks)]
    return rows.square().mean(0), len(rows)


@pytest.mark.parametrize("tokens", ["all", "answers"])
@pytest.mark.parametrize("stream", [False, True])
def test_statistics_are_those_of_the_rendered_conversations(folder: Path, tokens: str, stream: bool) -> None:
    found = measure(folder, "out", tokens=tokens, calibrate={"stream": stream, "batch_size": 4})
    squares, count = measure_by_hand(folder, answers_alone=tokens == "answers")
    name = "model.layers.0.mlp.up_proj.weight"
    torch.testing.assert_close(found.mean_square(name), squares, rtol=1e-5, atol=1e-8)
    assert found.tokens(name) == found.tokens("lm_head.weight") == (count,)

    data = found.note.data
    whole = measure_by_hand(folder, answers_alone=False)[1]
    assert (data.format, data.texts, data.samples, data.tokens) == ("chat", 6, 6, whole)
    assert data.template_sha256 == hashlib.sha256(OWN.encode()).hexdigest()
    assert data.counted == (count if tokens == "answers" else None)
    assert ("counted" in json.loads((folder / "out/e.json").read_text())["data"]) is (tokens == "answers")


def test_parquet_and_json_lines_give_one_result(folder: Path) -> None:
    lines, table = measure(folder, "one"), measure(folder, "two", data="talks.parquet")
    assert (folder / "one/e.safetensors").read_bytes() == (folder / "two/e.safetensors").read_bytes()
    assert lines.note.data.samples_sha256 == table.note.data.samples_sha256
    answers = measure(folder, "three", tokens="answers")
    assert answers.note.data.samples_sha256 != lines.note.data.samples_sha256


def test_a_conversation_beyond_the_context_is_cut_with_its_marks(folder: Path) -> None:
    found = measure(folder, "out", tokens="answers", calibrate={"context": 5, "long_texts": "cut", "samples": 500})
    _, count = measure_by_hand(folder, answers_alone=True)
    assert (found.note.data.context, found.note.data.counted) == (5, count)
    with pytest.raises(AftermixError, match="expected at most 5 tokens, found "):
        measure(folder, "other", calibrate={"context": 5})


def test_completions_are_read_too(folder: Path) -> None:
    rows = [{"prompt": "the cat", "completion": " sees"}, {"prompt": "the dog and", "completion": " the red bird"}]
    (folder / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = measure(folder, "out", data="asked.jsonl", format="completion", tokens="answers")
    assert (found.note.data.format, found.note.data.template_sha256) == ("completion", None)
    assert found.note.data.counted is not None
    assert 0 < found.note.data.counted < found.note.data.tokens


def test_what_cannot_be_read_or_counted_is_refused(folder: Path) -> None:
    for options, message in (
        ({"format": "text", "tokens": "answers"}, "'tokens: answers' needs `format: chat` or `completion`"),
        ({"data": None, "task": "x"}, "'format' belongs to `data`: the prompts of a task are read as they are"),
        (
            {"format": "text"},
            r"Set `vectors.e.calibration.format: chat` for conversations, or `vectors.e.calibration.text_",
        ),
    ):
        with pytest.raises(AftermixError, match=message):
            measure(folder, "out", **options)  # type: ignore[arg-type]
    assert not (folder / "out").exists()

    AutoModelForCausalLM.from_config(
        MixtralConfig(**SIZES, **HEADS, num_local_experts=2, num_experts_per_tok=1)
    ).save_pretrained(folder / "expert")
    AutoModelForCausalLM.from_pretrained(folder / "expert").save_pretrained(folder / "base")
    assert measure(folder, "whole").note.data.counted is None
    with pytest.raises(AftermixError, match="is fed a part of the tokens only .* Count `tokens: all`"):
        measure(folder, "out", tokens="answers")

    tokenizer = AutoTokenizer.from_pretrained(folder / "expert")
    tokenizer.chat_template = None
    (folder / "expert/chat_template.jinja").unlink()
    tokenizer.save_pretrained(folder / "expert")
    with pytest.raises(AftermixError, match="the tokenizer has no chat template"):
        measure(folder, "other")
