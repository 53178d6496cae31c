"""Targets: files of a model folder, from the raw bytes of a header to links, pipes and devices under a shard's name."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import torch.distributed.checkpoint as dcp

from aftermix.checkpoints.alignment.mismatches import list_remarks
from aftermix.checkpoints.model import Model, read_tensor
from aftermix.checkpoints.model_files import list_companion_remarks, read_companion_files
from aftermix.checkpoints.open_model import open_model
from aftermix.checkpoints.pool import examine_pool, is_finite
from aftermix.config import Config, VectorConfig
from aftermix.errors import refuse_if_any
from aftermix.jobs.merge.command import merge
from fuzz.draw import Draw, as_json
from fuzz.oracle import Violation, check
from fuzz.place import CONFIG, INDEX, SHARDS, place, shard_tensors, sharded_files, single_file

READ_AT_MOST = 1 << 20
DTYPES = ("F32", "BF16", "F16", "F64", "I64", "I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "F4", "C64", "f32", "")
NAMES = ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight", "steps", "", "a/../b", "__metadata__", "é")
KEYS = (
    *("tie_word_embeddings", "text_config", "quantization_config", "model_type", "hidden_size", "rope_scaling"),
    *("num_hidden_layers", "num_attention_heads", "rope_theta", "vocab_size", "torch_dtype", "dtype", "architectures"),
)


def header_bytes(data: bytes) -> None:
    """`data` is the safetensors file."""
    folder = place().fill({"config.json": as_json(CONFIG), "model.safetensors": data})
    _read(folder)


def header_json(data: bytes) -> None:
    """`data` decides tensors, shapes, offsets and types of a file whose length prefix is mostly right."""
    draw = Draw(data)
    header: dict[str, Any] = {}
    offset = 0
    for _ in range(draw.below(5)):
        shape = [draw.number_or(1 + draw.below(3)) for _ in range(draw.below(4))]
        elements = 1
        for part in shape:
            elements *= part if isinstance(part, int) else 1
        size = elements * 2
        entry = {
            "dtype": draw.pick(DTYPES) if draw.rarely() else "BF16",
            "shape": draw.number_or(shape),
            "data_offsets": [draw.number_or(offset), draw.number_or(offset + size)],
        }
        header[draw.pick(NAMES) + ("" if draw.rarely() else str(len(header)))] = (
            draw.value() if draw.rarely() else entry
        )
        offset += size
    if draw.rarely():
        header["__metadata__"] = draw.value()
    text = as_json(header)
    if draw.rarely():  # a name twice
        text = text[:-1] + b"," + text[1:]
    length = draw.number_or(len(text))
    prefix = (int(length) % 2**64 if isinstance(length, int) else len(text)).to_bytes(8, "little")
    content = draw.damaged(prefix + text + bytes(min(max(offset, 0), 4096)))
    _read(place().fill({"config.json": as_json(CONFIG), "model.safetensors": content}))


def index(data: bytes) -> None:
    """`data` decides what an index says, and what lies in the folder under the names that it uses."""
    draw = Draw(data)
    folder = place().fill({"config.json": as_json(CONFIG)} | sharded_files())
    odd = _odd_entries(draw, folder)
    files = (*SHARDS, *odd, "..", ".", "", "/etc/passwd", "../../../../outside/model.safetensors", "a\x00b", "x" * 300)
    names = ("model.embed_tokens.weight", "model.norm.weight", "steps")
    weight_map: Any = dict(zip(names, (SHARDS[0], SHARDS[1], SHARDS[1]), strict=True))
    weight_map["model.layers.0.self_attn.q_proj.weight"] = SHARDS[1]
    for _ in range(draw.below(4)):
        weight_map[draw.pick((*names, *NAMES))] = draw.value() if draw.rarely() else draw.pick(files)
    content: Any = {"weight_map": draw.value() if draw.rarely() else weight_map}
    if draw.rarely():
        content = draw.value()
    (folder / INDEX).write_bytes(draw.damaged(as_json(content)))
    _read(folder)


def _odd_entries(draw: Draw, folder: Path) -> list[str]:
    """Put one odd thing into the folder, and return the names that an index may use for it."""
    kind = draw.below(10)
    odd = folder / (SHARDS[0] if draw.rarely() else "odd.safetensors")
    odd.unlink(missing_ok=True)
    if kind == 0:
        odd.mkdir()
    elif kind == 1:
        os.mkfifo(odd)
    elif kind == 2:
        odd.symlink_to("/dev/zero")
    elif kind == 3:
        odd.symlink_to(odd.name)
    elif kind == 4:
        odd.symlink_to(place().blobs / "blob")
    elif kind == 5:
        odd.symlink_to("nowhere")
    elif kind == 6:
        odd.symlink_to(place().outside)
    elif kind == 7:
        odd.write_bytes(b"")
    elif kind == 8:
        odd.symlink_to(place().outside / "config.json")
    return [odd.name, f"./{odd.name}", f"{odd.name}/model.safetensors", f"../0/{odd.name}"]


@cache
def distributed_files() -> dict[str, bytes]:
    """The tiny model as a distributed checkpoint of one rank."""
    with tempfile.TemporaryDirectory() as folder:
        state = {"model": shard_tensors(0) | shard_tensors(1), "step": 3}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that there is one process alone
            dcp.save(state, checkpoint_id=folder, no_dist=True)
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def distributed(data: bytes) -> None:
    """`data` is the `.metadata` of a distributed checkpoint, or damages a sound one, or the file of its rank."""
    draw, files = Draw(data), {"config.json": as_json(CONFIG), **distributed_files()}
    victim = draw.pick((".metadata", ".metadata", "__0_0.distcp"))
    edited = bytearray(files[victim])
    for _ in range(1 + draw.below(6)):
        edited[(draw.byte() * 256 + draw.byte()) % len(edited)] = draw.byte()
    files[victim] = draw.rest() if draw.rarely() else draw.damaged(bytes(edited))
    _read(place().fill(files))


def folder_entries(data: bytes) -> None:
    """`data` replaces files of a sound folder by pipes, devices, folders and links."""
    draw = Draw(data)
    files = {"config.json": as_json(CONFIG), "tokenizer.json": b"{}", "generation_config.json": b"{}"}
    folder = place().fill(files | (sharded_files() if draw.byte() % 2 else {"model.safetensors": single_file()}))
    for _ in range(1 + draw.below(2)):
        victim = folder / draw.pick((*files, "model.safetensors", INDEX, *SHARDS, "adapter_config.json"))
        if victim.exists() or victim.is_symlink():
            victim.rmdir() if victim.is_dir() and not victim.is_symlink() else victim.unlink()
        kind = draw.below(6)
        if kind == 0:
            victim.mkdir()
        elif kind == 1:
            os.mkfifo(victim)
        elif kind > 1:
            targets = (
                "/dev/zero",
                "/dev/full",
                victim.name,
                ".",
                place().outside / victim.name,
                place().blobs / "blob",
            )
            victim.symlink_to(draw.pick(targets))
    _examine(folder)


def config_json(data: bytes) -> None:
    """`data` decides the configuration of an expert that is held against a base."""
    draw = Draw(data)
    values: Any = dict(CONFIG)
    for _ in range(draw.below(6)):
        values[draw.pick(KEYS)] = draw.value()
    content = draw.rest() if draw.rarely() else draw.damaged(as_json(draw.value() if draw.rarely() else values))
    files = {"config.json": content, "model.safetensors": single_file()}
    if draw.rarely():
        files["tokenizer.json"] = as_json(draw.value())
    _examine(place().fill(files))


def merge_job(data: bytes) -> None:
    """`data` damages one file of an expert, and the whole job runs; a refused merge leaves nothing."""
    draw = Draw(data)
    files = {"config.json": as_json(CONFIG), "tokenizer.json": b"{}"}
    files |= sharded_files() if draw.byte() % 2 else {"model.safetensors": single_file()}
    victim = sorted(files)[draw.below(len(files))]
    files[victim] = draw.damaged(draw.damaged(files[victim]))
    folder = place().fill(files)
    output = place().root / "out" / "model"
    before = place().names()
    config = Config(
        base=str(place().base),
        vectors={"v": VectorConfig(model=str(folder), role=draw.pick(("instruction", "expert")))},
        merge={"method": draw.pick(("linear", "ties", "dare_linear"))},  # type: ignore[arg-type]
    )
    refused = check(lambda: merge(config, output), readable=place().readable, writable=output.parent)
    left = place().names() - before - {str(output.parent)}
    if refused and left:
        raise Violation(f"refused and left {sorted(left)}")
    if not refused:
        check(lambda: touch(open_model(str(output))), readable=[output])
        _remove(output)


def _remove(folder: Path) -> None:
    shutil.rmtree(folder)


def _read(folder: Path) -> None:
    before = place().names()
    check(lambda: touch(open_model(str(folder))), readable=place().readable)
    refuse_changes(before)


def _examine(folder: Path) -> None:
    before = place().names()
    config = Config(base=str(place().base), vectors={"v": VectorConfig(model=str(folder), role="instruction")})
    check(lambda: _examined(config), readable=place().readable)
    refuse_changes(before)


def _examined(config: Config) -> None:
    """What `doctor` looks at."""
    found = examine_pool(config)
    if found.pool is not None:
        base, expert = found.pool.frame, found.pool.experts["v"]
        notes = list_remarks(base, expert, vector="v") + list_companion_remarks(found.pool)
        touch(expert)
        read_companion_files(found.pool, dtype=None)
        found.problems.extend(notes)
    refuse_if_any(found.problems)


def touch(model: Model) -> None:
    """Read all that is small."""
    for name in [*model.tensors, *model.alias]:
        info = model.info(name)
        assert model.has(name)
        if 0 <= info.nbytes <= READ_AT_MOST:
            tensor = read_tensor(model, name)
            if tuple(tensor.shape) != info.shape:
                raise Violation(f"{name}: announced {info.shape}, read {tuple(tensor.shape)}")
            is_finite(tensor)
    str(model.files())


def refuse_changes(before: set[str]) -> None:
    after = place().names()
    if after != before:
        raise Violation(f"left {sorted(after - before)}, removed {sorted(before - after)}")


def header_seeds() -> list[bytes]:
    """Sound and nearly sound safetensors files."""
    header = json.dumps({"w": {"dtype": "F32", "shape": [0, 2**63], "data_offsets": [0, 0]}}).encode()
    whole = single_file()
    return [whole, whole[:-3], b"", b"\x80\x04", b"PK", b"\xff" * 16, len(header).to_bytes(8, "little") + header]
