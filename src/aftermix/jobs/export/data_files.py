"""The data of a mixture's domains, out of one training file or of several.

A domain's data is the dataset or source of its name, in whichever of the files names one. Files may share names as long
as these mean the same data; the base, whose tokenizer counts, is the same in all files that name one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from aftermix.config import Config, SourceConfig, TrainConfig, load_config
from aftermix.errors import Problem, refuse_if_any
from aftermix.jobs.train.expert_data import list_dataset_sources

OPTION = "--data"


@dataclass(frozen=True)
class NamedDataFiles:
    """Training files that name data together, in the order in which they were given."""

    configs: tuple[tuple[str, Config], ...]
    """Each with the name by which messages call it."""

    @classmethod
    def read(cls, files: Sequence[Path]) -> NamedDataFiles:
        """Read `files`. Raises :class:`ConfigError` for one without `train:`, and for bases that differ."""
        read = cls(tuple(zip(_name_files(files), map(load_config, files), strict=True)))
        refuse_if_any(list(read._list_problems()))
        return read

    @property
    def where(self) -> str:
        """The files by name."""
        return ", ".join(name for name, _ in self.configs)

    @property
    def base(self) -> str | None:
        """The base that the files name, if any does."""
        return next((config.base for _, config in self.configs if config.base is not None), None)

    def join(self) -> TrainConfig:
        """One section with the data of all files; of a name that stands in several, the first file's."""
        sections = [config.train for _, config in self.configs if config.train is not None]
        sources: dict[str, SourceConfig] = {}
        for section in reversed(sections):
            sources |= list_dataset_sources(section) | section.sources

        ordered = {
            name: sources[name]
            for section in sections
            for name in (*section.datasets, *section.sources)
            if name in sources
        }
        cache = next((section.cache for section in sections if section.cache is not None), None)
        return sections[0].model_copy(update={"datasets": {}, "sources": ordered, "cache": cache})

    def refuse_clashes(self, domains: Collection[str]) -> None:
        """Raise :class:`ManyProblemsError` naming each of `domains` whose data two files name unlike each other."""
        refuse_if_any(list(self._list_clashes(domains)))

    def _list_clashes(self, domains: Iterable[str]) -> Iterator[Problem]:
        for domain in domains:
            named = [(file, found) for file, config in self.configs if (found := _find_data(config, domain))]
            other = next(((file, found) for file, found in named[1:] if found != named[0][1]), None)
            if other is not None:
                first = named[0]
                what = "are read otherwise" if other[1].data == first[1].data else f"is {other[1].data}"
                found_text = f"'{domain}' is {first[1].data} in {first[0]}, and {what} in {other[0]}"
                yield Problem(OPTION, found_text, "Leave one of the files out, or let both say the same.")

    def _list_problems(self) -> Iterator[Problem]:
        remedy = "Add it, or leave the file out: `train.sources` and `train.datasets` name the data."
        yield from (Problem(name, "has no `train:`", remedy) for name, config in self.configs if config.train is None)

        bases = {config.base: name for name, config in reversed(self.configs) if config.base is not None}
        if len(bases) > 1:
            told = ", ".join(f"{base} in {name}" for base, name in reversed(bases.items()))
            remedy = "Name files of one base: its tokenizer counts the tokens of all domains."
            yield Problem(OPTION, f"expected one base, found {told}", remedy)


def _find_data(config: Config, domain: str) -> SourceConfig | None:
    if config.train is None:
        return None
    return (list_dataset_sources(config.train) | config.train.sources).get(domain)


def _name_files(files: Sequence[Path]) -> list[str]:
    """Names of `files`, as they were given where two have the same."""
    unique = len({file.name for file in files}) == len(files)
    return [file.name if unique else str(file) for file in files]
