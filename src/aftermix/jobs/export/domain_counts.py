"""Examples and tokens of a domain's data, counted with the base's tokenizer and kept for the next export."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from aftermix.config import SourceConfig
from aftermix.errors import AftermixError
from aftermix.files import write_json
from aftermix.jobs.train.expert_data import VERSIONS_OF, Ingredients
from aftermix.mixture.exports.domain_data import DomainData, counted, data_from_json
from aftermix.progress import bar
from aftermix.training.base_model import load_tokenizer
from aftermix.training.data.encoding import EncodeExamples, example_encoder
from aftermix.training.data.examples import Example, examples

BATCH_EXAMPLES = 256
BATCH_CHARACTERS = 1 << 22
OF_TOKENIZER = (".json", ".jinja", ".model", ".txt")
CACHE = ".aftermix-domains.json"


@dataclass(frozen=True)
class Counting:
    """Counter of examples and tokens with one tokenizer, and the file that keeps the counts."""

    base: Path
    label: str
    cache: Path

    def counts(self, what: Ingredients) -> dict[str, DomainData]:
        """Counts of each domain of `what`; data that was counted before, by hash, is not read again.

        Raises :class:`TrainingError` for a record that cannot be read, and :class:`MixtureError` for no tokens.
        """
        keys = {name: self._key(source, what.sha256[name]) for name, source in what.sources.items()}
        kept = _read(self.cache)
        missing = [name for name, key in keys.items() if key not in kept]

        tokenizer = load_tokenizer(self.base) if missing else None

        # Written after each domain: an interrupted count loses one at most.
        for name in missing:
            try:
                kept[keys[name]] = self._counted(name, what.sources[name], tokenizer)
            except AftermixError as error:
                raise what.placed(name, error) from error
            write_json(self.cache, {key: data.as_json() for key, data in kept.items()})

        return {name: kept[key] for name, key in keys.items()}

    def _counted(self, name: str, source: SourceConfig, tokenizer: Any) -> DomainData:
        encode = example_encoder(tokenizer, format=source.format, where=self.label)
        found = examples(Path(source.data), format=source.format, text_field=source.text_field)
        return counted(tokens_of(bar(found, label=f"count {name}", unit="example"), encode), where=source.data)

    def _key(self, source: SourceConfig, sha256: str) -> str:
        parts = [sha256, source.format, source.text_field, self._tokenizer_sha256()]
        parts += [f"{package} {version(package)}" for package in VERSIONS_OF]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]

    def _tokenizer_sha256(self) -> str:
        digest = hashlib.sha256()
        for file in sorted(self.base.iterdir()):
            if file.suffix in OF_TOKENIZER and file.is_file():
                digest.update(f"{file.name}\0{file.stat().st_size}\0".encode())
                digest.update(file.read_bytes())
        return digest.hexdigest()


def tokens_of(found: Iterable[Example], encode: EncodeExamples) -> Iterator[int]:
    """Tokens of each example in order; 0 for an empty one."""
    for batch in _batches(found):
        filled = [example for example in batch if example.characters]
        encoded = iter(encode(filled) if filled else [])
        for example in batch:
            yield len(next(encoded).ids) if example.characters else 0


def _batches(found: Iterable[Example]) -> Iterator[list[Example]]:
    batch: list[Example] = []
    characters = 0
    for example in found:
        batch.append(example)
        characters += example.characters
        if len(batch) == BATCH_EXAMPLES or characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _read(cache: Path) -> dict[str, DomainData]:
    """Earlier counts; none from a file that is not one of ours, since counting again costs time alone."""
    try:
        values = json.loads(cache.read_bytes())
        return {str(key): data_from_json(value) for key, value in values.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
