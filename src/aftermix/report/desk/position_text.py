"""A position as a file and as a command: ready text with places for the numbers of the axes.

All quoting is done here, by the writer of YAML and the shell's rules; the script puts in numbers, and choices that are
ready too.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from textwrap import indent

import yaml

from aftermix.config import Config
from aftermix.report.desk.axes import DeskSpace
from aftermix.runs.reader import RunContents
from aftermix.runs.records import BestRecord

Value = object
"""Anything that a YAML file holds."""


@dataclass(frozen=True)
class TextPiece:
    """Text, and the axis whose value follows it; None where none does."""

    text: str
    axis: int | None = None


def write_recipe(run: RunContents, space: DeskSpace) -> list[TextPiece]:
    """The file of a position, as `aftermix merge FILE` takes it.

    Empty where a pair of rules has searched options: which of the two takes one is not written in a run.
    """
    config = run.config
    searched = [axis.name for axis in space.axes if axis.kind != "weight"]
    options = [name for name in searched if not _split_setting(name, config)[1]]
    if (config.merge.intra or config.merge.inter) and set(options) - {"lambda"}:
        return []

    writer = _PieceWriter()
    writer.write((_format_yaml({"base": config.base}) if config.base else "") + "vectors:\n")
    for name in config.vectors:
        own = {_split_setting(setting, config)[0]: setting for setting in searched if _is_of(setting, name, config)}
        writer.write(indent(_format_yaml({name: _describe_vector(config, name, own)}), "  "))
        writer.write("    weight: ", space, name, fallback=space.fixed.get(name, 0.0))
        for option, setting in own.items():
            writer.write(f"    {_format_key(option)}: ", space, setting)

    values = {key: value for key, value in _describe_merge(run).items() if key not in options}
    writer.write("merge:\n" + indent(_format_yaml(values) if values else "", "  "))
    for option in options:
        writer.write(f"  {_format_key(option)}: ", space, option)
    return writer.finish()


def write_command(run: RunContents, space: DeskSpace) -> list[TextPiece]:
    """The command that merges a position; empty where settings are searched, which it takes from the winner."""
    if any(axis.kind != "weight" for axis in space.axes):
        return []

    places = {axis.name: place for place, axis in enumerate(space.axes)}
    pieces = []
    lead = f"aftermix merge {shlex.quote(run.folder.as_posix())} --weights "
    for name in run.config.vectors:
        text = f"{lead}{shlex.quote(name)}="
        pieces.append(
            TextPiece(text, places[name]) if name in places else TextPiece(f"{text}{space.fixed.get(name, 0.0)!r}")
        )
        lead = ","
    return [*pieces, TextPiece(" -o merged")]


def format_choices(space: DeskSpace) -> dict[str, tuple[str, ...]]:
    """Setting -> its choices as YAML has them on one line."""
    return {
        axis.name: tuple(_format_scalar(list(value) if isinstance(value, tuple) else value) for value in axis.values)
        for axis in space.axes
        if axis.values
    }


class _PieceWriter:
    """Pieces as they are written, joined where no axis stands between them."""

    def __init__(self) -> None:
        self._pieces: list[TextPiece] = []
        self._text = ""

    def write(self, text: str, space: DeskSpace | None = None, name: str = "", *, fallback: Value = None) -> None:
        """Write `text`, and with a `space` the value of its axis `name`, or `fallback` without one, and a break."""
        self._text += text
        if space is None:
            return
        place = next((number for number, axis in enumerate(space.axes) if axis.name == name), None)
        if place is None:
            self._text += _format_scalar(fallback) + "\n"
        else:
            self._pieces.append(TextPiece(self._text, place))
            self._text = "\n"

    def finish(self) -> list[TextPiece]:
        """All pieces."""
        return [*self._pieces, TextPiece(self._text)]


def _describe_vector(config: Config, name: str, without: Iterable[str]) -> dict[str, Value]:
    """Keys of a vector that a merge reads, but for its weight and what is searched."""
    vector = config.vectors[name]
    values: dict[str, Value] = {"model": vector.model, "role": vector.role}
    values |= {"density": vector.density, "ratio": vector.ratio, "prefix": dict(vector.prefix or {}) or None}
    return {key: value for key, value in values.items() if value is not None and key not in without}


def _describe_merge(run: RunContents) -> dict[str, Value]:
    """The merge section: as the file has it, with method, options and exclusions of the winner where there is one."""
    values: dict[str, Value] = run.config.merge.model_dump(mode="json", by_alias=True, exclude_none=True)
    values["exclude"] = list(run.config.merge.exclusions(for_search=True))
    unread = ["compat", "max_shard_bytes", *(["uncalibrated"] if run.config.merge.statistics is None else [])]
    values = {key: value for key, value in values.items() if key not in unread}
    if isinstance(run.best, BestRecord) and not (run.config.merge.intra or run.config.merge.inter):
        winner = run.best.winner
        options = {key: list(value) if isinstance(value, tuple) else value for key, value in winner.options.items()}
        values |= {"method": winner.method} | {key: value for key, value in options.items() if value is not None}
        values["exclude"] = list(winner.exclude)
    return values


def _split_setting(setting: str, config: Config) -> tuple[str, str]:
    """Option and vector of a setting; no vector for an option of the method."""
    option, _, vector = setting.partition(".")
    return (option, vector) if vector in config.vectors else (setting, "")


def _is_of(setting: str, vector: str, config: Config) -> bool:
    return _split_setting(setting, config)[1] == vector


def _format_key(key: str) -> str:
    return _format_scalar(key)


def _format_yaml(values: Mapping[str, Value]) -> str:
    return yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True, width=1 << 20)


def _format_scalar(value: Value) -> str:
    """`value` on one line of YAML."""
    text = yaml.safe_dump(value, allow_unicode=True, default_flow_style=True, width=1 << 20)
    return text.removesuffix("\n").removesuffix("\n...")
