"""The option `--tiny` of every benchmark and study: the same functions on tiny input, in seconds, to the end."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

FOLDER = Path("runs") / "tiny"


def parse_options(parser: argparse.ArgumentParser, tiny: Callable[[Path], Mapping[str, Any]]) -> argparse.Namespace:
    """Read the command line; with `--tiny FOLDER`, `tiny` gives the defaults, and `options.tiny` is the folder.

    An option that is named on the command line counts in either case.
    """
    parser.add_argument(
        "--tiny",
        nargs="?",
        type=Path,
        const=FOLDER,
        metavar="FOLDER",
        help=f"on tiny input, in seconds, to see that it runs; what it writes lies in FOLDER (default: {FOLDER})",
    )
    options = parser.parse_args()
    if options.tiny is None:
        return options

    # Read again: only the parser knows which options were named.
    parser.set_defaults(**tiny(options.tiny))
    return parser.parse_args()


def copy_results(source: Path, target: Path) -> None:
    """Copy the results of a study to where a tiny page is made of them."""
    shutil.copytree(source, target, dirs_exist_ok=True)
