"""Progress bars that fit the place, a terminal, a pipe, or the output of a notebook's cell; and lines by `logging`."""

from aftermix.progress.bars import bar, counter, open_bar
from aftermix.progress.lines import is_shown, say, shown, warn

__all__ = ["bar", "counter", "is_shown", "open_bar", "say", "shown", "warn"]
