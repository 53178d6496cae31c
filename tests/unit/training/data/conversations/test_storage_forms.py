"""One dataset in any form on disk is the same conversations: the same tokens and the same labels."""

from __future__ import annotations

import gzip
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from aftermix.training.data.encoding import build_example_encoder
from aftermix.training.data.examples import read_examples
from support.chat_world import CHATML, build_chat_tokenizer, called, said, show_labels

Row = dict[str, Any]
TOKENIZER = build_chat_tokenizer(CHATML)


def show_file(path: Path) -> list[str]:
    encode = build_example_encoder(TOKENIZER, format="chat", where="base")
    return [show_labels(TOKENIZER, found) for found in encode(list(read_examples(path, format="chat")))]


def write_forms(folder: Path, rows: list[Row]) -> dict[str, Path]:
    """The rows in every form that is read."""
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / "a.jsonl").write_text(lines, encoding="utf-8")
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    parquet.write_table(pa.Table.from_pylist(rows), folder / "c.parquet")
    datasets.Dataset.from_list(rows).save_to_disk(folder / "d")
    datasets.load_from_disk(folder / "d").to_parquet(folder / "e.parquet")
    spelled = [spell(row) for row in rows]
    (folder / "f.jsonl").write_text("".join(json.dumps(row) + "\n" for row in spelled), encoding="utf-8")
    parquet.write_table(pa.Table.from_pylist(spelled), folder / "g.parquet")
    return {path.name: path for path in sorted(folder.iterdir())}


def spell(row: Row) -> Row:
    """The row with arguments and tools as JSON text."""
    row = json.loads(json.dumps(row))
    for message in row["messages"]:
        for call in message.get("tool_calls", []):
            call["function"]["arguments"] = json.dumps(call["function"]["arguments"], ensure_ascii=False)
    return {**row, **({"tools": json.dumps(row["tools"])} if "tools" in row else {})}


def describe(name: str, parameters: Row) -> Row:
    """A schema of a tool."""
    return {"name": name, "parameters": parameters}


def ordered(fields: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[Row]:
    """Any of the fields, always in one order: columns have one."""
    drawn = st.fixed_dictionaries({}, optional=fields)
    return drawn.map(lambda row: {name: row[name] for name in fields if name in row})


WORDS = st.text(alphabet='the "cat"日é\n{', max_size=6)
PLACE = {"town": WORDS, "zip": st.integers(0, 99), "near": st.lists(WORDS, max_size=2)}
ARGUMENTS = {"day": WORDS, "place": ordered(PLACE), "stops": st.lists(ordered(PLACE), max_size=2), "wet": st.booleans()}
SCHEMA = {"type": WORDS, "enum": st.lists(WORDS, max_size=2), "properties": ordered({"town": ordered({"type": WORDS})})}
FULL_PLACE = {"town": "Bonn", "zip": 1, "near": ["a"]}
FULL: Row = {
    "messages": [
        said("user", "Weather?"),
        said(
            "assistant",
            "See",
            reasoning_content="Ask.",
            tool_calls=[called("w", {"day": "x", "place": FULL_PLACE, "stops": [FULL_PLACE], "wet": True})],
        ),
    ],
    "tools": [{"name": "w", "parameters": {"type": "x", "enum": ["a"], "properties": {"town": {"type": "x"}}}}],
}
"""Every key, in the order in which they are drawn; the first row settles the order of the columns."""

ANSWERS = st.fixed_dictionaries(
    {"role": st.just("assistant")},
    optional={"tool_calls": st.lists(st.builds(called, WORDS, ordered(ARGUMENTS)), min_size=1, max_size=2)},
).map(lambda message: {**message, "content": "Yes."} if "tool_calls" not in message else message)
ROWS = st.fixed_dictionaries(
    {"messages": st.tuples(WORDS.map(lambda text: said("user", text)), ANSWERS).map(list)},
    optional={"tools": st.lists(st.builds(describe, WORDS, ordered(SCHEMA)), max_size=2)},
)


@settings(max_examples=6)
@given(rows=st.lists(ROWS, min_size=2, max_size=6))
def test_tokens_and_labels_are_the_same_in_every_form(rows: list[Row]) -> None:
    folder = Path(tempfile.mkdtemp())
    try:
        forms = write_forms(folder, [FULL, *rows])
        shown = {name: show_file(path) for name, path in forms.items()}
    finally:
        shutil.rmtree(folder)
    assert len(shown) == 7
    assert shown["a.jsonl"][0].count('{"town": "Bonn", "zip": 1, "near": ["a"]}') == 2
    for name, found in shown.items():
        assert found == shown["a.jsonl"], name


def test_what_the_columns_added_is_not_learnt(tmp_path: Path) -> None:
    rows = [
        {"messages": [said("user", "a"), said("assistant", tool_calls=[called("weather", {"town": "Bonn"})])]},
        {"messages": [said("user", "b"), said("assistant", tool_calls=[called("clock", {"zone": {"name": "CET"}})])]},
        {"messages": [said("user", "c"), said("assistant", tool_calls=[called("stop", {})])]},
    ]
    for path in write_forms(tmp_path, rows).values():
        calls = [text.partition("<call>")[2].partition("</call>")[0] for text in show_file(path)]
        assert calls == [
            '{"name": "weather", "arguments": {"town": "Bonn"}}',
            '{"name": "clock", "arguments": {"zone": {"name": "CET"}}}',
            '{"name": "stop", "arguments": {}}',
        ]


def test_nulls_that_a_line_spells_stay_and_those_of_lists_in_columns(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(
        json.dumps({"messages": [said("assistant", tool_calls=[called("w", {"town": None, "days": [1, None]})])]})
    )
    assert '{"town": null, "days": [1, null]}' in show_file(tmp_path / "a.jsonl")[0]
    rows = [{"messages": [said("assistant", tool_calls=[called("w", {"days": [1, None]})])]}]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert '{"days": [1, null]}' in show_file(tmp_path / "a.parquet")[0]


def test_columns_of_json_maps_and_fixed_lists(tmp_path: Path) -> None:
    column = pa.array([json.dumps({"town": None, "days": 2})], pa.json_())
    call = pa.StructArray.from_arrays([pa.array(["w"]), column], ["name", "arguments"])
    calls = pa.FixedSizeListArray.from_arrays(pa.StructArray.from_arrays([call], ["function"]), 1)
    message = pa.StructArray.from_arrays([pa.array(["assistant"]), calls], ["role", "tool_calls"])
    parquet.write_table(pa.table({"messages": pa.LargeListArray.from_arrays([0, 1], message)}), tmp_path / "a.parquet")
    assert '"arguments": {"town": null, "days": 2}' in show_file(tmp_path / "a.parquet")[0]

    kind = pa.list_(
        pa.struct(
            {
                "role": pa.string(),
                "tool_calls": pa.list_(
                    pa.struct(
                        {"function": pa.struct({"name": pa.string(), "arguments": pa.map_(pa.string(), pa.string())})}
                    )
                ),
            }
        )
    )
    rows = [
        [said("assistant", tool_calls=[{"function": {"name": "w", "arguments": [("town", "Bonn"), ("day", "1")]}}])]
    ]
    parquet.write_table(pa.table({"messages": pa.array(rows, kind)}), tmp_path / "b.parquet")
    assert '"arguments": {"town": "Bonn", "day": "1"}' in show_file(tmp_path / "b.parquet")[0]
