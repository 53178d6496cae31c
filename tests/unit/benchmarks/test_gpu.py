"""benchmarks/gpu.py needs torch, transformers, safetensors and NumPy alone: a machine with a GPU is often bare."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "gpu.py"
ALLOWED = {"torch", "transformers", "safetensors", "numpy", "aftermix", "tiny"}
OF_THE_PRODUCT = "combine_by_product"
"""The one function that imports what may not be there."""


def test_imports() -> None:
    tree = ast.parse(SCRIPT.read_text(encoding="utf-8"))
    inner = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == OF_THE_PRODUCT]
    apart = {id(node) for function in inner for node in ast.walk(function)}
    named = [
        name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom) and id(node) not in apart
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [each.name for each in node.names])
    ]
    assert {name.partition(".")[0] for name in named} - sys.stdlib_module_names <= ALLOWED
    ours = {name for name in named if name.startswith("aftermix")}
    assert ours
    assert not any(name.startswith(("aftermix.config", "aftermix.merging", "aftermix.jobs")) for name in ours)
