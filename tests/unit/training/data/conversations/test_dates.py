"""A template that asks for today's date is given the file's, and is refused without one."""

from __future__ import annotations

import pytest

from aftermix.config import TrainConfig
from aftermix.errors import TrainingError
from aftermix.training.data.encoding import build_example_encoder
from aftermix.training.data.examples import TrainingExample
from support.chat_world import build_chat_tokenizer, said

TEMPLATE = (
    "Today is {{ strftime_now('%d %B %Y') }}.\n"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
EXAMPLE = TrainingExample("data, line 1", messages=(said("user", "Hi."), said("assistant", "Hello.")))


def write_text(template: str, date: str | None) -> str:
    tokenizer = build_chat_tokenizer(template)
    (encoded,) = build_example_encoder(tokenizer, format="chat", where="base", date=date)([EXAMPLE])
    text: str = tokenizer.decode(encoded.ids)
    return text


@pytest.mark.parametrize(("date", "written"), [("2024-07-26", "26 July 2024"), ("2026-11-28", "28 November 2026")])
def test_the_day_of_the_file_is_written(date: str, written: str) -> None:
    assert write_text(TEMPLATE, date).startswith(f"Today is {written}.")


def test_a_template_that_writes_the_day_is_refused_without_one() -> None:
    with pytest.raises(TrainingError) as error:
        write_text(TEMPLATE, None)
    assert str(error.value) == (
        "data, line 1: the chat template writes today's date. "
        "Name the day that it is to write: `train: {date: 2026-11-28}`."
    )


def test_a_template_that_only_looks_for_the_clock_needs_no_day() -> None:
    quiet = TEMPLATE.replace("{{ strftime_now('%d %B %Y') }}", "{{ 'known' if strftime_now is defined else 'not' }}")
    assert write_text(quiet, None).startswith("Today is known.")


def test_a_day_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a day such as 2026-11-28"):
        TrainConfig.model_validate({"datasets": {"x": "x.jsonl"}, "date": "28.11.2026"})
    assert TrainConfig.model_validate({"datasets": {"x": "x.jsonl"}, "date": "20261128"}).date == "2026-11-28"
