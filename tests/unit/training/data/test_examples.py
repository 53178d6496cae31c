"""Reading documents: what is a document, and every refusal by its text."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from aftermix.errors import TrainingError
from aftermix.training.data.examples import read_documents


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_json_lines_in_file_order_blank_lines_passed_over_and_empty_texts_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"text": "one"}\n\n{"text": ""}\r\n{"text": "zwei\\u2028é", "id": 3}')
    documents = read_documents(path)
    assert documents.texts == ["one", "zwei\u2028é"]
    assert documents.empty == 1
    assert documents.characters == 9


def test_gzip_and_another_field(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl.gz", gzip.compress('{"body": "日本"}\n'.encode()))
    assert read_documents(path, text_field="body").texts == ["日本"]


def test_plain_text_is_one_document_to_the_letter(tmp_path: Path) -> None:
    path = write(tmp_path / "book.txt", "one\n\n{two}\r\n")
    assert read_documents(path).texts == ["one\n\n{two}\r\n"]
    zipped = write(tmp_path / "book.txt.gz", gzip.compress(b"abc", mtime=0))
    assert read_documents(zipped).texts == ["abc"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", "", "holds no text"),
        ("a.jsonl", '{"text": ""}\n', "holds no text"),
        ("a.txt", "", "holds no text"),
        ("a.jsonl", '{"text": "x"}\n{"txt": "y", "id": 1}\n', "line 2: has no field 'text'; its fields: id, txt. Set"),
        ("a.jsonl", '{"text": "x"}\n{}\n', "line 2: has no field 'text'; its fields: none"),
        ("a.jsonl", '{"text": null}\n', "holds no text. Name a file"),
        ("a.jsonl", '{"text": "x"}\n\n{"text": "y"\n', "line 3: is not valid JSON"),
        ("a.json", '[["x"]]', "record 1: expected a JSON object, found list"),
        ("a.jsonl", "[" * 100_000, "line 1: is not valid JSON"),
        ("a.jsonl", b'{"text": "\xff"}', "line 1: is not UTF-8 (byte 0xff); perhaps it is Latin-1"),
        ("a.jsonl", '{"text": "\\ud800"}', "line 1: holds half a surrogate pair"),
        ("a.txt", b"\xff\xfe", "is UTF-16LE, expected UTF-8. Convert it: `iconv -f UTF-16LE"),
        ("a.txt", b"a\0b", "holds NUL characters"),
        ("a.jsonl.gz", b"not gzip", "cannot be read (Not a gzipped file"),
        ("a.jsonl.gz", gzip.compress(b'{"text": "x"}\n' * 999, mtime=0)[:-9], "cannot be read (Compressed file ended"),
        ("a.parquet", b"PAR1", "cannot be read (Parquet file size is 4 bytes"),
        ("a.csv.gz", b"", "found a .csv file. Write it as JSON lines, one object with the text a line"),
    ],
)
def test_refused(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    with pytest.raises(TrainingError) as caught:
        read_documents(write(tmp_path / name, content))
    assert message in str(caught.value)
    assert name in str(caught.value)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"there is no such file. Correct `data:`"):
        read_documents(tmp_path / "none.jsonl")
    with pytest.raises(TrainingError, match=r"is a folder without files. Put data into it"):
        read_documents(tmp_path)


def test_every_line_comes_back(tmp_path: Path) -> None:
    texts = [f"document {n} with a\nline break and \x85 next-line" for n in range(300)]
    path = write(tmp_path / "many.jsonl", "".join(json.dumps({"text": t}, ensure_ascii=False) + "\n" for t in texts))
    assert read_documents(path).texts == texts
