"""Trainings on the union of the experts' data, at given ratios: what is trained, on how much, into which folder.

Rate, schedule and adapters are those that all experts have in common, as of mixtures that `--verify` trains. Source:
OptiMer, Table 1 (DataMix: equal ratios, as many tokens as all experts took together; and at the ratios found).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from aftermix.checkpoints.alignment.recorded_base import TRAINING_FILE
from aftermix.checkpoints.hub import locate
from aftermix.checkpoints.safe_files import read_json
from aftermix.config import Config, RivalTrainingConfig, SourceConfig
from aftermix.config.places import list_range_rules
from aftermix.errors import ConfigError, join_place
from aftermix.jobs.verify.expert_training import adopt_training
from aftermix.jobs.verify.training_file import find_sources, refuse_missing_data, training_config
from aftermix.mixture.simplex import share_by_tokens

FOLDER = "trained"
FOUND = "found"
OF_MACHINE = {"cache", "device", "threads", "save_steps"}
"""Keys of `train:` that decide no weight."""
REPLACED = {"datasets", "sources", "mixtures", "seed"}
"""Keys of `train:` that a training has of its own."""


@dataclass(frozen=True)
class RivalTraining:
    """A training, and how often it is run."""

    config: Config
    """With rate, schedule and adapters of the experts in `train:`."""
    sources: Mapping[str, SourceConfig]
    """Data by name; without the ratios found, those that have a ratio."""
    shares: Mapping[str, float] | None
    """In tokens, together 1; None of the ratios found, which are known when the search has ended."""
    tokens: int
    seen: int | None
    """Tokens of all experts together; None where they are not known of one."""
    seeds: int

    def settle_shares(self, found: Mapping[str, float] | None) -> Mapping[str, float] | None:
        """The shares, for the ratios `found`; None where these are wanted and there are none."""
        return self.shares if self.shares is not None else found

    def name_folders(self, shares: Mapping[str, float]) -> dict[int, str]:
        """Name of the folder by seed: rows that ask for one training share it, and another recipe is another name."""
        assert self.config.train is not None  # noqa: S101 - planned with one; for the type checker
        settings = self.config.train.model_dump(mode="json", exclude=OF_MACHINE | REPLACED)
        kept = {name: round(share, 9) for name, share in sorted(shares.items()) if share > 0}
        text = json.dumps([kept, self.tokens, settings], sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        first = self.config.train.seed
        return {seed: f"mix-{digest}-seed-{seed}" for seed in range(first, first + self.seeds)}

    def run(self, shares: Mapping[str, float], run: Path, *, log: Callable[[str], None]) -> dict[int, Path]:
        """Train a model for each seed into RUN/trained; finished ones are reused. Raises as `train` does."""
        from aftermix.jobs.train.command import train

        assert self.config.train is not None  # noqa: S101 - planned with one; for the type checker
        models = {}
        for seed, name in self.name_folders(shares).items():
            seeded = self.config.train.model_copy(update={"seed": seed})
            config = training_config(
                self.config.model_copy(update={"train": seeded}),
                domains=list(shares),
                mixtures={name: shares},
                tokens=self.tokens,
            )
            models[seed] = train(config, run / FOLDER, log=log)[name]
        return models


def plan_training(config: Config, rival: RivalTrainingConfig, *, where: str) -> RivalTraining:
    """The training that the row at `where` asks for; no data is read.

    Raises :class:`AftermixError` for a file without `train:` or experts, data that is not known or not there, experts
    without a rate and schedule in common, tokens that nothing tells, too few of them, and found ratios of a search that
    finds no weights.
    """
    if config.base is None or config.train is None:
        remedy = "Add `train:` with a dataset or source for each expert, as the experts were trained."
        raise ConfigError(where, "asks for a training, and the file says no `train:`", remedy)
    experts = [name for name, vector in config.vectors.items() if vector.role == "expert"]
    if not experts:
        raise ConfigError(where, "expected vectors of data, found none", "Add vectors with `role: expert`.")
    if rival.ratios == FOUND and config.mixture is None and not config.search.over.weights:
        found = "asks for the ratios found, and `search.over.weights` is false"
        raise ConfigError(f"{where}.ratios", found, "Name ratios, or search the weights.")

    placed = [name for name, vector in config.vectors.items() if list_range_rules(vector.range)]
    if rival.ratios == FOUND and config.mixture is None and placed:
        found = f"asks for the ratios found, and the weight of '{placed[0]}' depends on the place"
        raise ConfigError(f"{where}.ratios", found, "Name ratios, or give the vector one range.")

    counts = {name: _count_expert_tokens(config, name) for name in experts}
    known = {name: count for name, count in counts.items() if count is not None}
    seen = sum(known.values()) if len(known) == len(experts) else None
    shares = _settle_shares(rival, experts, known, where=where)

    names = list(shares or experts)
    sources = find_sources(config.train, names)
    refuse_missing_data(sources)
    adopted = config.model_copy(update={"train": adopt_training(config, experts)})

    tokens = rival.tokens or seen
    if tokens is None:
        unknown = next(name for name in experts if name not in known)
        found = f"expected the tokens of the training, and those of '{unknown}' are not known to add them up"
        raise ConfigError(f"{where}.tokens", found, f"Say how many, or say {join_place('vectors', unknown)}.tokens.")
    needed = len(names) * config.train.context
    if tokens < needed:
        found = f"expected at least {needed:,} tokens, a sequence of `train.context` for each dataset, found {tokens:,}"
        raise ConfigError(f"{where}.tokens", found, "Train on more, or lower `train.context`.")
    return RivalTraining(adopted, sources, shares, tokens, seen, rival.seeds)


def _count_expert_tokens(config: Config, name: str) -> int | None:
    """Tokens that an expert was trained on, by the file or by its own record; None where neither tells them."""
    vector = config.vectors[name]
    if vector.tokens is not None:
        return vector.tokens
    recorded = read_recorded_tokens(Path(vector.model))
    if recorded is not None:
        return recorded
    dataset = config.train.datasets.get(name) if config.train else None
    return dataset.tokens if dataset else None


def read_recorded_tokens(folder: Path) -> int | None:
    """Tokens that the model in `folder` was trained on by its own record; None without one that tells them."""
    file = folder / TRAINING_FILE
    tokens = read_json(file, remedy="Remove it, or restore it.").get("tokens") if file.is_file() else None
    return tokens if isinstance(tokens, int) else None


def _settle_shares(
    rival: RivalTrainingConfig, experts: list[str], known: Mapping[str, int], *, where: str
) -> dict[str, float] | None:
    if not isinstance(rival.ratios, str):
        return {name: share for name, share in rival.ratios.items() if share > 0}
    if rival.ratios == FOUND:
        return None
    if rival.ratios == "uniform":
        return dict.fromkeys(experts, 1 / len(experts))

    missing = [name for name in experts if name not in known]
    if missing:
        found = f"expected the tokens of every expert, found none of {', '.join(missing)}"
        raise ConfigError(f"{where}.ratios", found, f"Say {join_place('vectors', missing[0])}.tokens.")
    return share_by_tokens({name: known[name] for name in experts})


def refuse_tokens_beyond_data(training: RivalTraining, *, where: str) -> None:
    """Raise :class:`ConfigError` for a training of more tokens than its data hold and the experts took together.

    Data are read and counted only where the experts took fewer, and no further than needed.
    """
    if training.seen is not None and training.tokens <= training.seen:
        return

    held = 0
    for source in training.sources.values():
        held += _count_source_tokens(training.config, source, most=training.tokens - held)
        if held >= training.tokens:
            return
    most = max(held, training.seen or 0)
    found = f"expected at most {most:,} tokens, which its data hold or the experts took, found {training.tokens:,}"
    raise ConfigError(f"{where}.tokens", found, "Train on fewer, or give the datasets more data.")


def _count_source_tokens(config: Config, source: SourceConfig, *, most: int) -> int:
    """Tokens of the data of one domain, counted up to `most`."""
    # Here: what only reads a row needs no libraries of training.
    from aftermix.jobs.export.domain_counts import COUNTED_DAY, count_tokens
    from aftermix.training.base_model import load_tokenizer
    from aftermix.training.data.encoding import build_example_encoder
    from aftermix.training.data.examples import read_examples

    assert config.base is not None  # noqa: S101 - planned with one; for the type checker
    assert config.train is not None  # noqa: S101
    day = config.train.date or COUNTED_DAY
    encode = build_example_encoder(
        load_tokenizer(locate(config.base)), format=source.format, where=config.base, date=day
    )
    examples = read_examples(
        Path(source.data),
        format=source.format,
        text_field=source.text_field,
        split=source.split,
        ignore_columns=source.ignore_columns,
    )

    held = 0
    for tokens in count_tokens(examples, encode):
        held += tokens
        if held >= most:
            break
    return held
