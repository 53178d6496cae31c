"""Extras of the package: the one place that decides whether they are there, and says how to install them.

`pip install aftermix` merges, diffs, inspects and averages. All else comes with an extra of the package.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import Literal

from aftermix.errors import AftermixError

Extra = Literal["search", "train", "report", "plots", "lora", "gguf", "ray", "tensorboard", "trackio", "vllm"]
MODULES: dict[str, tuple[str, ...]] = {
    "search": (
        "accelerate",
        "datasets",
        "lightgbm",
        "lm_eval",
        "optuna",
        "pandas",
        "pyarrow",
        "scipy",
        "sklearn",
        "threadpoolctl",
        "transformers",
    ),
    "train": ("accelerate", "datasets", "jinja2", "pyarrow", "scipy", "transformers"),
    "report": ("jinja2", "matplotlib", "pandas", "scipy"),
    "plots": ("plotly",),
    "lora": ("peft",),
    "gguf": ("gguf", "transformers"),
    "ray": ("ray",),
    "tensorboard": ("tensorboard",),
    "trackio": ("trackio",),
    "vllm": ("vllm",),
}
"""Modules of each extra of `pyproject.toml`, beside those of the extras that it takes in."""
TAKES_IN: dict[str, tuple[str, ...]] = {"search": ("report",), "vllm": ("search",)}


def refuse_missing_extra(extra: Extra, *, what: str) -> None:
    """Raise :class:`AftermixError` where a module of `extra`, which `what` needs, is not installed.

    Nothing is imported.
    """
    missing = [name for name in list_modules(extra) if not _is_installed(name)]
    if missing:
        found = f"needs the extra `{extra}` of aftermix, of which {', '.join(missing)} is not installed"
        raise AftermixError(what, found, f"Install it: {format_install(extra)}")


def format_install(extra: Extra) -> str:
    """The line that installs `extra`.

    >>> format_install("lora")
    "pip install 'aftermix[lora]'"
    """
    return f"pip install 'aftermix[{extra}]'"


def list_modules(extra: str) -> tuple[str, ...]:
    """All modules that `extra` brings."""
    return tuple(dict.fromkeys(name for each in (extra, *TAKES_IN.get(extra, ())) for name in MODULES[each]))


def _is_installed(name: str) -> bool:
    if name in sys.modules:
        return sys.modules[name] is not None
    return find_spec(name) is not None
