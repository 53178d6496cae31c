"""The data of the experts that a file asks for: what each is read from, tokenised once, packed, and put on record."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

from pydantic import JsonValue

from aftermix.checkpoints.safe_files import read_json
from aftermix.config import DatasetConfig, SourceConfig, TrainConfig
from aftermix.errors import AftermixError, TrainingError, join_place
from aftermix.process_lock import share_folder
from aftermix.training.data.collate import TokenSequence
from aftermix.training.data.encoding import ExampleEncoder, build_example_encoder
from aftermix.training.data.files import hash_data
from aftermix.training.data.mixture import SequenceMixture, check_ratios, mix_streams
from aftermix.training.data.packing import CutStream, PackedTokens, SequenceStream, pack_stream
from aftermix.training.data.packing_whole import WholeStream
from aftermix.training.data.token_store import TokenStore
from aftermix.training.data.tokenise import LABELLING, DataSource, tokenise_dataset
from aftermix.training.distributed.processes import read_process_index
from aftermix.training.held_out.split import HeldOutSplit, collect_sequences, split_documents

VERSIONS_OF = ("tokenizers", "transformers")
"""Packages whose changes could change tokens."""


@dataclass(frozen=True)
class DatasetSources:
    """Sources that one expert is trained on: one, or several with the ratio of each."""

    by_name: dict[str, SourceConfig]
    ratios: dict[str, float] | None
    """None: one source alone, which is no mixture."""

    @cached_property
    def sha256(self) -> dict[str, str]:
        """Hash of each source's data. Raises :class:`TrainingError` for data that is missing or cannot be read."""
        hashes = {}
        for name, source in self.by_name.items():
            try:
                hashes[name] = hash_data(Path(source.data), split=source.split)
            except AftermixError as error:
                raise self.locate_error(name, error) from error
        return hashes

    def locate_error(self, name: str, error: AftermixError) -> TrainingError:
        """`error` saying which domain it is about, where there are several."""
        problem = error.problem
        where = problem.where if self.ratios is None else f"{join_place('mixture', name)}: {problem.where}"
        return TrainingError(where, problem.found, problem.remedy)

    @contextmanager
    def locate_errors(self, name: str) -> Iterator[None]:
        """Errors of the block, as those of the domain `name`; what is no fault of the input stays as it is."""
        try:
            yield
        except AftermixError as error:
            located = self.locate_error(name, error) if error.exit_code == AftermixError.exit_code else error
            raise located from error

    def build_data_record(self) -> dict[str, JsonValue]:
        """Properties of the data that decide the weights, as plain values.

        With conversations the number of the rules that label them is among them (`labels`), so that an expert of other
        rules is not taken for this one; without any it is not.
        """
        options = ("text_field", "format", "long_examples")
        option_values = {key: {name: getattr(source, key) for name, source in self.by_name.items()} for key in options}
        by_domain = {"data_sha256": self.sha256, **option_values}
        ignored: dict[str, JsonValue] = {
            name: list(source.ignore_columns) for name, source in self.by_name.items() if source.ignore_columns
        }
        chats = any(source.format == "chat" for source in self.by_name.values())
        labels: dict[str, JsonValue] = {"labels": LABELLING} if chats else {}
        if self.ratios is not None:
            return {**by_domain, **labels, "ignore_columns": ignored or None, "mixture": dict(self.ratios.items())}

        alone = {key: next(iter(values.values())) for key, values in by_domain.items()}
        return {**alone, **labels, "ignore_columns": next(iter(ignored.values()), None), "mixture": None}


def collect_sources(name: str, settings: TrainConfig) -> DatasetSources:
    """Collect the sources that the expert called `name` is trained on.

    Raises :class:`TrainingError` for ratios that cannot be used, and a run that gives none.
    """
    dataset = settings.datasets[name]
    if dataset.source is not None:
        return DatasetSources({name: dataset.source}, None)

    known = {**list_dataset_sources(settings), **settings.sources}
    ratios = check_ratios(_read_ratios(dataset), known, where="mixture")
    return DatasetSources({domain: known[domain] for domain in ratios}, ratios)


def list_dataset_sources(settings: TrainConfig) -> dict[str, SourceConfig]:
    """Data of the datasets that are no mixtures, by name."""
    return {name: dataset.source for name, dataset in settings.datasets.items() if dataset.source is not None}


def _read_ratios(dataset: DatasetConfig) -> Mapping[str, float]:
    if not isinstance(dataset.mixture, str):
        return cast(Mapping[str, float], dataset.mixture)
    file = Path(dataset.mixture)
    remedy = "Name the best.json of a search or mixture run, or write the ratios out."
    record = read_json(file, remedy=remedy)
    ratios = record.get("ratios")

    if ratios is None:
        note = str(record.get("ratios_note") or "it has no `ratios`")
        raise TrainingError(str(file), f"gives no data ratios: {note}", remedy)
    if not isinstance(ratios, dict) or not all(_is_number(value) for value in ratios.values()):
        raise TrainingError(str(file), "its `ratios` are not numbers by name", remedy)
    return {str(name): float(value) for name, value in ratios.items()}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@contextmanager
def open_token_folder(settings: TrainConfig, output: Path) -> Iterator[Path]:
    """Open the folder of tokens: `train.cache`, or a hidden one in `output` that goes when all is trained.

    Refused inputs leave nothing behind that was not there; an interrupted run leaves the folder, for the run that
    goes on. Trainings of other experts into `output` use the same folder, and the last of them removes it.
    """
    if settings.cache is not None:
        yield Path(settings.cache)
        return

    folder = output / ".tokens"
    # Of several processes the first alone looks after it.
    with share_folder(folder) if read_process_index() == 0 else nullcontext():
        yield folder


@dataclass(frozen=True)
class SequenceParts:
    """Sequences of one expert: those that it is trained on, and those that it is measured on."""

    trained: PackedTokens | SequenceMixture
    held: dict[str, list[TokenSequence]]
    """By domain, where any are held out."""
    splits: dict[str, HeldOutSplit]
    """Documents of each domain, in both parts."""


@dataclass(frozen=True)
class DatasetBuilder:
    """Builder of sequences: every dataset of a run, tokenised and packed in the same way."""

    settings: TrainConfig
    tokenizer: Any
    label: str
    """Name of the model that the tokenizer is from."""
    identity: str
    """Hash of the tokenizer's files."""
    cache: Path

    def build_sequences(self, name: str, sources: DatasetSources) -> PackedTokens | SequenceMixture:
        """Build the sequences that the expert called `name` is trained on; raises as :meth:`build_parts`."""
        return self.build_parts(name, sources).trained

    def build_parts(self, name: str, sources: DatasetSources) -> SequenceParts:
        """Build the sequences of the expert called `name`, and those that it is measured on.

        Raises :class:`TrainingError` for data that cannot be read, does not fill a sequence, or would be repeated
        more often than allowed.
        """
        parts = self._open_parts(name, sources)
        streams = {domain: self._open_stream(sources, domain, part.trained) for domain, part in parts.items()}
        held = {
            domain: collect_sequences(self._open_stream(sources, domain, part.held))
            for domain, part in parts.items()
            if part.held is not None
        }
        return SequenceParts(self._pack_streams(name, sources, streams), held, parts)

    def read_first(self, name: str, source: SourceConfig, *, tokens: int) -> PackedTokens:
        """Read the first sequences of a source, in the order of the seed: about so many tokens, once.

        Raises :class:`TrainingError` for data that cannot be read, or does not fill a sequence.
        """
        sources = DatasetSources({name: source}, None)
        store = self._open_store(sources, name, max(tokens, self.settings.context))
        stream = self._open_stream(sources, name, store)
        wanted = max(self.settings.context, min(tokens, store.tokens))
        return pack_stream(stream, tokens=wanted, where=source.data)

    def _pack_streams(
        self, name: str, sources: DatasetSources, streams: Mapping[str, SequenceStream]
    ) -> PackedTokens | SequenceMixture:
        dataset = self.settings.datasets[name]
        if sources.ratios is None:
            where = sources.by_name[name].data
            alone = pack_stream(streams[name], tokens=dataset.tokens, where=where)
            _refuse_repetition(dataset, where, alone.tokens, alone.epochs)
            _refuse_unlabelled(alone, where)
            return alone

        tokens = cast(int, dataset.tokens)
        mixture = mix_streams(streams, sources.ratios, tokens=tokens, seed=self.settings.seed, where="mixture")
        for domain, given in mixture.given.items():
            _refuse_repetition(dataset, join_place("mixture", domain), given.tokens, given.epochs)
        _refuse_unlabelled(mixture, "mixture")
        return mixture

    def _open_parts(self, name: str, sources: DatasetSources) -> dict[str, HeldOutSplit]:
        """Each domain's tokens in those that are trained on and those that are held out.

        Of a budget below the dataset's size so many documents more are tokenised that it is met without these.
        """
        share, seed = self.settings.held_out, self.settings.seed
        longest = {n: self.settings.context for n, s in sources.by_name.items() if s.long_examples == "skip"}
        needed = self._count_needed_tokens(name, sources)
        wanted = {domain: tokens and math.ceil(tokens / (1 - share)) for domain, tokens in needed.items()}

        while True:
            stores = {domain: self._open_store(sources, domain, tokens) for domain, tokens in wanted.items()}
            parts = split_documents(stores, share, seed=seed, longest=longest)
            missing = {domain: (needed[domain] or 0) - part.trained.tokens for domain, part in parts.items()}
            short = [domain for domain, tokens in missing.items() if tokens > 0 and not parts[domain].trained.complete]
            if not short:
                return parts
            for domain in short:
                wanted[domain] = (wanted[domain] or 0) + 2 * missing[domain]

    def _count_needed_tokens(self, name: str, sources: DatasetSources) -> dict[str, int | None]:
        tokens, ratios = self.settings.datasets[name].tokens, sources.ratios
        if ratios is None or tokens is None:
            return dict.fromkeys(sources.by_name, tokens)
        # A domain is at most one sequence ahead of its share, and one more is looked at.
        return {domain: int(tokens * ratios[domain]) + 3 * self.settings.context for domain in sources.by_name}

    def _open_store(self, sources: DatasetSources, domain: str, tokens: int | None) -> TokenStore:
        source = sources.by_name[domain]
        with sources.locate_errors(domain):
            return tokenise_dataset(
                DataSource(
                    path=Path(source.data),
                    format=source.format,
                    text_field=source.text_field,
                    split=source.split,
                    ignore_columns=source.ignore_columns,
                ),
                lambda: self._build_encoder(source),
                cache=self.cache,
                identity=[sources.sha256[domain], *self._list_identity()],
                tokens=tokens,
                seed=self.settings.seed,
            )

    def _open_stream(self, sources: DatasetSources, domain: str, store: TokenStore) -> SequenceStream:
        source, context, seed = sources.by_name[domain], self.settings.context, self.settings.seed
        if source.format == "text":
            return CutStream(store, context, seed, masked=self.settings.mask_documents)
        with sources.locate_errors(domain):
            return WholeStream(
                store, context, seed, self.settings.mask_documents, longer=source.long_examples, where=source.data
            )

    def _list_identity(self) -> list[str]:
        """Texts that decide tokens beside the data and its options."""
        day = [f"date {self.settings.date}"] if self.settings.date is not None else []
        return [self.identity, *(f"{name} {version(name)}" for name in VERSIONS_OF), *day]

    def _build_encoder(self, source: SourceConfig) -> ExampleEncoder:
        return build_example_encoder(self.tokenizer, format=source.format, where=self.label, date=self.settings.date)


def _refuse_repetition(dataset: DatasetConfig, where: str, tokens: int, epochs: float) -> None:
    if dataset.max_epochs is not None and epochs > dataset.max_epochs * (1 + 1e-9):
        found = f"its {tokens} tokens are {epochs:.2f} epochs, more than `max_epochs: {dataset.max_epochs:g}`"
        most = int((dataset.tokens or tokens) * dataset.max_epochs / epochs)
        raise TrainingError(where, found, f"Lower `tokens:` to {most} or less, its ratio, or bring more data.")


def _refuse_unlabelled(sequences: PackedTokens | SequenceMixture, where: str) -> None:
    if sequences.unlabelled.all():
        found = f"none of its {len(sequences)} sequences holds a token that is learnt"
        raise TrainingError(where, found, "Raise `train.context` or `tokens:`, so that answers come into it.")


def describe_data(sources: DatasetSources, sequences: PackedTokens | SequenceMixture) -> dict[str, JsonValue]:
    """Describe the data of an expert for its record."""
    count = int(sequences.unlabelled.sum())
    without: dict[str, JsonValue] = {"sequences_without_label": count} if count else {}
    if isinstance(sequences, PackedTokens):
        ((_, source),) = sources.by_name.items()
        return {**_describe_stream(source, sequences.stream), **without}

    given = {name: _round_values(asdict(given)) for name, given in sequences.given.items()}
    mixture: dict[str, JsonValue] = {
        name: {**given[name], **_describe_stream(sources.by_name[name], sequences.streams[name])} for name in given
    }
    return {"mixture": mixture, **without}


def _describe_stream(source: SourceConfig, stream: SequenceStream) -> dict[str, JsonValue]:
    skipped = {"long_examples_skipped": stream.skipped} if isinstance(stream, WholeStream) else {}
    store = stream.store
    thoughts = {"thoughts": store.thoughts, "thoughts_left_out": store.thoughts_left_out} if store.thoughts else {}
    return {
        "file": source.data,
        "documents": store.documents - store.left_out,
        "empty_documents_left_out": store.empty,
        "characters": store.characters_of_all,
        "tokens_per_epoch": stream.tokens_per_epoch,
        **skipped,
        **thoughts,
    }


def _round_values(values: dict[str, JsonValue]) -> dict[str, JsonValue]:
    return {key: round(value, 6) if isinstance(value, float) else value for key, value in values.items()}
