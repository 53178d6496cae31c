"""Keys of messages and columns of records: each is honoured, written by the template, ignored by name, or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from aftermix.errors import TrainingError
from aftermix.training.data.encoding import build_example_encoder
from aftermix.training.data.examples import read_examples
from support.chat_world import CHATML, build_chat_tokenizer, called, encode_messages, said, show_labels, show_messages

BODY = "{% generation %}{{ m['content'] + '<end>\n' }}{% endgeneration %}"
MARKED = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' }}{% if m['role'] == 'assistant' %}" + BODY + "{% else %}"
    "{{ m['content'] + '<end>\n' }}{% endif %}{% endfor %}"
)
TWICE = MARKED.replace(
    BODY,
    "{% generation %}{{ m['content'] }}{% endgeneration %}{% generation %}<end>{% endgeneration %}{{ '\n' }}",
)
LAST_ALONE = MARKED.replace("{% if m['role'] == 'assistant' %}", "{% if m['role'] == 'assistant' and loop.last %}")
MOODY = CHATML.replace("(m['content'] or '')", "(m['content'] or '') + (m['mood'] or '')")
THOUGHTFUL = CHATML.replace(
    "(m['content'] or '')",
    "('(' + m['reasoning_content'] + ')' if m['reasoning_content'] else '') + (m['content'] or '')",
)
LATE_THOUGHTS = THOUGHTFUL.replace(
    "if m['reasoning_content']", "if m['reasoning_content'] and loop.index > loop.length - 1"
)
CUT_THOUGHTS = CHATML.replace("(m['content'] or '')", "(m['content'] or '').split('</think>')[-1] | trim")


@pytest.mark.parametrize("template", [CHATML, MARKED, TWICE])
@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"weight": 0}, {"weight": 1}),
        ({"train": False}, {"train": True}),
        ({"weight": 0.0}, {}),
        ({"train": False, "weight": 1}, {}),
        ({"loss": False}, {"loss": True}),
        ({"loss": False}, {"loss": None}),
        ({"loss_mask": 0}, {"loss_mask": 1}),
        ({"training": False}, {}),
        ({"trainable": False, "loss": True}, {"trainable": True}),
    ],
)
def test_an_answer_without_weight_is_not_learnt(template: str, first: Any, second: Any) -> None:
    tokenizer = build_chat_tokenizer(template)
    shown = show_messages(
        tokenizer,
        said("user", "Two?", weight=0),
        said("assistant", "Five.", **first),
        said("user", "No.", train=False),
        said("assistant", "Four.", **second),
    )
    end = "<end>]\n" if template == TWICE else "<end>\n]"
    assert shown == (f"<|user|>\nTwo?<end>\n<|assistant|>\nFive.<end>\n<|user|>\nNo.<end>\n<|assistant|>\n[Four.{end}")


@pytest.mark.parametrize(
    ("message", "refusal"),
    [
        (said("assistant", "a", weight=0.5), "message 1: expected 0 or 1 as 'weight', found 0.5. Write 0 or 1, or"),
        (said("assistant", "a", weight="1"), "message 1: expected 0 or 1 as 'weight', found '1'"),
        (said("assistant", "a", train="no"), "message 1: expected true or false as 'train', found 'no'"),
        (
            said("assistant", "a", train=False),
            "line 1: every answer has `weight: 0` or `train: false`, so",
        ),
        (
            said("assistant", "a", loss=False),
            "line 1: every answer has 'loss' of 0 or false, so nothing of it is learnt. Remove the record, or name "
            "'loss' in `ignore_columns:`.",
        ),
        (said("assistant", "a", loss=0.37), "message 1: expected true or false as 'loss', found 0.37"),
        (said("user", "a", weight=1), "message 1: asks to learn a message of the role 'user' ('weight'). Remove"),
    ],
)
def test_weights_that_cannot_be_honoured(message: Any, refusal: str) -> None:
    tokenizer = build_chat_tokenizer(CHATML)
    with pytest.raises(TrainingError) as caught:
        encode_messages(tokenizer, message, *([] if message["role"] == "assistant" else [said("assistant", "b")]))
    assert refusal in str(caught.value)


def test_marks_that_cannot_be_told_apart() -> None:
    turns = said("user", "a"), said("assistant", "b", weight=0), said("user", "c"), said("assistant", "d")
    with pytest.raises(TrainingError, match=r"line 1: the marks of the chat template cannot be told apart by answer"):
        encode_messages(build_chat_tokenizer(LAST_ALONE), *turns)


@pytest.mark.parametrize(
    ("template", "message", "key"),
    [
        (CHATML, said("user", "a", mood="kind"), "mood"),
        (CHATML, said("user", "a", name="Ann"), "name"),
        (CHATML, said("user", "a", score=2), "score"),
        (MARKED, said("user", "a", tool_calls=[called("w", {})]), "tool_calls"),
        (MOODY, said("user", "a", moods=["kind"]), "moods"),
    ],
)
def test_a_key_that_no_template_writes_is_refused_by_name(template: str, message: Any, key: str) -> None:
    with pytest.raises(TrainingError) as caught:
        encode_messages(build_chat_tokenizer(template), said("system", "s"), message, said("assistant", "b"))
    remedy = f"Remove it, or name it in the dataset's `ignore_columns: [{key}]`."
    assert (
        str(caught.value)
        == f"a.jsonl, line 1, message 2: holds '{key}', which the chat template does not write. {remedy}"
    )


def test_keys_that_are_written_empty_or_of_a_tool() -> None:
    shown = show_messages(build_chat_tokenizer(MOODY), said("user", "a", mood="!"), said("assistant", "b", mood=""))
    assert shown == "<|user|>\na!<end>\n<|assistant|>\n[b<end>\n]"
    tool = said("tool", "rain", name="weather", tool_call_id="c1")
    call = said("assistant", "", tool_calls=[called("weather", {})], annotations=[], refusal=False)
    assert "rain<end>" in show_messages(
        build_chat_tokenizer(CHATML), said("user", "a"), call, tool, said("assistant", "b")
    )


@pytest.mark.parametrize(
    ("template", "left_out"), [(CHATML, 2), (THOUGHTFUL, 0), (LATE_THOUGHTS, 1), (CUT_THOUGHTS, 2)]
)
@pytest.mark.parametrize("key", ["reasoning_content", "content"])
def test_thoughts_that_the_template_leaves_out_are_counted(template: str, left_out: int, key: str) -> None:
    if key == "content":
        answers = [said("assistant", f"<think>\n{number}+1</think>\n\nok") for number in "23"]
        left_out = 2 if template == CUT_THOUGHTS else 0
    else:
        answers = [said("assistant", "ok", reasoning_content=f"{number}+1") for number in "23"]
    turns = (
        said("user", "a"),
        answers[0],
        said("user", "b"),
        answers[1],
        said("user", "c"),
        said("assistant", "no thought"),
    )
    found = encode_messages(build_chat_tokenizer(template.replace("loop.length - 1", "loop.length - 4")), *turns)
    assert (found.thoughts, found.thoughts_left_out) == (2, left_out)


def write(path: Path, record: dict[str, Any], form: str) -> Path:
    if form == "parquet":
        file = path / "a.parquet"
        parquet.write_table(pa.Table.from_pylist([record]), file)
    else:
        file = path / "a.jsonl"
        file.write_text(json.dumps(record))
    return file


def show_record(file: Path, **options: Any) -> str:
    tokenizer = build_chat_tokenizer(CHATML)
    encode = build_example_encoder(tokenizer, format="chat", where="base")
    (found,) = encode(list(read_examples(file, format="chat", **options)))
    return show_labels(tokenizer, found)


TURNS = [said("user", "a"), said("assistant", "b")]
WRITTEN = "<|user|>\na<end>\n<|assistant|>\n[b<end>\n]"


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_a_column_with_the_system_prompt(tmp_path: Path, form: str) -> None:
    system = "<|system|>\nBe old.<end>\n"
    assert show_record(write(tmp_path, {"system": "Be old.", "messages": TURNS}, form)) == system + WRITTEN
    own = [said("system", "Be old."), *TURNS]
    assert show_record(write(tmp_path, {"system": "Be old.", "messages": own}, form)) == system + WRITTEN
    assert show_record(write(tmp_path, {"system": "", "messages": own}, form)) == system + WRITTEN
    file = write(tmp_path, {"system": "Be new.", "messages": own}, form)
    with pytest.raises(TrainingError, match=r"1: has a column 'system' and a first message of that role, which differ"):
        show_record(file)
    assert show_record(file, ignore_columns=("system",)) == system + WRITTEN


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
@pytest.mark.parametrize(
    ("beside", "named"),
    [
        ({"context": "Long ago"}, ["context"]),
        ({"note": "x", "id": 7, "hints": ["y"]}, ["note", "hints"]),
        ({"functions": [{"name": "w"}]}, ["functions"]),
        ({"meta": {"lang": "de"}, "system_prompt": "Be old."}, ["meta", "system_prompt"]),
    ],
)
def test_text_beside_conversations_is_refused_by_name_unless_ignored(
    tmp_path: Path, form: str, beside: dict[str, Any], named: list[str]
) -> None:
    file = write(tmp_path, {"messages": TURNS, **beside}, form)
    with pytest.raises(TrainingError) as caught:
        show_record(file)
    assert f"1: holds text in {', '.join(map(repr, named))}, which is not read beside 'messages'" in str(caught.value)
    assert f"`ignore_columns: [{', '.join(named)}]`" in str(caught.value)
    assert show_record(file, ignore_columns=named) == WRITTEN


def test_numbers_and_empty_columns_say_nothing(tmp_path: Path) -> None:
    beside = {"id": 7, "score": 0.5, "source": None, "note": "", "vector": [0.1], "good": True, "tools": ""}
    beside |= {"__index_level_0__": "row 7"}
    assert show_record(write(tmp_path, {"messages": TURNS, **beside}, "jsonl")) == WRITTEN


def test_keys_of_messages_are_ignored_by_name(tmp_path: Path) -> None:
    turns = [said("user", "a", mood="kind"), said("assistant", "b", weight=0, mood="old")]
    file = write(tmp_path, {"messages": turns}, "parquet")
    assert show_record(file, ignore_columns=["mood", "weight"]) == WRITTEN
    with pytest.raises(TrainingError, match="every answer has `weight: 0`"):
        show_record(file, ignore_columns=["mood"])


def test_text_beside_completions(tmp_path: Path) -> None:
    file = write(tmp_path, {"prompt": "a", "completion": "b", "system": "Be old."}, "jsonl")
    message = r"line 1: holds text in 'system', which is not read beside 'prompt' and 'completion'. Name it in the"
    with pytest.raises(TrainingError, match=message):
        list(read_examples(file, format="completion"))
    (example,) = read_examples(file, format="completion", ignore_columns=["system"])
    assert (example.prompt, example.text) == ("a", "b")
    lists = write(tmp_path, {"prompt": TURNS[:1], "completion": TURNS[1:]}, "jsonl")
    with pytest.raises(TrainingError, match=r"found list. Join both as `messages` and set `format: chat`."):
        list(read_examples(lists, format="completion"))


def test_calls_of_the_older_form(tmp_path: Path) -> None:
    call = said("assistant", function_call={"name": "weather", "arguments": "{}"})
    file = write(tmp_path, {"messages": [said("user", "a"), call]}, "jsonl")
    with pytest.raises(
        TrainingError, match=r"message 2: calls by 'function_call', a form of old. Write it as `tool_calls:"
    ):
        list(read_examples(file, format="chat"))
