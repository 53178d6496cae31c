"""Regular expressions that a recipe brings along, searched in bounded time.

A few characters (`(a|a)+$`) can keep a backtracking search busy for years, and recipes are passed on. The syntax is
that of Python's `re`; the search is done by the `regex` package, which can stop.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import accumulate

import regex

from aftermix.errors import ConfigError

LONGEST = 1000
"""Characters of an expression."""
DEEPEST = 12
"""Groups within groups: what an expression is compiled to may double with each."""
MOST_REPETITIONS = 999
SEARCH_S = 1.0
"""Of processor time for one name; a sound expression takes microseconds."""


def build_searcher(expression: str, *, where: str) -> Callable[[str], bool]:
    """A test whether `expression` is found in a name.

    Raises :class:`ConfigError` for what is no expression or an unreasonable one, and while searching, when a name takes
    longer than `SEARCH_S`.
    """
    fault = _find_fault(expression)
    if fault is not None:
        raise ConfigError(where, f"'re:{expression}' is no regular expression that is run ({fault})", "Correct it.")

    compiled = regex.compile(expression, regex.V0)

    def is_found(name: str) -> bool:
        try:
            return compiled.search(name, timeout=SEARCH_S) is not None
        except (TimeoutError, MemoryError) as error:
            problem = f"'re:{expression}' takes too long to search for in '{name}'"
            raise ConfigError(where, problem, "Write it without repetitions within repetitions.") from error

    return is_found


def _find_fault(expression: str) -> str | None:
    if len(expression) > LONGEST:
        return f"longer than {LONGEST} characters"

    # Nesting and repetitions are counted before anything is compiled, since compiling is what they blow up.
    depths = accumulate({"(": 1, ")": -1}.get(character, 0) for character in expression)
    if max(depths, default=0) > DEEPEST:
        return f"groups nested deeper than {DEEPEST}"
    if any(int(count) > MOST_REPETITIONS for count in re.findall(r"(?<=[{,])\d{1,100}", expression)):
        return f"more than {MOST_REPETITIONS} repetitions"

    try:
        re.compile(expression)
        regex.compile(expression, regex.V0)
    except (re.error, regex.error, OverflowError, RecursionError, ValueError) as error:
        return str(error)
    return None
