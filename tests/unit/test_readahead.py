"""Hints to the system's cache, and hashes of files read in stretches."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import xxhash

from aftermix import files, readahead
from aftermix.files import fingerprint

needs_hints = pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="this system takes no hints")


@needs_hints
def test_the_first_shards_are_asked_for_within_a_share_of_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, int]] = []

    def advise(descriptor: int, start: int, length: int, advice: int) -> None:
        assert (start, advice) == (0, os.POSIX_FADV_WILLNEED)
        asked.append((Path(f"/proc/self/fd/{descriptor}").readlink().name, length))

    class Memory:
        available = 800

    monkeypatch.setattr(os, "posix_fadvise", advise)
    monkeypatch.setattr(readahead.psutil, "virtual_memory", Memory)
    for model, sizes in (("a", (60, 60)), ("b", (10,))):
        (tmp_path / model).mkdir()
        for number, size in enumerate(sizes):
            (tmp_path / model / f"{number}.safetensors").write_bytes(b"x" * size)
    (tmp_path / "a" / "config.json").write_text("{}")
    os.mkfifo(tmp_path / "b" / "pipe.safetensors")
    readahead._fetch([str(tmp_path / "a"), str(tmp_path / "b"), "somebody/of-the-hub"])
    # A quarter of 800 bytes for three models: 66 each.
    assert asked == [("0.safetensors", 60), ("1.safetensors", 6), ("0.safetensors", 10)]


@needs_hints
def test_a_hint_never_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda descriptor, *_: asked.append(descriptor))
    readahead._fetch([str(tmp_path / "nowhere"), "\0", ""])
    assert asked == []


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 1000])
def test_a_fingerprint_is_the_hash_of_the_whole_file(
    size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "STRETCH_BYTES", 64)
    content = bytes(number % 251 for number in range(size))
    (tmp_path / "file").write_bytes(content)
    assert fingerprint(tmp_path / "file") == f"xxh3_128:{xxhash.xxh3_128(content).hexdigest()}"
