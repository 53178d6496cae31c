"""Files that are not what their names say, by their bytes; JSON lists; records under the name of a text."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from aftermix.errors import TrainingError
from aftermix.training.data.examples import read_documents, read_examples

TEXTS = ["Die Größe zählt.", "Zwei Bäume, ein Fluß.", "Ende"]
LINES = "\n".join(json.dumps({"text": text}, ensure_ascii=False) for text in TEXTS)


def refusal(path: Path) -> str:
    with pytest.raises(TrainingError) as caught:
        read_documents(path)
    assert str(caught.value).startswith(str(path))
    return str(caught.value).removeprefix(str(path))


@pytest.mark.parametrize("name", ["a.jsonl", "a.txt", "a"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(LINES.encode()), ": is compressed by gzip, as its name does not say. Add `.gz` to its name."),
        (bz2.compress(LINES.encode()), ": is compressed by bzip2, as its name does not say. Decompress it"),
        (lzma.compress(LINES.encode()), ": is compressed by xz, as its name does not say. Decompress it"),
        (b"\x28\xb5\x2f\xfd" + b"x" * 9, ": is compressed by zstd, as its name does not say. Decompress it"),
        (LINES.encode("utf-16"), ": is UTF-16LE, expected UTF-8. Convert it: `iconv -f UTF-16LE -t UTF-8 "),
        (LINES.encode("utf-16-be"), ": is UTF-16BE, expected UTF-8. Convert it: `iconv -f UTF-16BE -t UTF-8 "),
        (LINES.encode("utf-32"), ": is UTF-32LE, expected UTF-8. Convert it: `iconv -f UTF-32LE -t UTF-8 "),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", ": is a pointer of git-lfs, not the"),
        (b"ab\0c", ": holds NUL characters, so it is no text file"),
    ],
    ids=["gzip", "bzip2", "xz", "zstd", "utf16", "utf16be", "utf32", "lfs", "nul"],
)
def test_what_a_file_is_by_its_first_bytes(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    assert refusal(tmp_path / name).startswith(message)


@pytest.mark.parametrize(("encoding", "name"), [("latin-1", "a.jsonl"), ("cp1252", "a.txt"), ("latin-1", "a.jsonl.gz")])
def test_another_encoding_is_named_and_the_remedy_works(tmp_path: Path, encoding: str, name: str) -> None:
    path, text = tmp_path / name, LINES if "json" in name else "Die Größe zählt."
    content = text.encode(encoding)
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    message = refusal(path)
    assert "is not UTF-8 (byte 0xf6); perhaps it is Latin-1 or Windows-1252. Convert it: `" in message
    if "json" in name:
        assert message.startswith(", line 1: ")
    if shutil.which("iconv"):
        new = tmp_path / f"new{''.join(path.suffixes)}"
        written = shlex.quote(str(new))
        command = message.split("`")[1].replace("NEW.gz", written).replace("NEW", written)
        subprocess.run(command, shell=True, check=True)  # noqa: S602 - the remedy as a user would give it
        assert read_documents(new).texts == (TEXTS if "json" in name else [text])


def test_a_parquet_file_and_a_plain_file_under_other_names(tmp_path: Path) -> None:
    parquet.write_table(pyarrow.table({"text": TEXTS}), tmp_path / "a.jsonl")
    assert refusal(tmp_path / "a.jsonl") == ": is a parquet file, as its name does not say. Name it `.parquet`."
    (tmp_path / "a.jsonl.gz").write_text(LINES)
    assert (
        refusal(tmp_path / "a.jsonl.gz")
        == ": cannot be read (Not a gzipped file, as its name says). Take `.gz` off it."
    )


@pytest.mark.parametrize("name", ["a.txt", "a", "a.md", "a.v1.2024", "a.jsonl.tmp", "a.txt.gz"])
@pytest.mark.parametrize("form", ["lines", "one", "crlf", "list"])
def test_records_under_the_name_of_a_text_are_refused(tmp_path: Path, name: str, form: str) -> None:
    content = {
        "lines": LINES,
        "one": LINES.split("\n")[0],
        "crlf": LINES.replace("\n", "\r\n\r\n"),
        "list": json.dumps([{"text": text + "\u2028"} for text in TEXTS], indent=1),
    }[form].encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    count = "1 JSON object" if form == "one" else "3 JSON objects"
    message = refusal(tmp_path / name)
    assert message.startswith(
        f": holds {count} and nothing else, but is named as plain text. Name it for what it is, `"
    )
    renamed = tmp_path / message.split("`")[1]
    (tmp_path / name).rename(renamed)
    assert len(read_documents(renamed).texts) == int(count[0])


@pytest.mark.parametrize("text", ["{x}\n{y}", '{"a": 1}\nand so on', "[see below]", "[1, 2]", "words", '"quoted"', "{"])
def test_texts_that_only_look_like_records_are_texts(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.txt").write_text(text)
    assert read_documents(tmp_path / "a.txt").texts == [text]


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.json.gz"])
def test_a_json_list_is_read_record_by_record(tmp_path: Path, name: str, indent: int | None) -> None:
    content = ("\ufeff" + json.dumps([{"text": text, "n": [1, {}]} for text in TEXTS], indent=indent)).encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    found = list(read_examples(tmp_path / name))
    assert [example.text for example in found] == TEXTS
    assert [example.where for example in found] == [f"{tmp_path / name}, record {n}" for n in (1, 2, 3)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[\n{"text": "a"},\n3]', ", record 2: expected a JSON object, found int"),
        ('[\n{"text": "a"}\n{"text": "b"}]', ", record 1: expected a comma or the end of the list after it, found '{"),
        ('[\n{"text": "a"},\n{"text": ', ", record 2: is not valid JSON (Expecting value"),
        ('[\n{"text": "a"}]\n[]', ": goes on after its list: '[]'"),
        ('["a"]\n["b"]', ", line 1: expected a JSON object, found list"),
        (
            '{\n "version": 1,\n "data": []\n}',
            ", line 1: begins an object that goes over several lines (its fields: ver",
        ),
        (
            '{\n "text": "a"\n}\n{\n "text": "b"\n}',
            ", line 1: begins an object that goes over several lines (its fields",
        ),
        ('{"text": "a"}\n{"text"', ", line 2: is not valid JSON"),
        ("words", ", line 1: is not valid JSON (Expecting value: line 1 column 1 (char 0)). Write one JSON object a"),
    ],
)
def test_json_that_is_no_records_is_told_for_what_it_is(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "a.json").write_text(content)
    assert refusal(tmp_path / "a.json").startswith(message)


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_null_in_place_of_a_text_is_left_out_and_counted(tmp_path: Path, form: str) -> None:
    rows: list[dict[str, Any]] = [{"text": "a"}, {"text": None}, {"text": ""}, {"text": "b"}]
    path = tmp_path / f"a.{form}"
    if form == "parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        path.write_text("\n".join(map(json.dumps, rows)))
    found = read_documents(path)
    assert (found.texts, found.empty) == (["a", "b"], 2)
    path.unlink()
    (tmp_path / "none.jsonl").write_text('{"text": null}\n' * 3)
    assert refusal(tmp_path / "none.jsonl") == ": holds no text. Name a file with at least one document."
