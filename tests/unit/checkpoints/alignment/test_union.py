"""`vocabulary: union`: rows by token, means for new ones, one tokenizer; each row written out by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import aftermix
from aftermix.errors import AftermixError
from aftermix.mergekit.reading import read_mergekit

ROWS = {"base": ["x", "y"], "a": ["y", "x", "<a>"], "b": ["x", "y", "<b>", "<a>"]}
UNION = ["x", "y", "<a>", "<b>"]


def write_model(folder: Path, words: list[str], *, padding: int = 0) -> torch.Tensor:
    """A model of an embedding, a head and a norm, whose tokens in <> are added; its embedding."""
    folder.mkdir(parents=True)
    torch.manual_seed(len(words))
    rows = torch.randn(len(words) + padding, 3)
    tensors = {"model.embed_tokens.weight": rows, "lm_head.weight": rows * 2, "model.norm.weight": torch.ones(3)}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = {"architectures": ["LlamaForCausalLM"], "vocab_size": len(rows), "tie_word_embeddings": False}
    (folder / "config.json").write_text(json.dumps(config))
    added = [{"id": row, "content": word, "special": True} for row, word in enumerate(words) if word.startswith("<")]
    vocabulary = {word: row for row, word in enumerate(words) if not word.startswith("<")}
    content = {"model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "x"}, "added_tokens": added}
    (folder / "tokenizer.json").write_text(json.dumps(content))
    return rows


@pytest.fixture
def rows(tmp_path: Path) -> dict[str, dict[str, torch.Tensor]]:
    """By model and token, its row of the embedding; models in folders of their names."""
    found = {name: write_model(tmp_path / name, words, padding=2) for name, words in ROWS.items()}
    return {name: dict(zip(words, found[name][: len(words)], strict=True)) for name, words in ROWS.items()}


def merged(tmp_path: Path, weights: Mapping[str, float], *, base: str | None = "base", **options: object) -> Path:
    pool = aftermix.Pool(tmp_path / base if base else None, {name: tmp_path / name for name in weights})
    return pool.merge(weights, vocabulary="union", **options).save(tmp_path / "out")


def test_rows_are_by_token_and_new_ones_start_at_their_mean(
    rows: dict[str, dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    out = merged(tmp_path, {"a": 0.5, "b": 0.25})
    start = rows["base"] | {"<a>": (rows["a"]["<a>"] + rows["b"]["<a>"]) / 2, "<b>": rows["b"]["<b>"]}
    for name, factor in (("model.embed_tokens.weight", 1), ("lm_head.weight", 2)):
        found = load_file(out / "model.safetensors")[name] / factor
        for row, token in enumerate(UNION):
            a, b = (rows[model].get(token, start[token]) - start[token] for model in "ab")
            torch.testing.assert_close(found[row], start[token] + 0.5 * a + 0.25 * b)
        assert len(found) == 4
    assert json.loads((out / "config.json").read_text())["vocab_size"] == 4
    added = json.loads((out / "tokenizer.json").read_text())["added_tokens"]
    assert [(entry["id"], entry["content"], entry["special"]) for entry in added] == [
        (2, "<a>", True),
        (3, "<b>", True),
    ]
    assert "vocabulary: union" in (out / "aftermix.yaml").read_text()


def test_without_a_base_what_a_model_lacks_is_the_mean_of_the_others(
    rows: dict[str, dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    out = merged(tmp_path, {"a": 1.0, "b": 1.0}, base=None, method="linear", vocabulary_multiple=3)
    found = load_file(out / "model.safetensors")["model.embed_tokens.weight"]
    whole = {model: rows[model] | {"<b>": rows["b"]["<b>"]} for model in "ab"}
    expected = torch.stack([(whole["a"][token] + whole["b"][token]) / 2 for token in ("y", "x", "<a>", "<b>")])
    torch.testing.assert_close(found[:4], expected)
    torch.testing.assert_close(found[4:], expected.mean(dim=0).expand(2, -1))


def test_equal_vocabularies_are_left_as_they_are(tmp_path: Path) -> None:
    for name in ("base", "a"):
        write_model(tmp_path / name, ["x", "y"])
    out = merged(tmp_path, {"a": 1.0})
    assert (out / "tokenizer.json").read_bytes() == (tmp_path / "base" / "tokenizer.json").read_bytes()
    assert len(load_file(out / "model.safetensors")["lm_head.weight"]) == 2


def test_what_no_tokenizer_tells_is_refused(rows: object, tmp_path: Path) -> None:
    (tmp_path / "b" / "tokenizer.json").unlink()
    with pytest.raises(AftermixError, match="vector 'b' has no tokenizer that is read"):
        merged(tmp_path, {"a": 0.5, "b": 0.25})


def test_a_recipe_may_ask_for_it() -> None:
    models = [{"model": "org/a", "parameters": {"weight": 1}}]
    values = {"merge_method": "linear", "models": models}
    found = read_mergekit(values | {"tokenizer": {"source": "union", "pad_to_multiple_of": 64}}, where="r").merge
    assert (found.vocabulary, found.vocabulary_multiple) == ("union", 64)
    assert read_mergekit(values | {"tokenizer_source": "union"}, where="r").merge.vocabulary == "union"
