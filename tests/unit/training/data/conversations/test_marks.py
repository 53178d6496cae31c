"""Labels of templates that mark their answers: the marked characters' tokens, wherever they stand."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aftermix.errors import TrainingError
from support.chat_world import build_chat_tokenizer, encode_messages, said, show_messages

BODY = "{% generation %}{{ m['content'] + '<end>\n' }}{% endgeneration %}"
MARKED = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' }}{% if m['role'] == 'assistant' %}" + BODY + "{% else %}"
    "{{ m['content'] + '<end>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
BARE = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] }}{% endgeneration %}"
    "{% else %}{{ '<|user|>' + m['content'] }}{% endif %}{% endfor %}"
)
MACRO = (
    "{% macro write(m) %}{{ '<|assistant|>\n' }}{% generation %}{{ m['content'] + '<end>\n' }}{% endgeneration %}"
    "{% endmacro %}{% for m in messages %}{% if m['role'] == 'assistant' %}{{ write(m) }}{% else %}"
    "{{ '<|user|>\n' + m['content'] + '<end>\n' }}{% endif %}{% endfor %}"
)
SPACED = """{% for m in messages %}
{{- '<|' + m['role'] + '|>\n' }}
    {%- if m['role'] == 'assistant' %}
        {% generation %}
        {% set content = m['content'] | trim %}
{{ content + '<end>\n' }}
        {%- endgeneration -%}
    {% else %}
{{- m['content'] + '<end>\n' }}
    {%- endif %}
{% endfor %}"""
TURNS = said("user", "Two?"), said("assistant", "Four."), said("user", "Three?"), said("assistant", "Six.")


def test_an_answer_at_the_first_token() -> None:
    tokenizer = build_chat_tokenizer(BARE)
    shown = show_messages(tokenizer, said("assistant", "a"), said("user", "tell me"), said("assistant", "b"))
    assert shown == "[a]<|user|>tell me[b]"


@pytest.mark.parametrize("strip", ["lstrip", "rstrip"])
def test_white_space_that_another_token_takes_in_marks_nothing_else(strip: str) -> None:
    tokenizer = build_chat_tokenizer(MARKED, **{strip: True})
    shown = show_messages(tokenizer, *TURNS)
    assert [part.partition("]")[0] for part in shown.split("[")[1:]] in (
        ["Four.<end>", "Six.<end>\n"],
        ["Four.<end>", "Six.<end>"],
    )


def test_marks_within_a_macro() -> None:
    tokenizer = build_chat_tokenizer(MACRO)
    assert show_messages(tokenizer, *TURNS) == (
        "<|user|>\nTwo?<end>\n<|assistant|>\n[Four.<end>\n]<|user|>\nThree?<end>\n<|assistant|>\n[Six.<end>\n]"
    )


def test_marks_leave_the_text_as_it_is(tmp_path: Any) -> None:
    tokenizer = build_chat_tokenizer(SPACED)
    found = encode_messages(tokenizer, *TURNS)
    options = {"tokenize": True, "return_dict": True, "return_assistant_tokens_mask": True}
    expected = tokenizer.apply_chat_template(list(TURNS), **options)
    assert found.ids.tolist() == expected["input_ids"]
    assert found.answered.tolist() == [bool(mark) for mark in expected["assistant_masks"]]
    assert sum(expected["assistant_masks"])


def test_marks_that_a_filter_goes_over_are_refused() -> None:
    tokenizer = build_chat_tokenizer(
        "{% for m in messages %}{% filter trim %}{% generation %}{{ m['content'] }} {% endgeneration %}{% endfilter %}"
        "{% endfor %}"
    )
    message = r"line 1: the chat template changes what stands between \{% generation %\} and .*outside of filters"
    with pytest.raises(TrainingError, match=message):
        encode_messages(tokenizer, *TURNS)


WORDS = st.text(alphabet="the cat sees日é\n ", max_size=12)
TALKS = st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=3).map(
    lambda pairs: [message for one, other in pairs for message in (said("user", one), said("assistant", other))]
)


@settings(max_examples=40)
@given(turns=TALKS, template=st.sampled_from([MARKED, MACRO]))
def test_every_mark_means_its_own_answer(turns: Any, template: str) -> None:
    tokenizer = build_chat_tokenizer(template, rstrip=True)
    found = encode_messages(tokenizer, *turns)
    words = tokenizer.convert_ids_to_tokens(found.ids.tolist())
    of_ends = [bool(found.answered[place]) for place, word in enumerate(words) if word == "<end>"]
    assert of_ends == [False, True] * (len(turns) // 2)
    assert not any(found.answered[place] for place, word in enumerate(words) if word in ("<|user|>", "<|assistant|>"))
