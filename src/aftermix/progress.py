"""One progress bar for all long work, on standard error."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


def bar(items: Iterable[T], *, label: str, total: int | None = None, unit: str = "it") -> Iterator[T]:
    """Yield `items` behind a progress bar called `label`."""
    from tqdm import tqdm

    yield from tqdm(items, desc=label, total=total, unit=unit, leave=True, dynamic_ncols=True)


@contextmanager
def counter(*, label: str, total: int, done: int = 0, unit: str = "it") -> Iterator[Callable[[str], None]]:
    """Show a bar that starts at `done`, and yield a function that advances it by one and puts a note beside it."""
    from tqdm import tqdm

    with tqdm(desc=label, total=total, initial=done, unit=unit, leave=True, dynamic_ncols=True) as shown:

        def advance(note: str = "") -> None:
            shown.set_postfix_str(note, refresh=False)
            shown.update()

        yield advance


def say(line: str) -> None:
    """Write one line on standard error, beside a bar."""
    import sys

    from tqdm import tqdm

    tqdm.write(line, file=sys.stderr)
