r"""Null what two runs of one version differ in: seconds, rates, dates, version. Every rule stands here.

Everything else is compared as it lies on disk: layout of JSON and order of its keys, numbers to the last digit.

In JSON, also where it is printed:

- ``"seconds": 1.2``, or numbers at any depth of an object there -> null
- ``"tokens_per_second": 1.2`` -> null
- ``"aftermix": "0.1.0"``, the version among versions -> null

In HTML, where a time decides what is drawn:

- ``style="flex:47.68 0 0" title="prepare: 2.6 s"`` -> the width is null
- ``<td class="n">2.6 s</td><td class="n">47.7 %</td>`` -> the share of the time is null

In output of commands and in HTML:

- ``12 %|###   | 1/8 [00:01<00:07, 3.2it/s, note]``, redrawn behind carriage returns -> the last state alone; its times
  and rate are null, the bar is dropped, numbers of steps and note stay
- times: ``4.2 ms``, ``12.3 s``, ``12 min 34 s``, ``2 h 30 min`` -> null
- ``13,662 tokens/s`` -> null; ``23.6 GB that are free`` -> null
- ``aftermix 0.1.0``, ``aftermix, version 0.1.0`` -> null
- ``2026-11-28T10:30:47``, also with a blank, fractions and a zone -> null
- ``/path/src/aftermix/x.py:12:``, the place of a warning, and the line of code below it -> null

In names of files: the process number in ``.name.123.incomplete`` -> null.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath

JSON = {".json", ".jsonl"}
HTML = {".html"}
OUTPUT = ".output"
"""Suffix of the files that hold what a command said."""

TIMED = re.compile(r'"seconds":\s*(?:\{(?:[^{}]|\{[^{}]*\})*\}|[-+.\deE]+)')
TIME_VALUE = re.compile(r"(:\s*)[-+]?\d[-+.\deE]*")
JSON_RULES = (
    (re.compile(r'("tokens_per_second":\s*)[-+.\deE]+'), r"\1null"),
    (re.compile(r'("aftermix":\s*)"\d[^"]*"'), r"\1null"),
)

NUMBER = r"\d[\d,]*(?:\.\d+)?"
TIME = rf"(?<![\w.,])(?:{NUMBER} ms|{NUMBER} h \d+ min|{NUMBER} min \d+ s|{NUMBER} min|{NUMBER} s)(?!\w)"
HTML_RULES = (
    (re.compile(rf'style="flex:[\d.]+ 0 0"( title="[^"]*: {TIME}")'), r'style="flex:null"\1'),
    (re.compile(rf'(<td class="n">{TIME}</td><td class="n">){NUMBER} %'), r"\1null"),
)
BAR = re.compile(r"\|[^|\n]*\|( \d+/\d+) \[\d[\d:]*<[\d:?]+, +[\d.?]+ ?\S+/\S+?(, [^\]\n]*)?\]")
COUNTER = re.compile(r"(\d+\S*) \[\d[\d:]*, +[\d.?]+ ?\S+/\S+\]")
TEXT_RULES = (
    (re.compile(TIME), "null"),
    (re.compile(rf"{NUMBER} tokens/s\b"), "null tokens/s"),
    (re.compile(rf"{NUMBER} [kMGT]?B that are free"), "null that are free"),
    (re.compile(r"(aftermix(?:,? version)? )\d+\.\d+\.\d+\S*"), r"\1null"),
    (re.compile(r"\b20\d\d-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d:?\d\d)?"), "null"),
    (re.compile(r"\S*/src/aftermix/\S+\.py:\d+: (\w+: .*)\n  .*"), r"null: \1"),
)
INCOMPLETE = re.compile(r"\.\d+\.incomplete$")


def null_volatile(name: str, text: str) -> str:
    """Return the `text` of the file `name` without what changes from run to run."""
    suffix = PurePosixPath(name).suffix
    if suffix not in JSON | HTML | {OUTPUT}:
        return text

    text = TIMED.sub(lambda found: TIME_VALUE.sub(r"\1null", found[0]), text)
    rules = list(JSON_RULES)
    if suffix == OUTPUT:
        text = settle_bars(text)
    if suffix in HTML:
        rules += HTML_RULES
    if suffix not in JSON:
        rules += TEXT_RULES
    for pattern, null in rules:
        text = pattern.sub(null, text)
    return text


def settle_bars(text: str) -> str:
    """Return `text` with progress bars as they ended, each in a line of its own, without times and rates."""
    lines = []
    for line in text.split("\n"):
        *redrawn, last = line.split("\r")
        lines.append(next((state for state in (last, *reversed(redrawn)) if state.strip()), ""))
    text = BAR.sub(r"\1\2", "\n".join(lines))
    return COUNTER.sub(r"\1", text)


def null_name(name: str) -> str:
    """Return the path `name` without process numbers."""
    return INCOMPLETE.sub(".null.incomplete", name)
