"""The option `--tiny` of the studies: the whole of a study in seconds, on a tiny world of its own."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.tiny import parse_options

from studies.world.make import make_world

SEED = 0


def parse_study(
    parser: argparse.ArgumentParser, places: Callable[[Path], Mapping[str, Any]] = lambda _: {}
) -> argparse.Namespace:
    """Read the command line of a study.

    With `--tiny FOLDER` the world is the tiny one in there, made now if it is not there, the seed is one, and `places`
    says where results go.
    """
    options = parse_options(
        parser, lambda folder: {"seed": [SEED], "threads": 1, "world": folder / "world", **places(folder)}
    )
    if options.tiny:
        make_world(options.world, seeds=options.seed, threads=options.threads, tiny=True)
    return options
