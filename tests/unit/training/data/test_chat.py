"""Answers: tokens as the chat template's, and the loss where the assistant speaks, against slow twins."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from aftermix.errors import TrainingError
from aftermix.training.data.encoding import EncodedExample, build_example_encoder
from aftermix.training.data.examples import TrainingExample

CHATML = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<end>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
MARKED = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' }}{% if m['role'] == 'assistant' %}"
    "{% generation %}{{ m['content'] + '<end>' }}{% endgeneration %}{% else %}{{ m['content'] }}{% endif %}{{ '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
ONLY_LAST = (
    "{% for m in messages %}{% if m['role'] != 'assistant' or loop.last %}{{ m['content'] + '<end>' }}{% endif %}"
    "{% endfor %}"
)
THOUGHTFUL = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' }}{% if loop.last and m['role'] == 'assistant' %}"
    "{{ 'the thought\n' }}{% endif %}{{ m['content'] + '<end>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
UNASKED = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] | trim + '<end>' }}{% endfor %}"
    "{{ '<|assistant|>\n' }}"
)
STRICT = "{% if messages[0]['role'] != 'user' %}{{ raise_exception('Start with the user') }}{% endif %}" + CHATML

Turns = list[tuple[str, str]]


def build_tokenizer() -> Any:
    """Byte pairs over all bytes, `<end>` and the openings of turns as tokens of their own."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<end>", "<|user|>", "<|assistant|>", "<|system|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(["the red cat sees the dog and the bird"] * 9, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>")


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return build_tokenizer()


def example(turns: Turns, tools: tuple[dict[str, Any], ...] = ()) -> TrainingExample:
    return TrainingExample("a.jsonl, line 1", messages=tuple({"role": r, "content": c} for r, c in turns), tools=tools)


def encoded(tokenizer: Any, template: str | None, turns: Turns) -> EncodedExample:
    tokenizer.chat_template = template
    (found,) = build_example_encoder(tokenizer, format="chat", where="base")([example(turns)])
    assert found.answered is not None
    assert len(found.ids) == len(found.answered)
    return found


def answers(tokenizer: Any, found: EncodedExample) -> list[str]:
    """Text of each stretch of labelled tokens."""
    stretches: list[list[int]] = []
    before = False
    for token, answered in zip(found.ids.tolist(), found.answered.tolist(), strict=True):
        if answered:
            stretches += [] if before else [[]]
            stretches[-1].append(token)
        before = answered
    return [tokenizer.decode(stretch) for stretch in stretches]


def by_prefixes(tokenizer: Any, turns: Turns) -> list[bool]:
    """Slow twin: tokens that each longer prefix of the conversation adds, one template call for each."""
    messages = [{"role": role, "content": content} for role, content in turns]

    def ids(count: int, prompt: bool) -> list[int]:
        if count == 0:
            return []
        options = {"tokenize": True, "return_dict": False, "add_generation_prompt": prompt}
        return list(tokenizer.apply_chat_template(messages[:count], **options))

    whole = ids(len(turns), False)
    marks = [False] * len(whole)
    for place, (role, _) in enumerate(turns):
        if role == "assistant":
            start, stop = ids(place, True), ids(place + 1, False)
            assert whole[: len(start)] == start
            assert whole[: len(stop)] == stop
            marks[len(start) : len(stop)] = [True] * (len(stop) - len(start))
    return marks


WORDS = st.text(alphabet="the cat sees日é\n ", min_size=1, max_size=12)
CONVERSATIONS = st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=3).map(
    lambda pairs: [turn for said, answer in pairs for turn in (("user", said), ("assistant", answer))]
)


@settings(max_examples=40)
@given(turns=CONVERSATIONS, system=st.booleans())
def test_tokens_and_answers_by_prefix(tokenizer: Any, turns: Turns, system: bool) -> None:
    turns = [("system", "be old"), *turns] if system else turns
    found = encoded(tokenizer, CHATML, turns)
    messages = list(example(turns).messages)
    assert found.ids.tolist() == tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)
    assert found.answered.tolist() == by_prefixes(tokenizer, turns)


@settings(max_examples=40)
@given(turns=CONVERSATIONS)
def test_marked_templates_as_transformers_says(tokenizer: Any, turns: Turns) -> None:
    found = encoded(tokenizer, MARKED, turns)
    options = {"tokenize": True, "return_dict": True, "return_assistant_tokens_mask": True}
    expected = tokenizer.apply_chat_template(list(example(turns).messages), **options)
    assert found.ids.tolist() == expected["input_ids"]
    assert found.answered.tolist() == [bool(mark) for mark in expected["assistant_masks"]]


def test_answers_by_hand(tokenizer: Any) -> None:
    turns = [("user", "the red cat"), ("assistant", "sees"), ("user", "and"), ("assistant", "the dog")]
    assert answers(tokenizer, encoded(tokenizer, CHATML, turns)) == ["sees<end>\n", "the dog<end>\n"]
    assert answers(tokenizer, encoded(tokenizer, MARKED, turns)) == ["sees<end>", "the dog<end>"]


def test_a_template_that_rewrites_what_it_wrote_is_refused_unless_it_marks_the_answers(tokenizer: Any) -> None:
    turns = [("user", "the cat"), ("assistant", "sees"), ("user", "the dog"), ("assistant", "and")]
    message = (
        r"line 1, message 2: the chat template writes the text before answer 2 differently when more follows. Mark"
    )
    with pytest.raises(TrainingError, match=message):
        encoded(tokenizer, ONLY_LAST, turns)
    marked = ONLY_LAST.replace("{{ m['content'] + '<end>' }}", "{% generation %}{{ m['content'] }}{% endgeneration %}")
    assert answers(tokenizer, encoded(tokenizer, marked, turns[-1:])) == ["and"]


def test_templates_that_write_the_last_answer_otherwise(tokenizer: Any) -> None:
    turns = [("user", "the red cat"), ("assistant", " sees "), ("user", "and"), ("assistant", "the dog")]
    thoughtful = encoded(tokenizer, THOUGHTFUL, turns)
    assert answers(tokenizer, thoughtful) == [" sees <end>", "the thought\nthe dog<end>\n"]
    unasked = encoded(tokenizer, UNASKED, turns)
    assert answers(tokenizer, unasked) == ["sees<end>", "the dog<end>"]


def test_what_the_template_refuses_or_does_not_write(tokenizer: Any) -> None:
    with pytest.raises(TrainingError, match=r"line 1: the chat template refuses it \(Start with the user\). Write"):
        encoded(tokenizer, STRICT, [("assistant", "x")])
    with pytest.raises(TrainingError, match=r"line 1: the chat template writes no answer of it"):
        encoded(
            tokenizer, "{% for m in messages %}{% if m.role == 'user' %}x{% endif %}{% endfor %}", [("assistant", "y")]
        )
    with pytest.raises(
        TrainingError, match=r"base: the tokenizer has no chat template. Put its chat_template.jinja into"
    ):
        encoded(tokenizer, None, [("assistant", "x")])


def test_tools_reach_the_template(tokenizer: Any) -> None:
    tokenizer.chat_template = "{% for t in tools %}{{ t['name'] }}{% endfor %}" + CHATML
    encode = build_example_encoder(tokenizer, format="chat", where="base")
    (found,) = encode([example([("user", "a"), ("assistant", "b")], tools=({"name": "bird"},))])
    assert tokenizer.decode(found.ids).startswith("bird<|user|>")


def completion(tokenizer: Any, prompt: str, text: str) -> tuple[EncodedExample, str]:
    (found,) = build_example_encoder(tokenizer, format="completion", where="base")(
        [TrainingExample("-", text=text, prompt=prompt)]
    )
    return found, tokenizer.decode(found.ids[found.answered])


def test_completions_by_hand(tokenizer: Any) -> None:
    found, answered = completion(tokenizer, "the red cat", " sees the dog")
    assert answered == " sees the dog<end>"
    assert tokenizer.decode(found.ids) == "the red cat sees the dog<end>"
    assert found.ids.tolist() == [*tokenizer("the red cat sees the dog")["input_ids"], tokenizer.eos_token_id]
    assert completion(tokenizer, "", "the cat<end>")[1] == "the cat<end>"


@settings(max_examples=60)
@given(prompt=WORDS, text=WORDS)
def test_a_completion_follows_its_prompt_as_at_inference(tokenizer: Any, prompt: str, text: str) -> None:
    found, answered = completion(tokenizer, prompt, text)
    asked = tokenizer(prompt)["input_ids"]
    assert found.ids[: len(asked)].tolist() == asked
    assert found.answered.tolist() == [False] * len(asked) + [True] * (len(found.ids) - len(asked))
    assert found.ids[-1] == tokenizer.eos_token_id
    assert answered == text + "<end>"


def test_a_start_token_before_the_prompt_alone(tokenizer: Any) -> None:
    from tokenizers.processors import TemplateProcessing

    own = build_tokenizer()
    start = own.convert_tokens_to_ids("t")
    own.backend_tokenizer.post_processor = TemplateProcessing(single="t $A", special_tokens=[("t", start)])
    found, answered = completion(own, "the ", "cat")
    assert found.ids[0] == start
    assert tokenizer.decode(found.ids[1:]) == "the cat<end>"
    assert answered == "cat<end>"
