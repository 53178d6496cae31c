"""Data in every form on disk: the same records from each, streamed, and every refusal by its text."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pytest
from pyarrow import parquet

from aftermix.errors import TrainingError
from aftermix.files import sha256
from aftermix.training.data.examples import read_documents, read_examples
from aftermix.training.data.files import BATCH_ROWS, hash_data, list_data_parts, read_records

ROWS = [{"text": f"document {number}", "id": number} for number in range(2 * BATCH_ROWS + 3)]
TEXTS = [row["text"] for row in ROWS]


def json_lines(path: Path, rows: list[dict[str, Any]] = ROWS) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def written(folder: Path, form: str) -> Path:
    if form == "jsonl":
        return json_lines(folder / "a.jsonl")
    if form == "gz":
        (folder / "a.jsonl.gz").write_bytes(gzip.compress(json_lines(folder / "a.jsonl").read_bytes()))
        return folder / "a.jsonl.gz"
    if form == "parquet":
        parquet.write_table(pyarrow.Table.from_pylist(ROWS), folder / "a.parquet", row_group_size=700)
        return folder / "a.parquet"
    if form == "dataset":
        datasets.Dataset.from_list(ROWS).save_to_disk(folder / "saved", num_shards=2)
        return folder / "saved"
    half = len(ROWS) // 2
    (folder / "all/deep").mkdir(parents=True)
    (folder / "all/.hidden").write_bytes(b"\0")
    json_lines(folder / "all/a.jsonl", ROWS[:half])
    json_lines(folder / "all/deep/b.ndjson", ROWS[half:])
    return folder / "all" if form == "folder" else folder / "al*/**/*.*"


@pytest.mark.parametrize("form", ["jsonl", "gz", "parquet", "dataset", "folder", "pattern"])
def test_the_same_documents_in_every_form(tmp_path: Path, form: str) -> None:
    path = written(tmp_path, form)
    assert read_documents(path).texts == TEXTS
    assert [record["id"] for _, record in read_records(path, ["id"])] == list(range(len(ROWS)))  # type: ignore[index]


def test_a_folder_of_texts_is_a_document_a_file(tmp_path: Path) -> None:
    for name, text in {"b.py": "x = 1\n", "a.txt": "words", "c/d.md": "# head"}.items():
        (tmp_path / "texts" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "texts" / name).write_text(text)
    assert read_documents(tmp_path / "texts").texts == ["words", "x = 1\n", "# head"]
    assert read_documents(tmp_path / "texts/*.py").texts == ["x = 1\n"]


def test_places_are_files_with_line_or_row(tmp_path: Path) -> None:
    path = written(tmp_path, "folder")
    places = [example.where for example in read_examples(path)]
    assert places[0] == f"{path / 'a.jsonl'}, line 1"
    assert places[-1] == f"{path / 'deep/b.ndjson'}, line {len(ROWS) - len(ROWS) // 2}"


def test_nothing_is_read_ahead_of_need(tmp_path: Path) -> None:
    path = json_lines(tmp_path / "a.jsonl")
    with path.open("a") as file:
        file.write("broken\n")
    found = read_examples(path)
    assert [next(found).text for _ in range(5)] == TEXTS[:5]
    with pytest.raises(TrainingError, match=rf"line {len(ROWS) + 1}: is not valid JSON"):
        list(found)


def test_the_hash_is_of_names_and_content(tmp_path: Path) -> None:
    one = json_lines(tmp_path / "a.jsonl")
    assert hash_data(one) == sha256(one)
    folder = written(tmp_path, "folder")
    before = hash_data(folder)
    assert hash_data(folder) == before != hash_data(one)
    (folder / "a.jsonl").rename(folder / "c.jsonl")
    renamed = hash_data(folder)
    (folder / "c.jsonl").write_text('{"text": "else"}')
    assert len({before, renamed, hash_data(folder)}) == 3


def test_what_a_name_means_is_refused_when_it_means_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd/a.csv").write_text("a,b")
    for name, message in {
        "none": "there is no such file. Correct `data:`",
        "*.none": "matches no file. Correct the pattern",
        "empty": "is a folder without files",
        "odd": "a.csv: expected JSONL, parquet, plain text or a saved dataset, found a .csv file",
    }.items():
        with pytest.raises(TrainingError) as caught:
            list_data_parts(tmp_path / name)
        assert message in str(caught.value)


def test_brackets_in_the_name_of_a_folder_are_no_pattern(tmp_path: Path) -> None:
    folder = tmp_path / "odd [x]"
    folder.mkdir()
    for name in ("a.txt", "b.txt"):
        (folder / name).write_text(name)
    files = [folder / "a.txt", folder / "b.txt"]
    assert list_data_parts(folder / "*.txt") == list_data_parts(folder / "[ab].txt") == files
    before = hash_data(folder / "*.txt")
    with pytest.raises(TrainingError, match="there is no such file"):
        list_data_parts(folder / "none.txt")
    assert hash_data(folder.rename(tmp_path / "moved") / "*.txt") == before


def test_columns_rows_and_damage(tmp_path: Path) -> None:
    table = pyarrow.Table.from_pylist([{"body": "x", "n": 1}, {"body": None, "n": 2}])
    path = tmp_path / "a.parquet"
    parquet.write_table(table, path)
    with pytest.raises(
        TrainingError, match=r"a.parquet: has no column 'text'; its columns: body, n. Set `text_field:`"
    ):
        read_documents(path)
    assert (read_documents(path, text_field="body").texts, read_documents(path, text_field="body").empty) == (["x"], 1)
    with pytest.raises(TrainingError, match=r"row 1: expected text in 'n', found int"):
        read_documents(path, text_field="n")
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(TrainingError, match=r"a.parquet: cannot be read \(.*Parquet"):
        read_documents(path)
    saved = written(tmp_path, "dataset")
    next(saved.glob("*.arrow")).write_bytes(b"half")
    with pytest.raises(TrainingError, match=r"saved: cannot be read \("):
        read_documents(saved)


def chat(*turns: tuple[str, str]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def test_conversations_from_rows_are_those_from_lines(tmp_path: Path) -> None:
    rows = [chat(("user", "a"), ("assistant", "b")), chat(("system", "s"), ("user", "c"), ("assistant", "d"))]
    rows[0]["messages"][1]["name"] = "x"
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    lines = list(read_examples(json_lines(tmp_path / "a.jsonl", rows), format="chat"))
    found = list(read_examples(tmp_path / "a.parquet", format="chat"))
    assert [example.messages for example in found] == [example.messages for example in lines]
    assert [example.messages for example in found] == [tuple(row["messages"]) for row in rows]
    assert [example.characters for example in found] == [2, 3]


@pytest.mark.parametrize(
    ("form", "record", "message"),
    [
        ("chat", {"text": "x"}, "has no field 'messages'; its fields: text. Call it 'messages', or set `format:`"),
        ("chat", {"messages": "x"}, "expected a list of objects in 'messages', found str"),
        ("chat", {"messages": ["x"]}, "expected a list of objects in 'messages', found a list of str"),
        ("chat", {"messages": [{"content": "x"}]}, "message 1: has no field 'role'; its fields: content"),
        ("chat", {"messages": [{"role": "user"}]}, "message 1: has no field 'content'; its fields: role"),
        ("chat", {"messages": [{"role": "user", "content": ["x"]}]}, "expected text in 'content', found a list of str"),
        ("chat", chat(("user", "x")), "has no message of the role 'assistant'. The loss is on the assistant's"),
        ("chat", {**chat(("assistant", "x")), "tools": "x"}, "expected a list of objects in 'tools', found str"),
        ("completion", {"prompt": "x"}, "has no field 'completion'; its fields: prompt"),
        ("completion", {"prompt": "x", "completion": ""}, "has an empty 'completion'"),
        ("completion", {"prompt": 1, "completion": "x"}, "expected text in 'prompt', found int"),
        ("completion", chat(("assistant", "x")), "fields: messages. Set `format: chat` for conversations"),
        ("text", chat(("assistant", "x")), "has no field 'text'; its fields: messages. Set `format: chat`"),
        ("text", {"prompt": "x", "completion": "y"}, "fields: completion, prompt. Set `format: completion`"),
    ],
)
def test_records_of_another_format(tmp_path: Path, form: str, record: dict[str, Any], message: str) -> None:
    path = json_lines(tmp_path / "a.jsonl", [record])
    with pytest.raises(TrainingError) as caught:
        list(read_examples(path, format=form))
    assert message in str(caught.value)
    assert "a.jsonl, line 1" in str(caught.value)


def test_plain_text_has_no_answers(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("words")
    with pytest.raises(TrainingError, match=r"a.txt: is plain text, which `format: chat` cannot read"):
        list(read_examples(tmp_path / "a.txt", format="chat"))


def test_calls_of_tools_may_have_no_content(tmp_path: Path) -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f"}}]}
    (example,) = read_examples(json_lines(tmp_path / "a.jsonl", [{"messages": [call]}]), format="chat")
    assert example.messages == ({"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]},)
