"""Which document serves what: held out for the tasks, trained on by the base, or excerpt for an expert.

The split is by document name, so the translations of one help page always fall on the same side.
"""

import gzip
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from world.sources import Documents

EXPERT_DOMAINS = ("ja", "zh", "math", "code")
GENERAL = "en"
HELD_OUT, THIN_SLICE = 0.15, 0.10  # shares of the documents of a domain


@dataclass(frozen=True)
class Split:
    """The texts of one domain, disjoint by document and, after that, by paragraph."""

    held_out: dict[str, str]
    slice: dict[str, str]  # what the base sees of an expert domain; of English, what instruction text is made of
    main: dict[str, str]  # the expert's excerpt, the rest for instruction text; of English, what the base is trained on


def split(documents: Documents, *, seed: int) -> Split:
    """Divide by a hash of the name; a paragraph stays only in the first text that has it, held-out text first."""
    place = {name: _uniform(f"{seed}/{name}") for name in documents}
    order = sorted(documents, key=place.__getitem__)
    seen: set[str] = set()
    texts: dict[str, str] = {}
    for name in order:
        fresh = [paragraph for paragraph in dict.fromkeys(documents[name]) if paragraph not in seen]
        seen.update(fresh)
        if fresh:
            texts[name] = "\n".join(fresh)
    return Split(
        held_out={name: text for name, text in texts.items() if place[name] < HELD_OUT},
        slice={name: text for name, text in texts.items() if HELD_OUT <= place[name] < HELD_OUT + THIN_SLICE},
        main={name: text for name, text in texts.items() if place[name] >= HELD_OUT + THIN_SLICE},
    )


def write_jsonl_gz(path: Path, texts: Iterable[str]) -> None:
    """One `{"text": ...}` a line; no name and no time in the header, so equal texts give equal bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)
    path.write_bytes(gzip.compress(lines.encode("utf-8"), compresslevel=9, mtime=0))


def _uniform(key: str) -> float:
    return int.from_bytes(hashlib.sha256(key.encode("utf-8")).digest()[:8], "big") / 2**64
