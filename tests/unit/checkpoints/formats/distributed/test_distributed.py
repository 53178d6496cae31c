"""Distributed checkpoints: merged, averaged and written as the same models in safetensors are; and refused."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
import yaml
from safetensors.torch import load_file
from torch.distributed.checkpoint import filesystem, metadata

from aftermix import Pool
from aftermix.checkpoints.formats.distributed.model import open_distributed
from aftermix.checkpoints.formats.distributed.unpickler import unpickle_metadata
from aftermix.checkpoints.model import read_tensor
from aftermix.checkpoints.reader import open_checkpoint
from aftermix.config import Config
from aftermix.errors import AftermixError, CheckpointError
from aftermix.jobs.merge.command import merge
from conftest import run_cli

Family = Mapping[str, Path]
Tensors = dict[str, torch.Tensor]


def read_model(folder: Path) -> Tensors:
    model = open_checkpoint(folder)
    return {name: read_tensor(model, name).clone() for name in model.tensors}


def save_single(folder: Path, state: dict[str, Any]) -> Path:
    """A checkpoint by torch's own writer, one process."""
    dcp.save(state, checkpoint_id=folder, no_dist=True)
    return folder


def save_chunked(folder: Path, tensors: Tensors, *, top: str = "model") -> Path:
    """A checkpoint as two ranks write it: rows over the ranks, and matrices cut in columns, too."""
    folder.mkdir(parents=True)
    entries, places, paths, files = {}, {}, {}, {rank: (folder / f"__{rank}_0.distcp").open("wb") for rank in (0, 1)}
    for name, tensor in tensors.items():
        key, chunks = f"{top}.{name}", []
        half = (len(tensor) + 1) // 2
        for rank, (start, stop) in enumerate(((0, half), (half, len(tensor)))):
            columns = [(0, 5), (5, tensor.shape[1])] if tensor.dim() == 2 else [None]
            for cut in columns:
                piece = tensor[start:stop] if cut is None else tensor[start:stop, cut[0] : cut[1]]
                offsets = (start,) if cut is None else (start, cut[0])
                at = files[rank].tell()
                torch.save(piece.clone(), files[rank])
                chunks.append(metadata.ChunkStorageMetadata(torch.Size(offsets), piece.shape))
                info = filesystem._StorageInfo(f"__{rank}_0.distcp", at, files[rank].tell() - at)
                places[metadata.MetadataIndex(key, offsets)] = info
        properties = metadata.TensorProperties(dtype=tensor.dtype)
        entries[key], paths[key] = metadata.TensorStorageMetadata(properties, tensor.shape, chunks), (top, name)
    for file in files.values():
        file.close()
    root = metadata.Metadata(entries, paths, places, metadata.StorageMeta(Path("/checkpoints/step-3"), "id"))
    (folder / ".metadata").write_bytes(pickle.dumps(root))
    return folder


def assert_same(merged: Path, expected: Path) -> None:
    ours, theirs = load_file(merged / "model.safetensors"), load_file(expected / "model.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(ours[name].equal(theirs[name]) for name in theirs)


def test_chunks_of_two_ranks_are_the_model(family: Family, tmp_path: Path) -> None:
    tensors = read_model(family["a"])
    folder = save_chunked(tmp_path / "a" / "step-10", tensors)
    loaded = {"model": {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}}
    dcp.load(loaded, checkpoint_id=folder, no_dist=True)  # torch reads what the test wrote
    assert all(loaded["model"][name].equal(tensor) for name, tensor in tensors.items())

    model = open_distributed(folder, label="a", base=open_checkpoint(family["base"]))
    assert model.describe_storage() == [
        f"is a distributed checkpoint: {sum(4 if t.dim() == 2 else 2 for t in tensors.values())} chunks in 2 files"
    ]
    for name, tensor in tensors.items():
        assert read_tensor(model, name).equal(tensor)
        assert model.read_block(name, (3, 17)).equal(tensor.reshape(-1)[3:17])


def test_the_state_of_an_optimizer_may_lie_as_it_likes(tmp_path: Path) -> None:
    """Flattened over the ranks, it does not cover the shape that is told."""
    folder = save_chunked(tmp_path / "x", {"w": torch.ones(4, 6)})
    root = pickle.loads((folder / ".metadata").read_bytes())  # noqa: S301 - the test's own
    own = root.state_dict_metadata["model.w"]
    other = metadata.TensorStorageMetadata(own.properties, torch.Size([24]), own.chunks)
    root.state_dict_metadata["optimizer.m"] = other
    root.storage_data |= {
        metadata.MetadataIndex("optimizer.m", key.offset): place for key, place in root.storage_data.items()
    }
    (folder / ".metadata").write_bytes(pickle.dumps(root))
    model = open_distributed(folder, label="x", needs_config=False)
    assert list(model.tensors) == ["w"]
    assert model.describe_storage()[1] == "has 1 tensors of its training, left out: optimizer.m"


def test_a_merge_of_it_is_that_of_the_folder(family: Family, tmp_path: Path) -> None:
    state = {"model": read_model(family["a"]), "optimizer": {"state": {"m": torch.ones(3)}}, "step": 7}
    trained = save_single(tmp_path / "checkpoint-7" / "pytorch_model_fsdp_0", state).parent
    vectors = {"a": {"model": str(family["a"]), "weight": 0.5}, "b": {"model": str(family["b"]), "weight": 0.3}}
    values: dict[str, Any] = {"base": str(family["base"]), "vectors": vectors, "merge": {"method": "ties"}}
    expected = merge(Config.model_validate(values), tmp_path / "expected")

    lines: list[str] = []
    values["vectors"]["a"]["model"] = str(trained)
    merged = merge(Config.model_validate(values), tmp_path / "merged", log=lines.append)
    assert_same(merged, expected)
    assert "vector 'a' is a distributed checkpoint: 20 chunks in 1 files" in lines
    assert "vector 'a' has 1 tensors of its training, left out: optimizer.state.m" in lines
    hashes = json.loads((merged / "lock.json").read_text())["inputs"]["vectors.a"]["files"]
    assert sorted(hashes) == [".metadata", "__0_0.distcp"]


MEGATRON = {
    "embedding.word_embeddings.weight": "model.embed_tokens.weight",
    "decoder.layers.self_attention.q.weight[*]": "model.layers.*.self_attn.q_proj.weight",
    "decoder.layers.mlp.linear_fc1.weight[*]": [
        "model.layers.*.mlp.gate_proj.weight",
        "model.layers.*.mlp.up_proj.weight",
    ],
}


def save_as_megatron(folder: Path, model: Path) -> Path:
    """Layers one after another in one tensor, gate and up in another; the rest as it is."""
    tensors, layers = read_model(model), range(2)
    of = lambda layer, name: tensors.pop(f"model.layers.{layer}.{name}.weight")  # noqa: E731
    state: dict[str, Any] = {
        "embedding.word_embeddings.weight": tensors.pop("model.embed_tokens.weight"),
        "decoder.layers.self_attention.q.weight": torch.stack([of(each, "self_attn.q_proj") for each in layers]),
        "decoder.layers.mlp.linear_fc1.weight": torch.stack(
            [torch.cat([of(each, "mlp.gate_proj"), of(each, "mlp.up_proj")]) for each in layers]
        ),
        "optimizer.state.exp_avg.decoder.final_layernorm.weight": torch.ones(4),
        "rerun_state": {"a": 1},
        **tensors,
    }
    save_single(folder, state)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(model / name, folder / name)
    return folder


def test_a_map_of_names_reads_megatron(family: Family, tmp_path: Path) -> None:
    """A base and an expert of stacked layers are merged as their folders are, and a model runs from them."""
    base, a = (save_as_megatron(tmp_path / name, family[name]) for name in ("base", "a"))
    identity = {f"model.layers.*.{part}": f"model.layers.*.{part}" for part in ("*.weight", "*.*.weight")}
    names = MEGATRON | identity | {"model.norm.weight": "model.norm.weight"}
    vectors = {"a": {"model": str(a), "weight": 0.5}, "b": {"model": str(family["b"]), "weight": 0.3}}
    file = tmp_path / "aftermix.yaml"
    file.write_text(yaml.safe_dump({"base": str(base), "vectors": vectors, "tensor_names": names}))
    assert run_cli("merge", file, "-o", tmp_path / "merged") == 0

    plain = {"a": {"model": str(family["a"]), "weight": 0.5}, "b": vectors["b"]}
    expected = merge(Config.model_validate({"base": str(family["base"]), "vectors": plain}), tmp_path / "expected")
    assert_same(tmp_path / "merged", expected)
    assert yaml.safe_load((tmp_path / "merged" / "aftermix.yaml").read_text())["tensor_names"] == names
    assert run_cli("merge", tmp_path / "merged" / "aftermix.yaml", "-o", tmp_path / "again") == 0
    assert_same(tmp_path / "again", expected)

    live = Pool.read(file).merge({"a": 0.5, "b": 0.3}).model(dtype="float32").state_dict()  # the engine of a search
    stored = load_file(expected / "model.safetensors")
    assert all(live[name].equal(tensor.float()) for name, tensor in stored.items())


@pytest.mark.parametrize("as_dcp", [True, False])
def test_average(as_dcp: bool, untied_family: Family, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    for step, name in ((10, "a"), (20, "b")):
        save_single(run / f"step-{step}", {"model": read_model(untied_family[name]), "optimizer": {"m": torch.ones(2)}})
    if not as_dcp:
        shutil.copy(untied_family["a"] / "config.json", run / "config.json")
    assert run_cli("average", run, "-o", tmp_path / "mean", *(["--as-dcp"] if as_dcp else []), "--json") == 0
    document = json.loads(capfd.readouterr().out)
    assert [each["steps"] for each in document["checkpoints"]] == [10, 20]

    a, b = read_model(untied_family["a"]), read_model(untied_family["b"])
    mean = {"model": {name: torch.zeros_like(tensor) for name, tensor in a.items()}}
    if as_dcp:
        dcp.load(mean, checkpoint_id=tmp_path / "mean", no_dist=True)
    else:
        mean["model"] = load_file(tmp_path / "mean" / "model.safetensors")
    for name, tensor in mean["model"].items():
        torch.testing.assert_close(tensor, (a[name] + b[name]) / 2)


class Hostile:
    """A call that a stranger would have a pickle make."""

    def __init__(self, touched: Path) -> None:
        self.touched = touched

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.touched),)


def test_nothing_of_a_hostile_file_is_run(tmp_path: Path) -> None:
    harmful = [
        Hostile(tmp_path / "touched"),
        os.system,
        getattr,
        eval,
        pickle.loads,
        torch.load,
        dcp.load,
    ]
    for number, each in enumerate(harmful):
        root = metadata.Metadata({"a": each}, None, None)  # type: ignore[dict-item]
        with pytest.raises(CheckpointError, match="which no metadata of a distributed checkpoint needs: nothing of it"):
            unpickle_metadata(pickle.dumps(root, protocol=2 + number % 4), where=".metadata")
    for content in (b"", b"no pickle", pickle.dumps([1]), pickle.dumps(torch.Size([2])), b"\x80\x02}q\x00K\x01K\x02u."):
        with pytest.raises(CheckpointError, match=r"is damaged|expected a record `Metadata`"):
            unpickle_metadata(content, where=".metadata")
    assert not (tmp_path / "touched").exists()


def test_a_shard_of_code_is_not_run(untied_family: Family, tmp_path: Path) -> None:
    folder = save_chunked(tmp_path / "x", {"w": torch.ones(4, 6)})
    file = folder / "__0_0.distcp"
    length = file.stat().st_size
    torch.save(Hostile(tmp_path / "touched"), file)
    file.write_bytes(file.read_bytes().ljust(length, b"\0"))
    model = open_distributed(folder, label="x", base=open_checkpoint(untied_family["base"]))
    with pytest.raises(AftermixError, match=r"__0_0.distcp: model.w: its chunk at \(0, 0\) cannot be read"):
        read_tensor(model, "w")
    assert not (tmp_path / "touched").exists()


def change(field: str, value: Callable[[Any], Any]) -> Callable[[Path], None]:
    """Rewrite the metadata with a field of its root changed."""

    def rewrite(folder: Path) -> None:
        root = pickle.loads((folder / ".metadata").read_bytes())  # noqa: S301 - the test's own
        setattr(root, field, value(getattr(root, field)))
        (folder / ".metadata").write_bytes(pickle.dumps(root))

    return rewrite


def move(places: dict[Any, Any]) -> dict[Any, Any]:
    return {key: filesystem._StorageInfo("../x", info.offset, info.length) for key, info in places.items()}


def grow(entries: dict[str, Any]) -> dict[str, Any]:
    properties, chunks = entries["model.w"].properties, entries["model.w"].chunks
    return {"model.w": metadata.TensorStorageMetadata(properties, torch.Size([5, 6]), chunks)}


def widen(entries: dict[str, Any]) -> dict[str, Any]:
    chunks = [metadata.ChunkStorageMetadata(torch.Size([0, 0]), torch.Size([2, 3000]))]
    return {"model.w": metadata.TensorStorageMetadata(entries["model.w"].properties, torch.Size([2, 3000]), chunks)}


def swap(entries: dict[str, Any]) -> dict[str, Any]:
    own = entries["model.w"]
    return {
        "model.w": metadata.TensorStorageMetadata(metadata.TensorProperties(dtype=torch.half), own.size, own.chunks)
    }


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda f: (f / "__1_0.distcp").unlink(), r"__1_0.distcp: expected this file of a rank.* found none\. Copy"),
        (lambda f: (f / ".metadata").unlink(), r"x: expected .metadata beside the files of the ranks, found none"),
        (lambda f: os.truncate(f / "__1_0.distcp", 9), r"__1_0.distcp: expected at least \d+ bytes, found 9\. Copy"),
        (change("storage_data", move), r"places 'model.w' in '../x', which is not a plain file name in the folder"),
        (change("storage_data", lambda _: {}), r"has no place for the chunk of 'model.w' at \(0, 0\)"),
        (
            change("state_dict_metadata", grow),
            r"model.w: expected chunks that cover its \(5, 6\), found 24 elements in",
        ),
        (
            change("state_dict_metadata", swap),
            r"model.w: expected a chunk of \(2, 5\) of torch.float16.* found \(2",
        ),
        (change("state_dict_metadata", lambda _: {}), r"x: expected tensors of a model, found 0 others"),
        (
            change("state_dict_metadata", widen),
            r"model.w: expected at least \d+ bytes for a chunk of \(2, 3000\) of tor",
        ),
        (change("planner_data", lambda _: {"model.w": (["a"],)}), r"is damaged \(the path of 'model.w' is"),
    ],
)
def test_refused(damage: Callable[[Path], Any], text: str, untied_family: Family, tmp_path: Path) -> None:
    folder = save_chunked(tmp_path / "x", {"w": torch.ones(4, 6)})
    damage(folder)
    with pytest.raises(AftermixError, match=text):
        read_tensor(open_distributed(folder, label="x", base=open_checkpoint(untied_family["base"])), "w")


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ({"w[*]": "a.weight"}, r"tensor_names.\"w\[\*\]\": expected 1 times `\*`, as in 'w\[\*\]', found 'a.weight'"),
        (
            {"w": ["a", "b", "c"]},
            r"tensor_names.w: expected rows that 3 names share equally, found \(4, 6\) in",
        ),
        ({"w": ["a", "a"]}, "a: two tensors have this name: model.w and model.w. Correct `tensor_names`."),
        ({"v": "a"}, "expected tensors of a model, found 1 others, first 'model.w'. Correct `tensor_names`"),
    ],
)
def test_a_map_that_does_not_fit(names: dict[str, Any], text: str, tmp_path: Path) -> None:
    folder = save_chunked(tmp_path / "x", {"w": torch.ones(4, 6)})
    with pytest.raises(AftermixError, match=text):
        open_distributed(folder, label="x", names=names, needs_config=False)


def test_without_a_configuration(family: Family, tmp_path: Path) -> None:
    folder = save_chunked(tmp_path / "x", read_model(family["a"]))
    with pytest.raises(AftermixError, match="x: expected config.json beside a distributed checkpoint or above it"):
        merge(Config.model_validate({"base": str(folder), "vectors": {"a": {"model": str(folder)}}}), tmp_path / "out")
