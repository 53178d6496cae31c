"""The files of a folder that are its weights: those which transformers loads, whatever else lies beside them.

In this order: the file that `transformers_weights` in `config.json` names, `model.safetensors`, the shards of
`model.safetensors.index.json`; and where that index alone is missing, the shards, which say how many they are. What
else in the folder looks like weights is named, and not read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aftermix.checkpoints.safe_files import holds_file, read_json
from aftermix.errors import CheckpointError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
NAMED = "transformers_weights"
"""Key of `config.json` by which a model names its file or index."""
INDEX_END = ".safetensors.index.json"
RIVALS = ("model*.safetensors", "model*.json", "pytorch_model*.bin", "consolidated*.safetensors")
"""Names that weights of a whole model have, by one writer or another."""
ADAPTER = "adapter_model.safetensors"
SHARD = re.compile(r"^model-(?P<number>\d{5})-of-(?P<count>\d{5})\.safetensors$")
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
SHOWN = 3


@dataclass(frozen=True)
class WeightFiles:
    """The files that are read, and what is not read beside them."""

    chosen: Path
    """The single file, or the index."""
    index: Mapping[str, Path]
    """File by tensor name; empty for a single file."""
    rivals: tuple[str, ...]
    """Names of files that look like weights too."""
    shards: tuple[Path, ...] = ()
    """The files of a model in shards without an index, of which `chosen` is the first."""

    @property
    def files(self) -> list[Path]:
        """The files of tensors, in order of name."""
        if self.shards:
            return list(self.shards)
        return sorted(set(self.index.values())) if self.index else [self.chosen]

    def describe(self) -> tuple[str, ...]:
        """Sentence on the choice, without a subject; none where there was nothing to choose."""
        rivals = [name for name in self.rivals if name != ADAPTER]
        more = f" and {len(rivals) - SHOWN} more" if len(rivals) > SHOWN else ""
        listed = f"{', '.join(rivals[:SHOWN])}{more}"

        lines = []
        if self.shards:
            lines.append(
                f"has no {INDEX}: its {len(self.shards)} shards are all there, and read; transformers needs it"
            )
        lines += [f"is read from {self.chosen.name}, as transformers reads it, and not from {listed}"] if rivals else []
        if ADAPTER in self.rivals:
            lines.append(f"has {ADAPTER} beside its weights, which is not applied; transformers applies it under PEFT")
        return tuple(lines)


def find_weight_files(folder: Path, config: Mapping[str, Any], *, label: str) -> WeightFiles:
    """Choose the weights of the model in `folder`, whose `config.json` holds `config`, as transformers does.

    Raises :class:`CheckpointError` where there are none that are read, for an index whose files are not all there, and
    for one that leads out of the folder.
    """
    shards = _find_complete_shards(folder) if config.get(NAMED) is None else ()
    chosen = shards[0] if shards else _choose(folder, config, label)
    index = _read_weight_map(chosen) if chosen.name.endswith(INDEX_END) else {}

    read = {chosen.name, *(file.name for file in (*index.values(), *shards))}
    rivals = {path.name for pattern in (*RIVALS, ADAPTER) for path in folder.glob(pattern) if holds_file(path)} - read
    rivals = {name for name in rivals if _is_rival(folder / name, read)}
    return WeightFiles(chosen, index, tuple(sorted(rivals)), shards)


def _find_complete_shards(folder: Path) -> tuple[Path, ...]:
    """The shards of a folder without a single file and an index, if all that one of them counts are there."""
    if holds_file(folder / SINGLE) or (folder / INDEX).exists():
        return ()
    found = {path.name: path for path in folder.glob("model-*.safetensors") if holds_file(path)}
    matches = [match for name in sorted(found) if (match := SHARD.match(name))]
    counts = {match["count"] for match in matches}
    if len(counts) != 1 or [int(match["number"]) for match in matches] != [*range(1, int(*counts) + 1)]:
        return ()
    return tuple(found[match.string] for match in matches)


def _choose(folder: Path, config: Mapping[str, Any], label: str) -> Path:
    """The file or the index that transformers opens first."""
    named = config.get(NAMED)
    if named is not None:
        plain = isinstance(named, str) and Path(named).name == named and named not in ("", ".", "..")
        if not plain or not str(named).endswith((".safetensors", INDEX_END)) or not holds_file(folder / str(named)):
            found = f"expected `{NAMED}` to be a safetensors file of the folder, or its index, found {named!r}"
            raise CheckpointError(str(folder / "config.json"), found, f"Correct it, or remove it to read {SINGLE}.")
        return folder / str(named)

    if holds_file(folder / SINGLE):
        return folder / SINGLE
    if (folder / INDEX).exists():
        return folder / INDEX
    raise _explain_absence(folder, label)


def _is_rival(path: Path, read: Iterable[str]) -> bool:
    """Tell whether `path` holds or names other weights than those that are read; other JSON files do not."""
    if path.suffix != ".json":
        return True
    if not path.name.endswith(INDEX_END):
        return False
    try:
        entries = read_json(path, remedy="").get("weight_map")
    except CheckpointError:
        return True
    return not isinstance(entries, dict) or not {str(file) for file in entries.values()} <= set(read)


def _read_weight_map(path: Path) -> dict[str, Path]:
    """File by tensor name from the index `path`."""
    folder = path.parent
    entries = read_json(path, remedy="Download the index again.").get("weight_map")
    if not isinstance(entries, dict) or not entries:
        raise CheckpointError(str(path), "has no 'weight_map'", "Download the index again.")

    # The index may be a stranger's: only plain names of files in the folder are followed.
    for name, file in entries.items():
        if not isinstance(file, str) or Path(file).name != file or file in ("", ".", ".."):
            raise CheckpointError(
                str(path),
                f"places '{name}' in {file!r}, which is not a plain file name in the folder",
                "Do not use this checkpoint before you know who wrote that index.",
            )

    gone = sorted({file for file in entries.values() if not holds_file(folder / file)})
    if gone:
        more = f", and {len(gone) - 1} more that are not" if len(gone) > 1 else ""
        remedy = "Download the missing file." if not more else "Download the missing files."
        raise CheckpointError(str(path), f"names '{gone[0]}', which is not there{more}", remedy)
    return {name: folder / file for name, file in entries.items()}


def _explain_absence(folder: Path, label: str) -> CheckpointError:
    """The refusal of a folder without weights that are read, with the remedy for what it holds."""
    if (folder / "adapter_config.json").exists():
        return CheckpointError(
            label,
            "is an adapter, not a full model",
            "Name it under `vectors:`, beside its base; where a full model is needed, fold it (`merge_and_unload`).",
        )

    others = sorted(file.name for file in folder.glob("*.safetensors") if holds_file(file))
    pickled = sorted(file.name for pattern in PICKLES for file in folder.glob(pattern))
    whole = [name for name in pickled if name.startswith("pytorch_model")]
    if whole or (pickled and not others):
        convert = (
            f'python -c "from transformers import AutoModelForCausalLM as M; '
            f"M.from_pretrained('{folder}').save_pretrained('{folder}-safetensors')\""
        )
        return CheckpointError(
            label,
            f"expected safetensors, found pickled weights ({(whole or pickled)[0]}), "
            "which can run code when they are opened",
            f"If you trust the source, convert it: {convert}",
        )
    if others:
        found = f"expected {SINGLE} or {INDEX}, found {others[0]}, which transformers does not load by itself"
        remedy = f"Rename it to {SINGLE} if it is the whole model; for one of several shards, add their {INDEX}."
        return CheckpointError(label, found, remedy)

    return CheckpointError(label, f"expected {SINGLE} or {INDEX}, found neither", "Name a complete model folder.")
