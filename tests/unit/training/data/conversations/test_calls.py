"""Tool calls: arguments and schemas are learnt as JSON written once, however data and template spell them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from aftermix.errors import TrainingError
from aftermix.training.data.conversations.calls import read_tools
from support.chat_world import CHATML, build_chat_tokenizer, called, encode_messages, said, show_messages

ARGUMENTS = {"town": "Köln", "days": [1, 2], "at": {"hour": 9}}
WRITTEN = '{"town": "Köln", "days": [1, 2], "at": {"hour": 9}}'
TEXT_ALONE = CHATML.replace("(c['function'] | tojson)", "c['function']['name'] + ' ' + c['function']['arguments']")
EITHER = CHATML.replace(
    "(c['function'] | tojson)",
    "(c['function']['arguments'] if c['function']['arguments'] is string else c['function']['arguments'] | tojson)",
)
PYTHON = CHATML.replace("{{ '\n<call>' + (c['function'] | tojson) + '</call>' }}", "{{ c['function']['arguments'] }}")
ITEMS = CHATML.replace("(c['function'] | tojson)", "(c['function']['arguments'].items() | map('first') | join(' '))")


@pytest.mark.parametrize(
    ("template", "written"),
    [
        (
            CHATML,
            '\n<call>{"name": "weather", "arguments": {"town": "Köln", "days": [1, 2], "at": {"hour": 9}}}</call>',
        ),
        (TEXT_ALONE, '\n<call>weather {"town": "Köln", "days": [1, 2], "at": {"hour": 9}}</call>'),
        (EITHER, '\n<call>{"town": "Köln", "days": [1, 2], "at": {"hour": 9}}</call>'),
        (PYTHON, '{"town": "Köln", "days": [1, 2], "at": {"hour": 9}}'),
        (ITEMS, "\n<call>town days at</call>"),
    ],
)
@pytest.mark.parametrize("spelled", ["object", "text", "calls as text"])
def test_arguments_are_written_once(template: str, written: str, spelled: str) -> None:
    tokenizer = build_chat_tokenizer(template)
    calls: Any = [called("weather", WRITTEN if spelled == "text" else ARGUMENTS)]
    calls = json.dumps(calls) if spelled == "calls as text" else calls
    shown = show_messages(tokenizer, said("user", "Weather?"), said("assistant", tool_calls=calls))
    assert shown == f"<|user|>\nWeather?<end>\n<|assistant|>\n[{written}<end>\n]"


@pytest.mark.parametrize(
    ("arguments", "written"),
    [
        ("", "{}"),
        ("{}", "{}"),
        ('"{}"', "{}"),
        ("[1]", "[1]"),
        ("Bonn", '"Bonn"'),
        ("12", '"12"'),
        ({"town": None}, '{"town": null}'),
    ],
)
def test_text_that_is_no_object_stays_and_none_is_none(arguments: Any, written: str) -> None:
    tokenizer = build_chat_tokenizer(CHATML)
    shown = show_messages(tokenizer, said("assistant", "", tool_calls=[called("w", arguments)]))
    assert shown == f'<|assistant|>\n[\n<call>{{"name": "w", "arguments": {written}}}</call><end>\n]'


@pytest.mark.parametrize("arguments", [ARGUMENTS, WRITTEN])
def test_a_call_without_words_has_empty_ones_where_the_template_asks_for_them(arguments: Any) -> None:
    """Qwen3's looks into the content of every message, and OpenAI's interface gives null beside a call."""
    tokenizer = build_chat_tokenizer("{% for m in messages %}{{ m.content.strip()[:0] }}{% endfor %}" + CHATML)
    call = said("assistant", tool_calls=[called("weather", arguments)])
    shown = show_messages(
        tokenizer, said("user", "Weather?"), call, said("tool", "Rain."), said("assistant", "It rains.")
    )
    assert shown.startswith('<|user|>\nWeather?<end>\n<|assistant|>\n[\n<call>{"name": "weather", "arguments": {"town"')
    assert shown.endswith("Rain.<end>\n<|assistant|>\n[It rains.<end>\n]")


def test_calls_that_cannot_be_read() -> None:
    tokenizer = build_chat_tokenizer(CHATML)
    broken = said("assistant", tool_calls=[called("w", '{"town": "Bonn"')])
    message = r"line 1, message 2: the 'arguments' of a call begin as an object of JSON and are none: \{"
    with pytest.raises(TrainingError, match=message):
        encode_messages(tokenizer, said("user", "a"), broken)
    for calls, kind in ((["weather"], "a list of str"), ({"name": "w"}, "dict"), ("weather", "str")):
        with pytest.raises(TrainingError, match=f"message 1: expected a list of objects in 'tool_calls', found {kind}"):
            encode_messages(tokenizer, said("assistant", "a", tool_calls=calls))


def test_schemas_as_text() -> None:
    schema = {
        "type": "function",
        "function": {"name": "weather", "parameters": {"properties": {"town": {"default": None}}}},
    }
    inner = {**schema["function"], "parameters": json.dumps(schema["function"]["parameters"])}
    for value in (
        [schema],
        json.dumps([schema]),
        [json.dumps(schema)],
        [{**schema, "function": inner}],
        json.dumps(json.dumps([schema])),
    ):
        assert read_tools("line 1", value) == [schema]
    for value in (None, "", [], "[]", "null"):
        assert read_tools("line 1", value) == []
    with pytest.raises(
        TrainingError, match=r"line 1: expected a list of objects in 'tools', found str. Write `\[\{type"
    ):
        read_tools("line 1", "weather")
