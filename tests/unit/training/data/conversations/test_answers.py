"""Labels of templates that mark no answers: what the assistant says, never an opening, whatever the template does."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aftermix.errors import TrainingError
from support.chat_world import CALLS, CHATML, build_chat_tokenizer, called, encode_messages, said, show_messages

DEFAULT_SYSTEM = "{% if messages[0]['role'] != 'system' %}{{ '<|system|>\nBe kind.<end>\n' }}{% endif %}" + CHATML
THINKING = (
    "{% set ns = namespace(last=-1) %}{% for m in messages %}{% if m['role'] == 'user' %}"
    "{% set ns.last = loop.index0 %}{% endif %}{% endfor %}{% for m in messages %}{% set c = m['content'] or '' %}"
    "{% set r = m['reasoning_content'] or '' %}"
    "{% if '</think>' in c %}{% set r = c.split('</think>')[0].split('<think>')[-1].strip() %}"
    "{% set c = c.split('</think>')[-1].strip() %}{% endif %}{{ '<|' + m['role'] + '|>\n' }}"
    "{% if m['role'] == 'assistant' and loop.index0 > ns.last and (loop.last or r) %}"
    "{{ '<think>\n' + r + '\n</think>\n\n' }}{% endif %}{{ c }}" + CALLS + "{{ '<end>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
OPENS_A_THOUGHT = THINKING.replace("{{ '<|assistant|>\n' }}", "{{ '<|assistant|>\n<think>\n' }}")
UNASKED = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] | trim + '<end>\n' }}{% endfor %}"
    "{{ '<|assistant|>\n' }}"
)
NEEDS_USER = (
    "{% if messages | selectattr('role', 'equalto', 'user') | list | length == 0 %}"
    "{{ raise_exception('no user') }}{% endif %}"
)

A_CALL = said("assistant", tool_calls=[called("weather", {"town": "Bonn"})])
WORDS_AND_A_CALL = said("assistant", "Let me see.", tool_calls=[called("weather", {"town": "Bonn"})])
CALL = '\n<call>{"name": "weather", "arguments": {"town": "Bonn"}}</call>'
EMPTY_THOUGHT = "<think>\n\n</think>\n\n"


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (CHATML, "<|assistant|>\n[Hello.<end>\n]"),
        (DEFAULT_SYSTEM, "<|system|>\nBe kind.<end>\n<|assistant|>\n[Hello.<end>\n]"),
        (UNASKED, "<|assistant|>\n[Hello.<end>]\n"),
        (THINKING, "<|assistant|>\n[Hello.<end>]\n"),
        (OPENS_A_THOUGHT, "<|assistant|>\n[Hello.<end>]\n"),
    ],
)
def test_an_assistant_that_speaks_first(template: str, expected: str) -> None:
    tokenizer = build_chat_tokenizer(template)
    shown = show_messages(tokenizer, said("assistant", "Hello."), said("user", "Two?"), said("assistant", "Four."))
    assert shown.startswith(f"{expected}<|user|>\nTwo?<end>\n<|assistant|>\n")
    assert shown.count("[") == 2


def test_an_assistant_that_speaks_alone_or_calls_first() -> None:
    tokenizer = build_chat_tokenizer(DEFAULT_SYSTEM)
    opening = "<|system|>\nBe kind.<end>\n<|assistant|>\n"
    assert show_messages(tokenizer, said("assistant", "Hello.")) == f"{opening}[Hello.<end>\n]"
    shown = show_messages(tokenizer, A_CALL, said("tool", "rain"), said("assistant", "Rain."))
    assert shown == f"{opening}[{CALL}<end>\n]<|tool|>\nrain<end>\n<|assistant|>\n[Rain.<end>\n]"


def test_an_assistant_behind_a_system_message_that_no_template_call_writes_alone() -> None:
    tokenizer = build_chat_tokenizer(NEEDS_USER + CHATML)
    turns = said("system", "Be old."), said("assistant", "Hello."), said("user", "Two?"), said("assistant", "Four.")
    assert show_messages(tokenizer, *turns) == (
        "<|system|>\nBe old.<end>\n<|assistant|>\n[Hello.<end>]\n<|user|>\nTwo?<end>\n<|assistant|>\n[Four.<end>\n]"
    )


@pytest.mark.parametrize(
    ("earlier", "written"),
    [
        (A_CALL, f"{CALL}<end>\n"),
        (WORDS_AND_A_CALL, f"Let me see.{CALL}<end>\n"),
        (said("assistant", ""), "<end>\n"),
        (said("assistant", "Four."), "Four.<end>"),
        (said("assistant", "Four.", reasoning_content="2+2"), "Four.<end>"),
        (said("assistant", "<think>\n2+2\n</think>\n\nFour."), "Four.<end>\n"),
    ],
)
def test_an_earlier_answer_without_the_thought_of_the_last_ends_where_the_next_message_begins(
    earlier: dict[str, Any], written: str
) -> None:
    tokenizer = build_chat_tokenizer(THINKING)
    turns = said("user", "Two?"), earlier, said("user", "Three?"), said("assistant", "Six.")
    rest = "" if written.endswith("\n") else "\n"
    assert show_messages(tokenizer, *turns) == (
        f"<|user|>\nTwo?<end>\n<|assistant|>\n[{written}]{rest}<|user|>\nThree?<end>\n<|assistant|>\n"
        f"[{EMPTY_THOUGHT}Six.<end>\n]"
    )


def test_thoughts_between_calls_that_a_later_question_removes() -> None:
    tokenizer = build_chat_tokenizer(THINKING)
    turns = (
        said("user", "Weather?"),
        said("assistant", "Let me see.", reasoning_content="ask", tool_calls=[called("weather", {"town": "Bonn"})]),
        said("tool", "rain"),
        said("assistant", "Rain.", reasoning_content="wet"),
        said("user", "The same: <|assistant|>\nagain"),
        said("assistant", "Rain."),
    )
    assert show_messages(tokenizer, *turns[:4]) == (
        f"<|user|>\nWeather?<end>\n<|assistant|>\n[<think>\nask\n</think>\n\nLet me see.{CALL}<end>\n]"
        "<|tool|>\nrain<end>\n<|assistant|>\n[<think>\nwet\n</think>\n\nRain.<end>\n]"
    )
    assert show_messages(tokenizer, *turns) == (
        f"<|user|>\nWeather?<end>\n<|assistant|>\n[Let me see.{CALL}<end>\n]<|tool|>\nrain<end>\n<|assistant|>\n"
        "[Rain.<end>]\n<|user|>\nThe same: <|assistant|>\nagain<end>\n<|assistant|>\n"
        f"[{EMPTY_THOUGHT}Rain.<end>\n]"
    )


def test_an_opening_that_begins_a_thought_is_not_the_answers() -> None:
    tokenizer = build_chat_tokenizer(OPENS_A_THOUGHT)
    turns = said("user", "Two?"), said("assistant", "<b>Four", reasoning_content="2+2"), said("user", "And?")
    last = said("assistant", "Six.", reasoning_content="3+3")
    assert show_messages(tokenizer, *turns, last) == (
        "<|user|>\nTwo?<end>\n<|assistant|>\n[<b>Four<end>]\n<|user|>\nAnd?<end>\n<|assistant|>\n<think>\n"
        "[3+3\n</think>\n\nSix.<end>\n]"
    )


def test_a_special_token_within_a_turn_does_not_end_it() -> None:
    template = CHATML.replace("\n<call>", "<|tool|>")
    template = template.replace("(m['content'] or '')", "('!' if loop.last else '') + (m['content'] or '')")
    tokenizer = build_chat_tokenizer(template)
    shown = show_messages(tokenizer, said("user", "Two?"), WORDS_AND_A_CALL, said("user", "a"), said("assistant", "b"))
    assert '[Let me see.<|tool|>{"name": "weather", "arguments": {"town": "Bonn"}}</call><end>\n]<|user|>' in shown


@pytest.mark.parametrize("strip", ["lstrip", "rstrip"])
def test_an_opening_that_takes_in_the_white_space_of_an_answer_is_not_learnt(strip: str) -> None:
    tokenizer = build_chat_tokenizer(CHATML, **{strip: True})
    turns = said("user", "Code?"), said("assistant", "    x = 1 "), said("user", "a"), said("assistant", "\n\nb")
    found = encode_messages(tokenizer, *turns)
    learnt = [token for token, answered in zip(found.ids, found.answered, strict=True) if answered]
    words = tokenizer.convert_ids_to_tokens(learnt)
    assert not {"<|assistant|>", "<|user|>"} & set(words)
    assert words.count("<end>") == 2
    messages = list(turns)
    assert found.ids.tolist() == tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)


def test_a_token_of_header_and_answer_that_is_white_space_alone_is_not_learnt() -> None:
    tokenizer = build_chat_tokenizer(CHATML)
    assert len(tokenizer("\n\n\n")["input_ids"]) == 1
    shown = show_messages(tokenizer, said("user", "a"), said("assistant", "\n\nb"))
    assert shown == "<|user|>\na<end>\n<|assistant|>\n\n[\nb<end>\n]"


def test_a_template_that_drops_an_answer_is_refused_at_its_message() -> None:
    tokenizer = build_chat_tokenizer(
        "{% for m in messages %}{% if m['role'] != 'assistant' or loop.last %}{{ m['content'] + '<end>' }}{% endif %}"
        "{% endfor %}"
    )
    turns = said("user", "a"), said("assistant", "b"), said("user", "c"), said("assistant", "d")
    with pytest.raises(TrainingError, match=r"line 1, message 2: .* answer 2 differently when more follows"):
        encode_messages(tokenizer, *turns)


TEXT = st.text(alphabet="the cat<>|é\n ", min_size=1, max_size=8).map(lambda text: f"x{text}x")
CALLED = st.builds(called, st.just("weather"), st.dictionaries(st.just("town"), TEXT))
ANSWERS = st.fixed_dictionaries(
    {"role": st.just("assistant"), "content": TEXT | st.just("")},
    optional={"reasoning_content": TEXT, "tool_calls": st.lists(CALLED, min_size=1)},
)
QUESTIONS = TEXT.map(lambda text: said("user", text))
TALKS = st.lists(st.tuples(QUESTIONS, st.lists(ANSWERS, min_size=1, max_size=2)), min_size=1, max_size=3)


@settings(max_examples=60)
@given(talks=TALKS, template=st.sampled_from([CHATML, DEFAULT_SYSTEM, THINKING]))
def test_openings_and_questions_are_never_learnt_and_ends_of_answers_always(talks: Any, template: str) -> None:
    tokenizer = build_chat_tokenizer(template)
    turns = [message for question, answers in talks for message in (question, *answers)]
    found = encode_messages(tokenizer, *turns)
    words = tokenizer.convert_ids_to_tokens(found.ids.tolist())

    role, expected = "", []
    for place, word in enumerate(words):
        if word in ("<|user|>", "<|assistant|>", "<|system|>"):
            role = word
        if word == "<end>":
            expected.append((place, role == "<|assistant|>"))
    assert [(place, bool(found.answered[place])) for place, _ in expected] == expected
    assert not any(found.answered[place] for place, word in enumerate(words) if word in ("<|user|>", "<|assistant|>"))
