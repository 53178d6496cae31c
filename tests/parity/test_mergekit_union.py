"""`tokenizer_source: union` by the real mergekit 0.1.5, where it is at hand: the same rows, token by token."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from aftermix.jobs.merge.command import merge
from aftermix.mergekit.reading import load_recipe
from conftest import VOCABULARY, save_tokenizer

MERGEKIT = os.environ.get("MERGEKIT") or shutil.which("mergekit-yaml")
pytestmark = [
    pytest.mark.whole,
    pytest.mark.skipif(MERGEKIT is None, reason="mergekit-yaml is not installed; set MERGEKIT to its path"),
]
ADDED = {"base": [], "a": ["<a>", "<c>"], "b": ["<b>", "<c>"]}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base and two experts that add a token of their own and one in common."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

    folder = tmp_path_factory.mktemp("union")
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
    )
    for seed, (name, words) in enumerate(ADDED.items()):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
        if words:
            model.resize_token_embeddings(VOCABULARY + len(words), mean_resizing=False)
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.02)
        model.save_pretrained(folder / name)
        save_tokenizer(folder / name)
        tokenizer = AutoTokenizer.from_pretrained(folder / name)
        tokenizer.add_tokens(words)
        tokenizer.save_pretrained(folder / name)
    return folder


@pytest.mark.parametrize("method", ["linear", "task_arithmetic", "ties"])
def test_rows_of_a_union_are_those_of_mergekit(models: Path, method: str, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    parameters = {"density": 0.5} if method == "ties" else {}
    recipe = {
        "merge_method": method,
        "models": [
            {"model": str(models / name), "parameters": {"weight": weight, **parameters}}
            for name, weight in (("a", 0.6), ("b", 0.4))
        ],
        "tokenizer_source": "union",
        "dtype": "float32",
        **({} if method == "linear" else {"base_model": str(models / "base")}),
    }
    file = tmp_path / "recipe.yml"
    file.write_text(yaml.safe_dump(recipe))
    ours = merge(load_recipe(file), tmp_path / "ours")
    theirs = tmp_path / "theirs"
    assert MERGEKIT is not None
    without_paths = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    subprocess.run([MERGEKIT, file, theirs], check=True, capture_output=True, env=without_paths)

    found = load_file(ours / "model.safetensors")
    expected = {name: tensor for path in theirs.glob("*.safetensors") for name, tensor in load_file(path).items()}
    rows, other_rows = (AutoTokenizer.from_pretrained(folder).get_vocab() for folder in (ours, theirs))
    assert rows.keys() == other_rows.keys()  # their order is another without a base
    order = sorted(rows)
    for name, tensor in found.items():
        if name in ("model.embed_tokens.weight", "lm_head.weight"):
            tensor, theirs_by_row = tensor[[rows[word] for word in order]], expected[name]
            expected[name] = theirs_by_row[[other_rows[word] for word in order]]
        torch.testing.assert_close(tensor, expected[name], rtol=1e-6, atol=1e-7)
