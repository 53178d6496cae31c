"""Targets of `analyze` and `inspect`: a file of vectors, or one model and its base."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from aftermix.checkpoints.pool import ModelPool, open_pool
from aftermix.config import Config, VectorConfig, load_config, require
from aftermix.errors import AftermixError, ConfigError, ManyProblemsError, Problem, ask_meant_path
from aftermix.files import format_json, write_json

IN_FILE = re.compile(r"Add to `vectors\.[^`]*`: `prefix: (?P<map>\{[^`]*\})`")
"""Advice that is for a file, on names that differ by their prefixes."""
FORMATS = ("svg", "png")
FILES = (".yaml", ".yml")
NumberSink = Path | Callable[[str], object]
"""Place of all numbers of a result: a file of JSON, or a function that takes the document's text, in ASCII."""


def parse_prefixes(pairs: Sequence[str]) -> dict[str, str] | None:
    """The map in `OWN=BASE` pairs, a model's own prefix of tensor names and the base's; None for no pair.

    >>> parse_prefixes(["model.=model.language_model.", "=head."])
    {'model.': 'model.language_model.', '': 'head.'}
    """
    for pair in pairs:
        if "=" not in pair:
            raise ConfigError(
                "--prefix", f"expected OWN=BASE, found '{pair}'", "Write --prefix 'model.=language_model.'."
            )
    return {own: target for own, _, target in (pair.partition("=") for pair in pairs)} or None


def load_target(target: str, *, base: str | None, prefixes: Mapping[str, str] | None = None) -> Config:
    """The file `target`, or the model `target` as the one vector of `base`.

    Raises :class:`AftermixError` unless base and vectors are named, and exactly once.
    """
    if Path(target).suffix in FILES:
        if base is not None:
            raise ConfigError("--base", f"{target} names its own base", "Leave --base out.")
        if prefixes is not None:
            raise ConfigError("--prefix", f"{target} names its own vectors", "Write `prefix` into it.")
        config = load_config(Path(target))
    elif base is None:
        if not Path(target).exists():
            remedy = ask_meant_path("Correct it; to a model of the hub name the base: `--base BASE`.", Path(target))
            raise ConfigError(target, "there is no such file or folder", remedy)
        raise ConfigError("--base", f"{target} is a model, whose vector needs a base", "Name it, or name a YAML file.")
    else:
        vector = VectorConfig(model=target, prefix=dict(prefixes) if prefixes else None)
        config = Config(base=base, vectors={_derive_name(target): vector})

    require(config, "base", "vectors")
    return config


def open_target_pool(config: Config, *, base: str | None) -> ModelPool:
    """The pool of what :func:`load_target` gave for a file, or for a model and its `base`. Raises as `open_pool`."""
    if base is None:
        return open_pool(config)
    remedy = "Name a file instead, with base, vector and `merge: {vocabulary: base}`."
    with advise_on_options(remedy):
        return open_pool(config)


@contextmanager
def advise_on_options(remedy: str) -> Iterator[None]:
    """Give other tokens than the base's this `remedy`, where there is no file that could settle `merge.vocabulary`.

    Other names than the base's are told by the option `--prefix` of the command.
    """
    try:
        yield
    except AftermixError as error:
        problems = [replace(p, remedy=remedy) if p.where == "merge.vocabulary" else p for p in error.problems]
        problems = [_advise_by_option(problem) for problem in problems]
        if problems == list(error.problems):
            raise
        raise ManyProblemsError(problems) from error


def _advise_by_option(problem: Problem) -> Problem:
    """A problem whose remedy is a map of prefixes in a file, with the options that say the same."""
    found = IN_FILE.search(problem.remedy)
    if found is None:
        return problem
    options = " ".join(f"--prefix '{own}={target}'" for own, target in json.loads(found["map"]).items())
    return replace(problem, remedy=problem.remedy.replace(found[0], f"Say `{options}`"))


def determine_picture_kind(picture: Path) -> str:
    """`svg` or `png`, by the ending of the name. Raises :class:`ConfigError` for any other."""
    kind = picture.suffix.lower().removeprefix(".")
    if kind not in FORMATS:
        found = f"expected a name that ends in .svg or .png, found '{picture}'"
        raise ConfigError("--picture", found, "Name the picture by its kind.")
    return kind


def hand_over(numbers: object, sink: NumberSink) -> None:
    """Write `numbers` into the file `sink`, or give the function their text."""
    if isinstance(sink, Path):
        write_json(sink, numbers)
    else:
        sink(format_json(numbers, escaped=True).rstrip())


def _derive_name(model: str) -> str:
    """The last part of the model's name, as far as a vector may be called that."""
    cleaned = "".join(
        letter if letter.isascii() and (letter.isalnum() or letter in "._-") else "-" for letter in Path(model).name
    )
    return cleaned.lstrip("._-")[:64] or "expert"
