"""One progress bar for all long work: on standard error, or in a notebook in the output of its cell."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from aftermix.progress.lines import is_shown
from aftermix.progress.place import is_notebook

if TYPE_CHECKING:
    from tqdm import tqdm

T = TypeVar("T")


def open_bar(items: Iterable[Any] | None = None, **options: Any) -> tqdm[Any]:
    """A bar of tqdm over `items`, or without them one that is advanced by hand; `options` are tqdm's.

    Nothing is drawn where nobody asked for bars.
    """
    from tqdm import tqdm

    if is_notebook():
        from aftermix.progress.notebook_bar import NotebookBar

        return NotebookBar(items, **options)
    hidden = {} if is_shown() else {"disable": True}
    return tqdm(items, **{"dynamic_ncols": True, **options, **hidden})


def bar(items: Iterable[T], *, label: str, total: int | None = None, unit: str = "it") -> Iterator[T]:
    """Yield `items` behind a progress bar called `label`."""
    with open_bar(items, desc=label, total=total, unit=unit, leave=True) as shown:
        yield from shown


@contextmanager
def counter(*, label: str, total: int, done: int = 0, unit: str = "it") -> Iterator[Callable[[str], None]]:
    """Show a bar that starts at `done`, and yield a function that advances it by one and puts a note beside it."""
    with open_bar(desc=label, total=total, initial=done, unit=unit, leave=True) as shown:

        def advance(note: str = "") -> None:
            shown.set_postfix_str(note, refresh=False)
            shown.update()

        yield advance
