"""Modules of sentence-transformers: what makes one vector of a model's hidden states, in folders of their own.

`modules.json` names them in order. Most have a configuration alone (pooling, normalisation). Those with weights (a
dense layer) are models of their own, which a merge treats as it treats the model.
"""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath

from aftermix.checkpoints.safe_files import MAX_JSON_BYTES, holds_file, read_entry
from aftermix.errors import CheckpointError

MODULES_FILE = "modules.json"
MODULE_WEIGHTS = "model.safetensors"
MODULE_PICKLE = "pytorch_model.bin"


def list_module_folders(folder: Path) -> list[str]:
    """Subfolders of `folder` that its `modules.json` names, as it writes them; none that leads out of it."""
    if not holds_file(folder / MODULES_FILE):
        return []
    try:
        content = read_entry(folder / MODULES_FILE, folder=folder, remedy="", max_bytes=MAX_JSON_BYTES)
        named = [str(module.get("path") or "").strip("/") for module in json.loads(content)]
    except (CheckpointError, OSError, ValueError, AttributeError, TypeError):  # a stranger's file, copied as it is
        return []
    plain = [name for name in named if name and not {"..", "."} & set(PurePosixPath(name).parts) and "\\" not in name]
    return [name for name in dict.fromkeys(plain) if (folder / name).is_dir()]


def list_weighted_modules(folder: Path) -> list[str]:
    """Those of them that hold weights, in safetensors or pickled."""
    names = (MODULE_WEIGHTS, MODULE_PICKLE)
    return [module for module in list_module_folders(folder) if any(holds_file(folder / module / n) for n in names)]
