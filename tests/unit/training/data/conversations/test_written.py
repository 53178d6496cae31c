"""What a conversation holds, and the template would pass over without a word, is refused by its place."""

from __future__ import annotations

from typing import Any

import pytest

from aftermix.errors import TrainingError
from support.chat_world import CHATML, build_chat_tokenizer, called, encode_messages, said, show_messages

TURN = "{{ '<|' + m['role'] + '|>\n' + (m['content'] or '') + '<end>\n' }}"
OPENING = "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
TOOLS = "{{ '<|system|>\n' + (tools | tojson) + '<end>\n' }}"
KNOWN = "{% if m['role'] in ('system', 'user', 'assistant') %}"
NO_TOOLS = "{% for m in messages %}" + TURN + "{% endfor %}" + OPENING
KNOWN_ROLES = "{% for m in messages %}" + KNOWN + TURN + "{% endif %}{% endfor %}" + OPENING
ONE_SYSTEM = NO_TOOLS.replace(TURN, "{% if loop.first or m['role'] != 'system' %}" + TURN + "{% endif %}")
SYSTEM_OR_TOOLS = "{% if tools and messages[0]['role'] != 'system' %}" + TOOLS + "{% endif %}" + NO_TOOLS
CALLS_ALONE = CHATML.replace("(m['content'] or '')", "('' if m['tool_calls'] else m['content'] or '')")
MERGED_SYSTEM = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{% else %}{{ '<|' + m['role'] + '|>\n' }}"
    "{% if loop.index == 2 and messages[0]['role'] == 'system' %}{{ messages[0]['content'] + '\n' }}{% endif %}"
    "{{ m['content'] + '<end>\n' }}{% endif %}{% endfor %}" + OPENING
)
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
ASKED = said("user", "Rain?"), said("assistant", "No.")


@pytest.mark.parametrize(
    ("template", "turns", "place", "role"),
    [
        (KNOWN_ROLES, (said("developer", "Be old."), *ASKED), 1, "developer"),
        (KNOWN_ROLES, (*ASKED, said("tool", "sun"), said("assistant", "Sun.")), 3, "tool"),
        (KNOWN_ROLES, (said("user", "No."), said("developer", "No."), said("assistant", "No.")), 2, "developer"),
        (ONE_SYSTEM, (said("system", "Be old."), *ASKED, said("system", "Be new."), *ASKED), 4, "system"),
        (
            CALLS_ALONE,
            (said("user", "Rain?"), said("assistant", "I look.", tool_calls=[called("weather", {})])),
            2,
            "assistant",
        ),
    ],
)
def test_words_that_the_template_passes_over(template: str, turns: Any, place: int, role: str) -> None:
    with pytest.raises(TrainingError) as caught:
        encode_messages(build_chat_tokenizer(template), *turns)
    assert str(caught.value) == (
        f"a.jsonl, line 1, message {place}: the chat template does not write the words of this message (role '{role}')."
        " Give them to a role that it writes, remove them, or put a chat_template.jinja that writes them into the "
        "base's folder."
    )


@pytest.mark.parametrize(
    ("template", "turns"), [(NO_TOOLS, ASKED), (SYSTEM_OR_TOOLS, (said("system", "Be old."), *ASKED))]
)
def test_tools_that_the_template_passes_over(template: str, turns: Any) -> None:
    tokenizer = build_chat_tokenizer(template)
    with pytest.raises(TrainingError) as caught:
        encode_messages(tokenizer, *turns, tools=(WEATHER,))
    assert str(caught.value) == (
        "a.jsonl, line 1: has 'tools', which the chat template does not write here. Name it in the dataset's "
        "`ignore_columns: [tools]`, or put a chat_template.jinja that writes them into the base's folder."
    )
    assert show_messages(tokenizer, *turns).endswith("<|user|>\nRain?<end>\n<|assistant|>\n[No.<end>\n]")


def test_what_is_written_somewhere_is_no_fault() -> None:
    """Words that were trimmed or stand in another's turn, empty messages, and tools beside no system message."""
    shown = show_messages(build_chat_tokenizer(MERGED_SYSTEM), said("system", "Be old."), *ASKED)
    assert shown == "<|user|>\nBe old.\nRain?<end>\n<|assistant|>\n[No.<end>\n]"
    trimmed = build_chat_tokenizer(NO_TOOLS.replace("(m['content'] or '')", "m['content'] | trim | upper"))
    assert "RAIN?<end>" in show_messages(trimmed, said("user", " Rain? "), said("assistant", "No."))
    known = build_chat_tokenizer(KNOWN_ROLES)
    assert show_messages(known, said("developer", " "), *ASKED).startswith("<|user|>\nRain?<end>")
    assert "weather" in show_messages(build_chat_tokenizer(SYSTEM_OR_TOOLS), *ASKED, tools=(WEATHER,))
    call = said("assistant", "", tool_calls=[called("weather", {})])
    assert "[\n<call>" in show_messages(build_chat_tokenizer(CALLS_ALONE), said("user", "Rain?"), call)
