"""Progress bars that fit the place: a terminal, a pipe, or the output of a notebook's cell."""

from aftermix.progress.bars import bar, counter, open_bar, say

__all__ = ["bar", "counter", "open_bar", "say"]
