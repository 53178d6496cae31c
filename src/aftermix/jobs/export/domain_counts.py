"""Examples and tokens of a domain's data, counted with the base's tokenizer and kept for the next export."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from aftermix.config import SourceConfig
from aftermix.errors import AftermixError
from aftermix.files import write_json
from aftermix.jobs.export.domain_survey import survey_domain
from aftermix.jobs.train.expert_data import VERSIONS_OF, DatasetSources
from aftermix.mixture.exports.domain_data import DomainData, count_domain, read_domain_data
from aftermix.progress import bar
from aftermix.training.base_model import load_tokenizer
from aftermix.training.data.encoding import ExampleEncoder, build_example_encoder
from aftermix.training.data.examples import TrainingExample, read_examples
from aftermix.training.data.tokenise import list_reading_rules

BATCH_EXAMPLES = 256
BATCH_CHARACTERS = 1 << 22
OF_TOKENIZER = (".json", ".jinja", ".model", ".txt")
CACHE = ".aftermix-domains.json"
SURVEY = "traits 4"
"""Counts of which nothing but numbers was kept are counted anew."""

COUNTED_DAY = "2026-11-28"
"""Day that templates are given which write today's: the trainer writes its own, of about as many tokens."""


@dataclass(frozen=True)
class DomainCounter:
    """Counter of examples and tokens with one tokenizer, and the file that keeps the counts."""

    base: Path
    label: str
    cache: Path

    def count_domains(self, sources: DatasetSources) -> dict[str, DomainData]:
        """Counts of each domain of `sources`; data that was counted before, by hash, is not read again.

        Raises :class:`TrainingError` for a record that cannot be read, and :class:`MixtureError` for no tokens.
        """
        keys = {name: self._build_key(source, sources.sha256[name]) for name, source in sources.by_name.items()}
        data_by_key = _read_cache(self.cache)
        missing = [name for name, key in keys.items() if key not in data_by_key]

        tokenizer = load_tokenizer(self.base) if missing else None

        # Written after each domain: an interrupted count loses one at most.
        for name in missing:
            try:
                data_by_key[keys[name]] = self._count_domain(name, sources.by_name[name], tokenizer)
            except AftermixError as error:
                raise sources.locate_error(name, error) from error
            write_json(self.cache, {key: data.as_json() for key, data in data_by_key.items()})

        return {name: data_by_key[key] for name, key in keys.items()}

    def _count_domain(self, name: str, source: SourceConfig, tokenizer: Any) -> DomainData:
        encode = build_example_encoder(tokenizer, format=source.format, where=self.label, date=COUNTED_DAY)
        records = read_examples(
            Path(source.data),
            format=source.format,
            text_field=source.text_field,
            split=source.split,
            ignore_columns=source.ignore_columns,
        )
        tokens = count_tokens(bar(records, label=f"count {name}", unit="example"), encode)
        return replace(
            count_domain(tokens, where=source.data), traits=survey_domain(source, template=str(tokenizer.chat_template))
        )

    def _build_key(self, source: SourceConfig, sha256: str) -> str:
        parts = [sha256, source.format, source.text_field, self._hash_tokenizer(), SURVEY]
        parts += [f"{package} {version(package)}" for package in VERSIONS_OF]
        parts += list_reading_rules(source.format, source.ignore_columns)
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]

    def _hash_tokenizer(self) -> str:
        digest = hashlib.sha256()
        for file in sorted(self.base.iterdir()):
            if file.suffix in OF_TOKENIZER and file.is_file():
                digest.update(f"{file.name}\0{file.stat().st_size}\0".encode())
                digest.update(file.read_bytes())
        return digest.hexdigest()


def count_tokens(records: Iterable[TrainingExample], encode: ExampleEncoder) -> Iterator[int]:
    """Tokens of each example in order; 0 for an empty one."""
    for batch in _group_examples(records):
        filled = [example for example in batch if example.characters]
        encoded = iter(encode(filled) if filled else [])
        for example in batch:
            yield len(next(encoded).ids) if example.characters else 0


def _group_examples(records: Iterable[TrainingExample]) -> Iterator[list[TrainingExample]]:
    batch: list[TrainingExample] = []
    characters = 0
    for example in records:
        batch.append(example)
        characters += example.characters
        if len(batch) == BATCH_EXAMPLES or characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _read_cache(cache: Path) -> dict[str, DomainData]:
    """Earlier counts; none from a file that is not one of ours, since counting again costs time alone."""
    try:
        values = json.loads(cache.read_bytes())
        return {str(key): read_domain_data(value) for key, value in values.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
