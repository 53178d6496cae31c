"""Exports of what trainers read unlike each other: what comes out is what was counted, or the export is refused."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from statistics import mean
from typing import Any

import datasets
import pyarrow
import pytest
from pyarrow import parquet
from transformers import AutoTokenizer

from conftest import save_tokenizer
from support.chat_exports import (
    TEMPLATE,
    Record,
    answered_twice,
    bare,
    call,
    calling,
    chats,
    draw_rows,
    export,
    in_lines,
    plain,
    prompted,
    read_axolotl_entries,
    refused,
    run_script,
    said,
    talk,
    tool,
)
from support.export_world import write_records


def test_rows_of_an_interleaved_mixture_have_the_tools_that_were_counted(tmp_path: Path) -> None:
    calls = [calling(number, key) for number in range(12) for key in ("one", "two words", "städte")]
    talks = [plain(number) for number in range(120)]
    out = export(tmp_path, "interleave", chats(tmp_path, calls=calls, talks=talks), tokens=30_000)
    rows = draw_rows(out)
    assert in_lines(rows) == in_lines([*calls, *({**talk, "tools": None} for talk in talks)])

    # The share of the tokens that each domain is expected to give, by the rows as they are given.
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "base")
    tokens: dict[str, list[int]] = {"calls": [], "talks": []}
    for row in {json.dumps(row): row for row in rows}.values():
        text = tokenizer.apply_chat_template(row["messages"], tools=row["tools"], tokenize=False)
        tokens["calls" if row["tools"] else "talks"].append(len(tokenizer(text, add_special_tokens=False)["input_ids"]))
    given = {name: entry["probability"] * mean(tokens[name]) for name, entry in run_script(out)["DOMAINS"].items()}
    assert given["calls"] / sum(given.values()) == pytest.approx(0.5, rel=1e-6)
    assert run_script(out)["EXAMPLES"] * sum(given.values()) == pytest.approx(30_000, rel=0.01)


def test_rows_without_tools_have_messages_alone(tmp_path: Path) -> None:
    rows = draw_rows(export(tmp_path, "interleave", chats(tmp_path, talks=[plain(number) for number in range(20)])))
    assert in_lines(rows) == in_lines(plain(number) for number in range(20))


def test_system_columns_and_stored_json_are_given_as_they_were_counted(tmp_path: Path) -> None:
    asked = [said("user", "one"), call("even", '{"one": 1}'), said("tool", "sum"), said("assistant", "one")]
    stored = {"messages": asked, "tools": json.dumps([tool("even", "one")]), "system": "even numbers"}
    (row,) = {
        json.dumps(row): row for row in draw_rows(export(tmp_path, "interleave", chats(tmp_path, a=[stored])))
    }.values()
    assert row["messages"] == [said("system", "even numbers"), asked[0], call("even", {"one": 1}), *asked[2:]]
    assert row["tools"] == [tool("even", "one")]


@pytest.mark.parametrize("kind", ["parquet", "saved"])
def test_keys_that_a_table_adds_to_messages_are_not_given(tmp_path: Path, kind: str) -> None:
    calls = [calling(number, key) for number in range(6) for key in ("one", "two")]
    table = pyarrow.Table.from_pylist(calls)
    saved = datasets.Dataset(table)
    place = tmp_path / ("calls.parquet" if kind == "parquet" else "calls")
    saved.to_parquet(str(place)) if kind == "parquet" else saved.save_to_disk(str(place))
    rows = draw_rows(export(tmp_path, "interleave", {"calls": {"data": str(place), "format": "chat"}}, tokens=6000))
    assert in_lines(rows) == in_lines(calls)


ODD = ["da[1]ta", "da ta", "da,ta", "da'ta", 'da"ta', "da{x}ta", "da%20ta", "da#ta", "da:ta", "日本 ß", "a::b", "$HOME"]


def test_files_that_differ_and_odd_names_are_read_one_by_one(tmp_path: Path) -> None:
    """Columns, kinds of values and names as files of one folder have them; one file is compressed, one has a mark."""
    places = [tmp_path / "odd" / name for name in ODD]
    texts = []
    for number, place in enumerate(places):
        place.mkdir(parents=True)
        rows = [{f"only{number}": number, "text": f"one {number} sum", "id": number if number % 2 else str(number)}]
        texts += [row["text"] for row in rows]
        write_records(place / "a.jsonl", rows)
    (tmp_path / "odd" / "b.jsonl").write_text('\ufeff{"text": "even"}\n\n{"text": "", "x": [1, "a"]}\n')
    (tmp_path / "odd" / "c.jsonl.gz").write_bytes(gzip.compress(b'{"text": "one one"}\n'))

    rows = draw_rows(export(tmp_path, "interleave", {"odd": {"data": str(tmp_path / "odd")}}))
    assert {row["text"] for row in rows} == {*texts, "even", "", "one one"}
    assert all(set(row) == {"text"} for row in rows)


def test_data_that_changed_are_read_again(tmp_path: Path) -> None:
    source = {
        "data": str(write_records(tmp_path / "a.jsonl", [{"body": "one"}, {"body": "sum"}])),
        "text_field": "body",
    }
    out = export(tmp_path, "interleave", {"a": source}, tokens=60)
    assert {row["text"] for row in draw_rows(out)} == {"one", "sum"}
    write_records(tmp_path / "a.jsonl", [{"body": "numbers"}])
    assert {row["text"] for row in draw_rows(out)} == {"numbers"}


def load_as_trl(out: Path) -> list[Record]:
    """Rows as `get_dataset` of TRL makes them (`trl/scripts/utils.py`): loaded, columns selected, tables joined."""
    tables = []
    for entry in read_axolotl_entries(out):
        table = datasets.load_dataset(path=entry["path"], data_files=entry["data_files"], split=entry["split"])
        tables.append(table.select_columns(entry["columns"]))
    return list(datasets.concatenate_datasets(tables))


def test_trl_selects_the_tools_too(tmp_path: Path) -> None:
    calls = [calling(number, key) for number in range(20) for key in ("one", "two")]
    out = export(tmp_path, "trl", chats(tmp_path, calls=calls))
    assert read_axolotl_entries(out)[0]["columns"] == ["messages", "tools"]
    assert in_lines(load_as_trl(out)) == in_lines(calls)


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([{**plain(0), "messages": [call("even", '{"one": 1}'), said("assistant", "one")]}], "arguments of calls"),
        (
            [{"messages": [said("user", "one"), said("assistant", "sum", weight=0), said("assistant", "one")]}],
            "'weight'",
        ),
        ([talk(train=True)], "'train'"),
        ([talk(loss=True)], "'loss'"),
    ],
)
def test_what_trl_would_read_otherwise_is_refused(tmp_path: Path, records: list[Record], message: str) -> None:
    found = refused(tmp_path, "trl", chats(tmp_path, a=records))
    assert found.startswith("mixture.a: TRL ")
    assert message in found
    assert f"({tmp_path / 'a.jsonl'}, line 1). Export --to interleave" in found


def test_trl_joins_no_tables_whose_messages_differ(tmp_path: Path) -> None:
    found = refused(tmp_path, "trl", chats(tmp_path, a=[calling(0)], b=[plain(0)]))
    assert "mixture.a: TRL joins the tables of all files, whose messages need the same keys" in found
    assert "mixture.b" not in found
    out = export(tmp_path, "trl", chats(tmp_path, c=[plain(0)], d=[plain(1)]))
    assert in_lines(load_as_trl(out)) == in_lines([plain(0), plain(1)])


def convert_as_llamafactory(out: Path) -> list[list[tuple[str, Any]]]:
    """Turns and tools as its `OpenAIDatasetConverter` makes them (`llamafactory/data/converter.py`, 0.9.5).

    A message with calls becomes the list of their functions, answers of tools in a row become one turn; tools that are
    no text are written as JSON.
    """
    found = []
    for entry in json.loads((out / "dataset_info.json").read_text()).values():
        assert entry["formatting"] == "openai"
        for row in datasets.load_dataset("json", data_files=[entry["file_name"]], split="train"):
            turns: list[tuple[str, Any]] = []
            for message in row[entry["columns"]["messages"]]:
                calls, role = message.get("tool_calls"), message[entry["tags"]["role_tag"]]
                words = [one["function"] for one in calls] if calls else message[entry["tags"]["content_tag"]]
                if role == "tool" and turns[-1][0] == "tool":
                    words = turns.pop()[1] + words
                turns.append((role, words))
            found.append([*turns, ("tools", json.dumps(row[entry["columns"]["tools"]]))])
    return found


def test_llamafactory_reads_tools_as_openai_writes_them(tmp_path: Path) -> None:
    calls = [calling(number) for number in range(3)]
    out = export(tmp_path, "llamafactory", chats(tmp_path, calls=calls))
    function = {"name": "even", "arguments": {"one": "sum"}}
    behind = [("assistant", [function]), ("tool", "one"), ("assistant", "one")]
    tools = ("tools", json.dumps([tool("even", "one")]))
    assert convert_as_llamafactory(out) == [[("user", f"sum {number}"), *behind, tools] for number in range(3)]


def test_llamafactory_reads_conversations_without_tools_as_before(tmp_path: Path) -> None:
    out = export(tmp_path, "llamafactory", chats(tmp_path, talks=[plain(0)]))
    entry = json.loads((out / "dataset_info.json").read_text())["talks"]
    assert (entry["formatting"], entry["columns"]) == ("sharegpt", {"messages": "messages"})


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([calling(0), calling(1, "two")], "the keys of the others, as null ({file}, line 2)"),
        ([calling(0), plain(0)], "a system prompt of its own to conversations without tools"),
        ([{**calling(0), "messages": [said("user", "one"), call("even", "{}")]}], "as text within text"),
        ([{**calling(0), "messages": [said("user", "one"), call("even", {}) | {"content": "sum"}]}], "drops the words"),
        ([{"messages": [said("assistant", "one"), said("user", "sum"), said("assistant", "one")]}], "take turns"),
        ([calling(0, inner=[{"a": "one"}, {"b": "one"}])], "the keys of the others, as null ({file}, line 1)"),
        ([calling(0, inner={"a": [[1], ["one"]]})], "the keys of the others, as null ({file}, line 1)"),
        (
            [prompted(calling(0))],
            "adds a line break to the prompt of the system where there are tools ({file}, line 1)",
        ),
        ([{**calling(0), "system": "even"}], "adds a line break to the prompt of the system"),
        ([bare({"one": "sum"})], "needs the key 'function' in a call ({file}, line 1)"),
        ([answered_twice()], "writes '</tool_response>' between the answers of tools in a row ({file}, line 1)"),
        (
            [{"messages": [said("user", "one"), said("assistant", "sum", reasoning_content="one")]}],
            "reads no 'reasoning_",
        ),
    ],
)
def test_what_llamafactory_would_read_otherwise_is_refused(tmp_path: Path, records: list[Record], message: str) -> None:
    found = refused(tmp_path, "llamafactory", chats(tmp_path, a=records))
    assert "mixture.a: LLaMA-Factory " in found
    assert message.format(file=tmp_path / "a.jsonl") in found


def test_llamafactory_joins_answers_of_tools_as_a_template_that_writes_the_same(tmp_path: Path) -> None:
    save_tokenizer(tmp_path / "base", chat_template=TEMPLATE + "{# </tool_response> #}")
    out = export(tmp_path, "llamafactory", chats(tmp_path, a=[answered_twice()]))
    assert convert_as_llamafactory(out)[0][2] == ("tool", "oneone")


@pytest.mark.parametrize("to", ["trl", "axolotl"])
def test_files_of_a_domain_that_no_table_holds_are_refused(tmp_path: Path, to: str) -> None:
    (tmp_path / "files").mkdir()
    write_records(tmp_path / "files" / "1.jsonl", [{"text": "one sum one sum", "id": 1}])
    write_records(tmp_path / "files" / "2.jsonl", [{"text": "even numbers", "url": "x"}])
    source = {"a": {"data": str(tmp_path / "files")}}
    message = "as one table, and they differ (1.jsonl has id, text, 2.jsonl has text, url)"
    assert message in refused(tmp_path, to, source)
    write_records(tmp_path / "files" / "2.jsonl", [{"text": "even numbers", "id": "x"}])
    assert "('id' of 1.jsonl and of 2.jsonl hold values of unlike kinds)" in refused(tmp_path, to, source)


@pytest.mark.parametrize("to", ["trl", "axolotl", "llamafactory"])
@pytest.mark.parametrize("name", ["da[1]ta", "a*", "$HOME", "a::b"])
def test_paths_that_a_loader_takes_for_patterns_are_refused(tmp_path: Path, to: str, name: str) -> None:
    (tmp_path / name).mkdir()
    write_records(tmp_path / name / "a.jsonl", [{"text": "one sum"}])
    found = refused(tmp_path, to, {"a": {"data": str(tmp_path / name / "a.jsonl")}})
    assert f"of {tmp_path / name / 'a.jsonl'} for a pattern" in found
    assert "--to interleave takes any" in found


@pytest.mark.parametrize("name", ["da ta", "da,ta", "da'ta", "da{x}ta", "da%20ta", "da#ta", "da:ta", "日本"])
def test_paths_that_a_loader_takes_for_names_are_given(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    write_records(tmp_path / name / "a.jsonl", [{"text": "one sum"}])
    out = export(tmp_path, "trl", {"a": {"data": str(tmp_path / name / "a.jsonl")}})
    assert load_as_trl(out) == [{"text": "one sum"}]


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_what_is_ignored_is_in_no_row(tmp_path: Path, kind: str) -> None:
    """Keys of messages, the column of tools, and a prompt of the system, each of its own domain alone."""
    odd = {**talk(mood="old", content_type="x"), "tools": [tool("even", "one")], "system": "Be old."}
    rows = {"a": [odd], "b": [calling(0)], "c": [talk(mood="new")]}
    template = TEMPLATE.replace("m['role'] +", "m['role'] + (m['mood'] or '') +")
    save_tokenizer(tmp_path / "base", chat_template=template)
    sources = chats(tmp_path, **rows)
    sources["a"]["ignore_columns"] = ["mood", "content_type", "tools", "system"]
    if kind == "parquet":
        for name, found in rows.items():
            sources[name]["data"] = str(tmp_path / f"{name}.parquet")
            parquet.write_table(pyarrow.Table.from_pylist(found), sources[name]["data"])
    drawn = [
        {key: value for key, value in row.items() if value}
        for row in draw_rows(export(tmp_path, "interleave", sources))
    ]
    assert in_lines(drawn) == in_lines([talk(), calling(0), talk(mood="new")])


@pytest.mark.parametrize(
    ("to", "ignored", "message"),
    [
        ("trl", "mood", "TRL hands the ignored 'mood' to the template"),
        ("axolotl", "mood", "axolotl hands the ignored 'mood' to the template"),
        ("axolotl", "tools", "axolotl hands the ignored 'tools' to the template"),
        ("llamafactory", "tool_calls", "LLaMA-Factory reads calls, and 'tool_calls' is ignored"),
        ("trl", "note", None),
        ("axolotl", "weight", None),
        ("llamafactory", "tools", None),
        ("llamafactory", "mood", None),
    ],
)
def test_what_is_ignored_and_would_be_written_is_refused(
    tmp_path: Path, to: str, ignored: str, message: str | None
) -> None:
    save_tokenizer(tmp_path / "base", chat_template=TEMPLATE.replace("m['role'] +", "m['role'] + (m['mood'] or '') +"))
    beside = {"tools": [tool("even", "one")], "tool_calls": call("even", {"one": "1"})["tool_calls"], "weight": 1}
    record = (
        talk(**{ignored: beside.get(ignored, "old")}) if ignored != "tools" else {**talk(), "tools": beside["tools"]}
    )
    sources = chats(tmp_path, a=[record] * 60)
    sources["a"]["ignore_columns"] = [ignored]
    if message is not None:
        assert refused(tmp_path, to, sources).startswith(f"mixture.a: {message} ({tmp_path / 'a.jsonl'}, line 1). ")
        return
    text = (export(tmp_path, to, sources, tokens=100) / "mixture.yaml").read_text()
    assert "message_field_training" not in text
