"""Places of the answers in the text of a template that marks them with `{% generation %}`.

The places are read from the text: the template is made to write a character of its own at each mark. So they hold
within macros as well, and the tokens are found from them as for any other template.
"""

from __future__ import annotations

import re

from aftermix.errors import TrainingError
from aftermix.training.data.conversations.text import CharacterSpan, ConversationText, choose_marker

MARKS = re.compile(r"\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}")
OPEN, CLOSE = "\U000f1a70", "\U000f1a71"
"""Of a private use area: characters that no text has."""


def has_marks(template: str) -> bool:
    """True when `template` marks answers."""
    return any(not match[2] for match in MARKS.finditer(template))


def find_marked_answers(conversation: ConversationText, text: str) -> list[CharacterSpan]:
    """The stretches of `text`, the whole conversation's, that the template marks, in order.

    Raises :class:`TrainingError` for marks that do not stand around what is written.
    """
    marked = conversation.render(template=MARKS.sub(_write_mark, conversation.tokenizer.chat_template))
    pieces = re.split(f"([{OPEN}{CLOSE}])", marked)
    spans: list[CharacterSpan] = []
    start, place = None, 0

    for piece in pieces:
        if piece == OPEN:
            start = place
        elif piece == CLOSE and start is not None:
            spans.append((start, place))
            start = None
        else:
            place += len(piece)

    if start is not None or "".join(pieces[::2]) != text:
        found = "the chat template changes what stands between {% generation %} and {% endgeneration %}"
        remedy = "Set the marks around what is written, outside of filters."
        raise TrainingError(conversation.where, found, remedy)
    return spans


def count_marks_by_answer(conversation: ConversationText, marks: int) -> list[int]:
    """Marked stretches of each message of the assistant, `marks` in all: those that the text gains with the message.

    Raises :class:`TrainingError` where the template marks an answer otherwise when more follows.
    """
    counts, total = [], 0
    for place, message in enumerate(conversation.messages):
        if message["role"] == "assistant":
            until = len(_find_marks(conversation.keep_first(place + 1)))
            counts.append(until - total)
            if until < total or not _is_marked_there(conversation, place, range(total, until)):
                raise _build_mixed_error(conversation)
            total = until

    if total != marks:
        raise _build_mixed_error(conversation)
    return counts


def _find_marks(conversation: ConversationText) -> list[CharacterSpan]:
    return find_marked_answers(conversation, conversation.render())


def _is_marked_there(conversation: ConversationText, place: int, expected: range) -> bool:
    """True unless the content of message `place` lies in other stretches than the `expected` ones."""
    marker = choose_marker(conversation.render())
    changed = conversation.change_message(place, content=marker)
    text = changed.render_or_none()
    if text is None:
        return True

    at = text.find(marker)
    holding = {number for number, (start, end) in enumerate(find_marked_answers(changed, text)) if start <= at < end}
    return holding <= set(expected) and bool(holding) == bool(expected)


def _build_mixed_error(conversation: ConversationText) -> TrainingError:
    found = "the marks of the chat template cannot be told apart by answer"
    remedy = "Set one {% generation %} around each answer, or remove `weight` and `train` from the messages."
    return TrainingError(conversation.where, found, remedy)


def _write_mark(match: re.Match[str]) -> str:
    """A block that writes a mark and leaves scope and white space as the marking tag leaves them."""
    left, closes, right = match.groups()
    if closes:
        return f"{{%{left} set aftermix_mark = 0 %}}{CLOSE}{{% endwith {right}%}}"
    return f"{{%{left} with %}}{OPEN}{{% set aftermix_mark = 0 {right}%}}"
