"""lm-eval, datasets and transformers without their log lines and progress bars."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import datasets
from transformers.utils import logging as transformers_logging

LOGGERS = ("lm_eval", "datasets", "transformers", "huggingface_hub", "accelerate")


@contextmanager
def quiet() -> Iterator[None]:
    """Let only errors of the evaluation libraries through, and no bars; everything is restored on leaving."""
    levels = {name: logging.getLogger(name).level for name in LOGGERS}
    datasets_bars = not datasets.utils.are_progress_bars_disabled()
    transformers_bars = transformers_logging.is_progress_bar_enabled()

    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]

    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        if datasets_bars:
            datasets.enable_progress_bars()
        if transformers_bars:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]
