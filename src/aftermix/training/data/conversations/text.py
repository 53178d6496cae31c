"""The text that a chat template writes for a conversation, for the beginning of it, or for a changed one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jinja2

from aftermix.errors import TrainingError
from aftermix.terminal import set_template_date
from aftermix.training.data.files import RecordFields

TEMPLATE_FAULTS = (jinja2.TemplateError, ValueError, TypeError, KeyError, AttributeError, IndexError)

CharacterSpan = tuple[int, int]
"""First character in the text, and the one behind the last."""


@dataclass(frozen=True, eq=False)
class ConversationText:
    """One conversation and the tokenizer whose template writes it."""

    tokenizer: Any
    where: str
    messages: tuple[RecordFields, ...]
    tools: tuple[RecordFields, ...]
    date: str | None = None
    """Day that the template is given when it asks for today's."""

    def render(self, *, prompt: bool = False, template: str | None = None) -> str:
        """The whole text, with the opening of an answer behind it where `prompt`, by `template` in place of its own.

        Raises :class:`TrainingError` with the template's reason for what it refuses.
        """
        options = {"tokenize": False, "add_generation_prompt": prompt, "chat_template": template}
        try:
            with set_template_date(self.date, refuse=self._refuse_clock):
                text: str = self.tokenizer.apply_chat_template(
                    list(self.messages), tools=list(self.tools) or None, **options
                )
        except TEMPLATE_FAULTS as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            remedy = "Write the messages as the model's template wants them."
            raise TrainingError(self.where, f"the chat template refuses it ({reason})", remedy) from error
        return text

    def _refuse_clock(self) -> TrainingError:
        """The clock would make other tokens tomorrow."""
        remedy = "Name the day that it is to write: `train: {date: 2026-11-28}`."
        return TrainingError(self.where, "the chat template writes today's date", remedy)

    def render_or_none(self, *, prompt: bool = False, template: str | None = None) -> str | None:
        """:meth:`render`; None for no message at all, and for what the template refuses."""
        try:
            return self.render(prompt=prompt, template=template) if self.messages else None
        except TrainingError:
            return None

    def keep_first(self, count: int) -> ConversationText:
        """The conversation of the first `count` messages."""
        return replace(self, messages=self.messages[:count])

    def change_message(self, place: int, **fields: Any) -> ConversationText:
        """The conversation with other `fields` in message `place`."""
        return self.exchange_messages([*self.messages[:place], {**self.messages[place], **fields}], place + 1)

    def exchange_messages(self, messages: Sequence[RecordFields], until: int | None = None) -> ConversationText:
        """The conversation with `messages` in place of those before `until`; of all of them where it is None."""
        return replace(self, messages=(*messages, *(() if until is None else self.messages[until:])))


def choose_marker(*texts: str | None) -> str:
    """A word that occurs in none of `texts`, to be looked for where a template wrote it."""
    number = 0
    while any(f"Mark{number}x" in text for text in texts if text):
        number += 1
    return f"Mark{number}x"


def list_boundaries(tokenizer: Any, text: str) -> list[int]:
    """Places in `text` behind an added token or the end of a line, and its end: from the last to the first."""
    added = [re.escape(token.content) for token in tokenizer.added_tokens_decoder.values() if token.content]
    found = re.finditer("|".join([*sorted(added, key=len, reverse=True), "\n"]), text)
    return sorted({len(text), *(match.end() for match in found)} - {0}, reverse=True)


def count_common_start(one: str, other: str) -> int:
    """Characters that both begin with."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (left, right) in pairs if left != right), min(len(one), len(other)))
