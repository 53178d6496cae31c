"""Prepared vectors that processes share: the same bits, prepared once, whole after a death, gone at the end."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from aftermix.checkpoints.pool import open_pool
from aftermix.config import parse_config
from aftermix.merging.merge import Merger
from aftermix.merging.prepared import prepare_vectors
from aftermix.merging.recipe import MergeRecipe
from aftermix.merging.sharing import vectors as sharing
from aftermix.merging.sharing.vectors import LARGEST, prepare_shared_vectors, share_vectors
from support.forked import run_forked

Family = Mapping[str, Path]
WEIGHTS = {"a": 0.4, "b": -0.2, "c": 0.7}
SHARING = """
import json, os, sys
from pathlib import Path
import torch
from aftermix.checkpoints.pool import open_pool
from aftermix.config import load_config
from aftermix.merging import prepared
from aftermix.merging.merge import Merger
from aftermix.merging.recipe import MergeRecipe
from aftermix.merging.sharing.vectors import prepare_shared_vectors

folder = Path.cwd()
config = load_config(folder / "file.yaml")
merger = Merger.build(open_pool(config), MergeRecipe.from_config(config.merge, vectors=config.vectors))
prune = prepared._prune_tensor
def pruned(*arguments):
    with open(folder / "pruned", "a") as file:
        file.write("x")
    return prune(*arguments)
prepared._prune_tensor = pruned
for _ in range(3):
    if os.fork() == 0:
        prepare_shared_vectors(merger, folder / "shared")
        os._exit(0)
for _ in range(3):
    assert os.wait()[1] == 0
"""


def build_values(family: Family) -> dict[str, object]:
    vectors = {name: {"model": str(family[name])} for name in WEIGHTS}
    merge = {"method": "ties", "density": 0.4, "exclude": ["lm_head"]}
    return {"base": str(family["base"]), "vectors": vectors, "merge": merge}


@pytest.fixture
def merger(family: Family, tmp_path: Path) -> Merger:
    config = parse_config(build_values(family), where="file", folder=tmp_path)
    return Merger.build(open_pool(config), MergeRecipe.from_config(config.merge, vectors=config.vectors))


def test_they_are_those_of_a_process_of_its_own(merger: Merger, tmp_path: Path) -> None:
    own = prepare_vectors(merger)
    for _ in range(2):  # prepared, then found
        shared = prepare_shared_vectors(merger, tmp_path)
        assert shared.is_mapped
        assert shared.largest == own.largest
        merged = dict(own.stream_merged(WEIGHTS))
        for name, tensor in shared.stream_merged(WEIGHTS):
            assert torch.equal(tensor, merged.pop(name))
        assert not merged


def test_one_process_prepares_for_all(family: Family, merger: Merger, tmp_path: Path) -> None:
    (tmp_path / "file.yaml").write_text(json.dumps(build_values(family)))
    (tmp_path / "shared").mkdir()
    done = run_forked(SHARING, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    moved = len(prepare_vectors(merger).moved)
    assert len((tmp_path / "pruned").read_text()) == moved * len(WEIGHTS)


def test_what_a_dead_process_left_half_is_prepared_anew(merger: Merger, tmp_path: Path) -> None:
    whole = prepare_shared_vectors(merger, tmp_path)
    (tmp_path / LARGEST).unlink()
    (tmp_path / "model.safetensors").write_bytes(b"half")
    again = prepare_shared_vectors(merger, tmp_path)
    assert again.largest == whole.largest
    assert all(
        torch.equal(a, b)
        for (_, a), (_, b) in zip(
            again.stream_merged(WEIGHTS), prepare_vectors(merger).stream_merged(WEIGHTS), strict=True
        )
    )


def test_the_folder_lies_in_memory_where_there_is_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "MEMORY_FOLDER", tmp_path)
    monkeypatch.setattr(sharing.tempfile, "tempdir", str(tmp_path / "disk"))
    (tmp_path / "disk").mkdir()
    left = tmp_path / f"{sharing.PREFIX}{2**22 + 1}-x"  # above the largest number of a process
    left.mkdir()
    others = tmp_path / f"{sharing.PREFIX}{os.getpid()}-y"
    others.mkdir()

    with share_vectors(1000) as folder:
        assert folder.parent == tmp_path
        assert not left.exists()
        assert others.exists()
    assert not folder.exists()
    with share_vectors(1 << 60) as folder:
        assert folder.parent == tmp_path / "disk"
    assert not folder.exists()
