"""A merged model handed on: read by vLLM, and by llama.cpp's converter, as it was written.

Both want an environment of their own; name them by `HAND_ON_VLLM=PATH/bin/python` (seen with the CPU build of vLLM
0.32.0) and `HAND_ON_LLAMA_CPP="PATH/bin/python PATH/convert_hf_to_gguf.py"` (seen with the converter in the source of
llama-cpp-python 0.3.36, beside torch, transformers, gguf and sentencepiece). The converter knows tokenizers by name, so
it takes the folder of SmolLM2's tokenizer too: `HAND_ON_TOKENIZER=PATH`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from transformers import LlamaConfig, LlamaForCausalLM

from conftest import run_cli

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "examples" / "hand_on"
VLLM, LLAMA_CPP, TOKENIZER = (os.environ.get(f"HAND_ON_{name}") for name in ("VLLM", "LLAMA_CPP", "TOKENIZER"))
DIMENSIONS = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}


def write_winner(folder: Path, tokenizer: Path) -> Path:
    """The merge of two experts of a tiny base in bfloat16, as a search leaves it."""
    rows = max(json.loads((tokenizer / "tokenizer.json").read_text())["model"]["vocab"].values()) + 1
    shared = {"num_key_value_heads": 1, "tie_word_embeddings": True, "max_position_embeddings": 256}
    for seed, name in enumerate(("base", "ja", "math")):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(LlamaConfig(vocab_size=-(-rows // 64) * 64, **DIMENSIONS, **shared))
        model.to(torch.bfloat16).save_pretrained(folder / name)
        for file in tokenizer.glob("token*"):
            shutil.copy(file, folder / name)

    values = {"base": "base", "vectors": {name: {"model": name, "weight": 0.2} for name in ("ja", "math")}}
    (folder / "aftermix.yaml").write_text(yaml.safe_dump(values | {"merge": {"exclude": []}}))
    assert run_cli("merge", folder / "aftermix.yaml", "-o", folder / "winner") == 0
    return folder / "winner"


def run_script(*command: object) -> str:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=900, cwd=ROOT)
    assert done.returncode == 0, f"{done.stdout[-2000:]}{done.stderr[-3000:]}"
    return done.stdout


def test_vllm_scores_the_winner_as_transformers_does(tmp_path: Path) -> None:
    if VLLM is None:
        pytest.skip("no vLLM is named; set HAND_ON_VLLM to the Python of its environment")
    winner, answers = write_winner(tmp_path, ROOT / "examples" / "demo" / "base"), tmp_path / "transformers.json"
    run_script(sys.executable, SCRIPTS / "score_texts.py", winner, "-o", answers)
    by_vllm = ("--engine", "vllm", "--memory", "0.2", "--against", str(answers))
    told = run_script(VLLM, SCRIPTS / "score_texts.py", winner, *by_vllm)
    assert "largest difference" in told

    # Another model is told apart.
    command = [VLLM, str(SCRIPTS / "score_texts.py"), str(tmp_path / "base"), *by_vllm]
    other = subprocess.run(command, capture_output=True, text=True, timeout=900, cwd=ROOT)
    assert other.returncode == 1, other.stderr[-2000:]


def test_the_gguf_of_llama_cpps_converter_has_the_winners_tensors(tmp_path: Path) -> None:
    if LLAMA_CPP is None or TOKENIZER is None:
        pytest.skip("no converter is named; set HAND_ON_LLAMA_CPP and HAND_ON_TOKENIZER")
    winner, file = write_winner(tmp_path, Path(TOKENIZER)), tmp_path / "winner.gguf"
    run_script(*LLAMA_CPP.split(), winner, "--outfile", file, "--outtype", "bf16")
    told = run_script(sys.executable, SCRIPTS / "check_gguf.py", file, winner)
    assert "20 of 20 tensors are equal; the largest difference is 0" in told

    # Of the base, which has other values, it is told.
    done = subprocess.run(
        [sys.executable, SCRIPTS / "check_gguf.py", file, tmp_path / "base"], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 1, done.stderr[-2000:]
    assert "5 of 20 tensors are equal" in done.stdout, "the norms, which are ones in all three models"
