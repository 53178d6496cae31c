"""Vocabularies of every form: rows are matched by token, and a form that is not read is refused where files differ."""

from __future__ import annotations

import base64
import json
import shutil
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from aftermix.checkpoints.alignment.tokenizer_files import list_vocabulary_files, read_pieces, read_vocabulary
from aftermix.checkpoints.model_files import list_companion_remarks
from aftermix.checkpoints.pool import open_pool
from aftermix.config import Config, MergeConfig, VectorConfig
from aftermix.errors import AftermixError
from aftermix.jobs.merge.command import merge

Family = dict[str, Path]
Writer = Callable[[Path, Sequence[str]], object]
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
ROWS = 320
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [*SPECIAL, *(f"word{number}" for number in range(ROWS - len(SPECIAL)))]
TURNED = [*SPECIAL, *reversed(WORDS[len(SPECIAL) :])]


def encode_number(value: int) -> bytes:
    low, rest = value & 127, value >> 7
    return bytes([low | 128]) + encode_number(rest) if rest else bytes([low])


def encode_field(number: int, content: bytes) -> bytes:
    return encode_number(number << 3 | 2) + encode_number(len(content)) + content


def encode_pieces(pieces: Sequence[str]) -> bytes:
    """A SentencePiece model as its trainer writes it: pieces with score and kind, then the trainer's settings."""
    parts = []
    for row, piece in enumerate(pieces):
        score = encode_number(2 << 3 | 5) + struct.pack("<f", -float(row))
        kind = encode_number(3 << 3 | 0) + encode_number(3 if piece in SPECIAL else 1)
        parts.append(encode_field(1, encode_field(1, piece.encode()) + score + kind))
    return b"".join(parts) + encode_field(2, encode_field(1, b"corpus.txt")) + encode_field(3, b"")


def write_lines(folder: Path, tokens: Sequence[str]) -> None:
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n")


def write_json(folder: Path, tokens: Sequence[str]) -> None:
    (folder / "vocab.json").write_text(json.dumps({token: row for row, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")


def write_tokenizer(folder: Path, tokens: Sequence[str]) -> None:
    vocabulary = {token: row for row, token in enumerate(tokens)}
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"type": "WordLevel", "vocab": vocabulary}}))


def write_pieces(name: str) -> Writer:
    return lambda folder, tokens: (folder / name).write_bytes(encode_pieces(tokens))


def write_ranks(folder: Path, tokens: Sequence[str]) -> None:
    lines = [f"{base64.b64encode(token.encode()).decode()} {rank}" for rank, token in enumerate(tokens)]
    (folder / "tokenizer.model").write_text("\n".join(lines) + "\n")


def write_shifted(name: str, kind: str, writer: Writer) -> Writer:
    def write(folder: Path, tokens: Sequence[str]) -> None:
        writer(folder, tokens)
        (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": kind}))

    return write


READ: dict[str, Writer] = {
    "vocab.txt": write_lines,
    "vocab.json": write_json,
    "tokenizer.json": write_tokenizer,
    **{name: write_pieces(name) for name in ("tokenizer.model", "spiece.model", "spm.model")},
}
UNREAD: dict[str, Writer] = {
    "tokenizer.model": write_ranks,
    "sentencepiece.bpe.model": write_pieces("sentencepiece.bpe.model"),
    "source.spm": write_pieces("source.spm"),
    "spiece.model": write_shifted("spiece.model", "PegasusTokenizer", write_pieces("spiece.model")),
    "vocab.txt": write_shifted("vocab.txt", "PhobertTokenizer", write_lines),
    "qwen.tiktoken": lambda folder, tokens: (folder / "qwen.tiktoken").write_text("\n".join(tokens)),
}


def without_tokenizer(source: Path, target: Path) -> Path:
    shutil.copytree(source, target)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (target / name).unlink(missing_ok=True)
    return target


@pytest.fixture
def bare(untied_family: Family, tmp_path: Path) -> Family:
    """An untied base and two experts without any tokenizer."""
    return {name: without_tokenizer(untied_family[name], tmp_path / name) for name in ("base", "b", "c")}


def config(models: Family, *vectors: str, vocabulary: str | None = None, exclude: tuple[str, ...] = ()) -> Config:
    entries = {name: VectorConfig(model=str(models[name]), weight=0.5) for name in vectors}
    section = MergeConfig(vocabulary=vocabulary, exclude=exclude)
    return Config(base=str(models["base"]), vectors=entries, merge=section)


def refusal(configuration: Config) -> str:
    with pytest.raises(AftermixError) as raised:
        open_pool(configuration)
    return str(raised.value)


@pytest.mark.parametrize("form", READ)
def test_rows_are_matched_by_token_whatever_the_form(form: str, bare: Family, tmp_path: Path) -> None:
    for name, tokens in (("base", WORDS), ("b", TURNED), ("c", WORDS)):
        READ[form](bare[name], tokens)
    found = refusal(config(bare, "b", "c"))
    told = "merge.vocabulary: vector 'b' has 320 tokens in 320 rows, base has 320 tokens in 320 rows; "
    assert found.startswith(told + "314 tokens differ, first 'word0' (row 319 and row 5)")

    out = merge(config(bare, "b", "c", vocabulary="base"), tmp_path / "out")
    base, b, c, made = (load_file(folder / "model.safetensors") for folder in (bare["base"], bare["b"], bare["c"], out))
    rows = [TURNED.index(token) for token in WORDS]
    for name in (EMBEDDING, HEAD):
        right = base[name] + 0.5 * (b[name][rows] - base[name]) + 0.5 * (c[name] - base[name])
        assert made[name].allclose(right, atol=1e-6)
    assert (out / form).read_bytes() == (bare["base"] / form).read_bytes()


@pytest.mark.parametrize("theirs", READ)
@pytest.mark.parametrize("ours", ["tokenizer.json", "vocab.txt", "tokenizer.model"])
def test_forms_are_compared_with_each_other(ours: str, theirs: str, bare: Family) -> None:
    READ[ours](bare["base"], WORDS)
    READ[theirs](bare["b"], WORDS)
    assert open_pool(config(bare, "b")).experts["b"].folder == bare["b"]
    READ[theirs](bare["b"], TURNED)
    assert "314 tokens differ" in refusal(config(bare, "b"))


@pytest.mark.parametrize("form", UNREAD)
def test_files_that_are_not_read_must_be_the_same(form: str, bare: Family) -> None:
    for name in ("base", "b", "c"):
        UNREAD[form](bare[name], WORDS)
    open_pool(config(bare, "b", "c"))
    open_pool(config(bare, "b", "c", vocabulary="b"))

    UNREAD[form](bare["b"], TURNED)
    for policy in (None, "base", "b"):
        found = refusal(config(bare, "b", "c", vocabulary=policy))
        assert f"a tokenizer that is not read ({form}) and 320 rows" in found, policy
        assert 'Make its tokenizer.json, so that rows can be aligned by token: python -c "from transformers' in found

    excluded = open_pool(config(bare, "b", "c", exclude=(EMBEDDING, HEAD)))
    assert "vector 'b' and the base have different vocabularies" in str(list_companion_remarks(excluded))


def test_a_form_that_is_not_read_beside_one_that_is(bare: Family) -> None:
    write_tokenizer(bare["base"], WORDS)
    UNREAD["sentencepiece.bpe.model"](bare["b"], WORDS)
    found = refusal(config(bare, "b"))
    assert "vector 'b' has a tokenizer that is not read (sentencepiece.bpe.model) and 320 rows, base has 320" in found
    UNREAD["sentencepiece.bpe.model"](bare["base"], WORDS)  # the same file beside the base's tokenizer.json
    open_pool(config(bare, "b"))


def test_experts_of_a_base_without_a_tokenizer_agree_among_themselves(bare: Family) -> None:
    write_lines(bare["b"], WORDS)
    open_pool(config(bare, "b", "c"))
    write_lines(bare["c"], TURNED)
    found = refusal(config(bare, "b", "c"))
    assert "vector 'c' has 320 tokens in 320 rows, base has 320 tokens in 320 rows; 314 tokens differ" in found
    assert f"base has no tokenizer of its own and is taken to speak that of {bare['b']}" in found
    assert f"Copy its tokenizer.json into {bare['base']}." in found


def test_a_vocabulary_of_lines_is_what_transformers_reads(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    (tmp_path / "vocab.txt").write_bytes("\r\n".join([*SPECIAL, "a", "", "b c", "ü", "a", "##d"]).encode() + b"\r\n")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    assert read_vocabulary(tmp_path) == AutoTokenizer.from_pretrained(tmp_path).get_vocab()
    assert (read_vocabulary(tmp_path) or {})["a"] == 9


def test_added_tokens_go_over_those_of_the_file(tmp_path: Path) -> None:
    write_pieces("tokenizer.model")(tmp_path, ["<unk>", "▁a"])
    decoder = {"0": {"content": "<unk>"}, "2": {"content": "<|im_start|>"}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": decoder}))
    (tmp_path / "added_tokens.json").write_text('{"<|im_end|>": 3}')
    assert read_vocabulary(tmp_path) == {"<unk>": 0, "▁a": 1, "<|im_start|>": 2, "<|im_end|>": 3}
    assert list_vocabulary_files(tmp_path) == ["tokenizer.model"]


@settings(max_examples=60)
@given(
    pieces=st.lists(st.text(min_size=1), min_size=1, max_size=5), cut=st.integers(1, 40), noise=st.binary(max_size=9)
)
def test_damaged_pieces_are_no_vocabulary(pieces: list[str], cut: int, noise: bytes) -> None:
    whole = encode_pieces(pieces)
    assert read_pieces(whole) == pieces
    for content in (whole[:-cut], noise, whole + noise):
        found = read_pieces(content)
        assert found is None or all(isinstance(piece, str) for piece in found)


@pytest.mark.parametrize("role", ["instruction", "expert"])
def test_tokens_beyond_the_rows_are_refused_of_an_instruction_model(role: Any, bare: Family) -> None:
    write_tokenizer(bare["base"], WORDS)
    write_tokenizer(bare["b"], [*WORDS, "<|im_start|>", "<|im_end|>"])
    vectors = {"b": VectorConfig(model=str(bare["b"]), role=role)}
    given_role = config(bare, "b").model_copy(update={"vectors": vectors})
    if role == "expert":
        open_pool(given_role)
        return
    found = refusal(given_role)
    assert found == (
        f"{bare['b']}: the tokenizer of vector 'b' has tokens without a row in the result, '<|im_start|>' (320) and 1 "
        "more; there are 320 rows. Remove `role: instruction` from it, or name a model that was saved with more than "
        "320 rows."
    )
    write_tokenizer(bare["base"], [*WORDS, "<|im_start|>", "<|im_end|>"])  # the base's own trait
    open_pool(given_role)


def test_the_bias_of_a_masked_language_model_has_a_row_a_token(tmp_path: Path) -> None:
    from transformers import BertConfig, BertForMaskedLM

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    for seed, (name, tokens) in enumerate((("base", WORDS), ("b", TURNED))):
        torch.manual_seed(seed)
        model = BertForMaskedLM(BertConfig(vocab_size=ROWS, max_position_embeddings=8, **sizes))
        torch.nn.init.normal_(model.cls.predictions.bias)
        model.save_pretrained(tmp_path / name)
        write_lines(tmp_path / name, tokens)

    models = {"base": tmp_path / "base", "b": tmp_path / "b"}
    out = merge(config(models, "b", vocabulary="base"), tmp_path / "out")
    base, b, made = (load_file(folder / "model.safetensors") for folder in (models["base"], models["b"], out))
    rows = [TURNED.index(token) for token in WORDS]
    for name in ("cls.predictions.bias", "bert.embeddings.word_embeddings.weight"):
        assert made[name].allclose(base[name] + 0.5 * (b[name][rows] - base[name]), atol=1e-6), name
