"""A tokenizer over all bytes, conversations, and their labels as text, for the tests of chat templates."""

from __future__ import annotations

from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from aftermix.training.data.encoding import EncodedExample, build_example_encoder
from aftermix.training.data.examples import TrainingExample

TURNS = ("<end>", "<|user|>", "<|assistant|>", "<|system|>", "<|tool|>", "<think>", "</think>")
CALLS = "{% for c in (m['tool_calls'] or []) %}{{ '\n<call>' + (c['function'] | tojson) + '</call>' }}{% endfor %}"
CHATML = (
    "{% if tools %}{{ '<|system|>\n' + (tools | tojson) + '<end>\n' }}{% endif %}"
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + (m['content'] or '') }}" + CALLS + "{{ '<end>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)


def build_chat_tokenizer(template: str, **of_turns: bool) -> Any:
    """Byte pairs over all bytes; the openings of turns are tokens of their own, with `lstrip` or `rstrip`."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    inner.train_from_iterator(["the red cat sees the dog and the bird\n\n\n"] * 9, trainer)
    inner.add_special_tokens([AddedToken(turn, special=True, normalized=False, **of_turns) for turn in TURNS])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>")
    tokenizer.chat_template = template
    return tokenizer


def said(role: str, content: str | None = None, **fields: Any) -> dict[str, Any]:
    """A message."""
    return {"role": role, **({} if content is None else {"content": content}), **fields}


def called(name: str, arguments: Any) -> dict[str, Any]:
    """A call of the tool `name`."""
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def encode_messages(
    tokenizer: Any, *messages: dict[str, Any], tools: tuple[dict[str, Any], ...] = ()
) -> EncodedExample:
    """One conversation as the data of a chat format is encoded."""
    encode = build_example_encoder(tokenizer, format="chat", where="base")
    (found,) = encode([TrainingExample("a.jsonl, line 1", messages=messages, tools=tools)])
    return found


def show_labels(tokenizer: Any, found: EncodedExample) -> str:
    """The text, with the tokens that are learnt between brackets."""
    assert found.answered is not None
    stretches: list[tuple[bool, list[int]]] = []
    for token, answered in zip(found.ids.tolist(), found.answered.tolist(), strict=True):
        if not stretches or stretches[-1][0] != answered:
            stretches.append((answered, []))
        stretches[-1][1].append(token)
    texts = [(answered, tokenizer.decode(ids)) for answered, ids in stretches]
    return "".join(f"[{text}]" if answered else text for answered, text in texts)


def show_messages(tokenizer: Any, *messages: dict[str, Any], tools: tuple[dict[str, Any], ...] = ()) -> str:
    """The text of one conversation, with the tokens that are learnt between brackets."""
    return show_labels(tokenizer, encode_messages(tokenizer, *messages, tools=tools))
