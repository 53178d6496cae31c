"""Hold a GGUF that llama.cpp's converter wrote against the model folder it was made from, tensor by tensor.

    python examples/hand_on/check_gguf.py MODEL.gguf MODEL

Tensors are read back with the names and the order of rows that the folder has, as `aftermix` reads any GGUF. With
`--outtype bf16` or `f32` all are equal; a smaller type tells the largest difference. With `--tiny FOLDER` a tiny
model is written there and held against itself.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from score_texts import write_tiny_model

import aftermix


@dataclass(frozen=True)
class TensorComparison:
    """How many tensors are equal, and the largest difference of an entry."""

    tensors: int
    equal: int
    largest: float


def compare_models(other: Path, model: Path) -> TensorComparison:
    """Compare each tensor of `other` with that of `model`; raises `aftermix.AftermixError` for unlike models."""
    written = dict(aftermix.Pool(model, {"other": other}, merge={"exclude": []}).merge({"other": 1.0}).tensors())
    read = dict(aftermix.Pool(model, {"other": model}, merge={"exclude": []}).merge({"other": 1.0}).tensors())
    apart = [float((written[name].float() - tensor.float()).abs().max()) for name, tensor in read.items()]
    return TensorComparison(len(apart), sum(value == 0 for value in apart), max(apart))


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the comparison; 1 if a tensor differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("gguf", type=Path, nargs="?")
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("--tiny", type=Path, metavar="FOLDER", help="a tiny model, written there, against itself")
    options = parser.parse_args(arguments)
    if not options.tiny and options.model is None:
        parser.error("name a GGUF and the model folder that it was made from")

    model = write_tiny_model(options.tiny / "hand-on") if options.tiny else options.model
    found = compare_models(model if options.tiny else options.gguf, model)
    print(f"{found.equal} of {found.tensors} tensors are equal; the largest difference is {found.largest:.3g}")
    return 0 if found.equal == found.tensors else 1


if __name__ == "__main__":
    if main():
        raise SystemExit(1)
