"""The pools that are recorded: their base and vectors, made where they are not there yet, their method and tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from benchmarks.pools.generated import write_generated_tasks

from aftermix.checkpoints.formats.gguf import convert_gguf
from aftermix.config import Config
from aftermix.config.file import load_config, parse_config
from aftermix.jobs.train.command import train

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
DEMO = EXAMPLES / "demo"
DOMAINS = ("ja", "zh", "math", "code")
TINY_DOMAINS = ("ja", "math")
TINY_TRAINING = {"context": 64, "batch_size": 4, "warmup_steps": 1}
TINY_TOKENS = 512


@dataclass(frozen=True)
class PoolRecipe:
    """One pool: how many merges and items, and what makes its inputs and its configuration."""

    merges: int
    items: int
    """Items of each task."""
    prepare: Callable[[Path, bool], Config]
    """Of the folder for all pools and whether they are tiny; what is made already is kept."""


def prepare_demo(folder: Path, tiny: bool) -> Config:
    """The demo's base and domains, an expert each and an instruction-like sibling, by task arithmetic."""
    return _configure_demo(folder, tiny, {})


def prepare_demo_ties(folder: Path, tiny: bool) -> Config:
    """The same vectors and tasks under TIES."""
    return _configure_demo(folder, tiny, {"merge": {"method": "ties", "density": 0.5, "exclude": []}})


def prepare_demo_generated(folder: Path, tiny: bool) -> Config:
    """The same vectors; the model writes how the text goes on, and its beginning must be the true one."""
    domains = TINY_DOMAINS if tiny else DOMAINS
    tasks = (folder / "demo_generated" / "tasks").resolve()
    names = [write_generated_tasks(DEMO / "tasks", tasks, domain) for domain in domains]
    return _configure_demo(folder, tiny, {"evaluate": {"tasks": names, "include_path": str(tasks), "batch_size": 64}})


def prepare_smollm2(folder: Path, tiny: bool) -> Config:
    """SmolLM2-135M-Instruct and one low-rank expert for each domain; the demo's tasks, English too."""
    domains = TINY_DOMAINS if tiny else DOMAINS
    place = folder / "smollm2"
    base = DEMO / "base" if tiny else _convert_smollm2(place / "base")
    training: dict[str, Any] = {
        "datasets": {domain: {"data": f"texts/{domain}.jsonl.gz", "tokens": 64_000} for domain in domains},
        "learning_rate": 1.0e-3,
        "context": 256,
        "batch_size": 2,
        "warmup_steps": 5,
        "weight_decay": 0.0,
        "lora": {"rank": 16, "alpha": 32},
        "dtype": "float32",
    }
    config = _parse({"base": str(base), "train": training})
    # Tiny experts are the demo's, of whole weights: they need no peft.
    experts = train(_read_demo_training(tiny), folder / "experts") if tiny else train(config, place / "experts")

    values = {
        "base": str(base),
        "vectors": {domain: {"model": str(experts[domain].resolve())} for domain in domains},
        "merge": {"method": "task_arithmetic"},
        "evaluate": {
            "tasks": [f"continue_{domain}" for domain in ("en", *domains)],
            "include_path": "tasks",
            "batch_size": 32,
        },
    }
    return _parse(values)


POOLS: Mapping[str, PoolRecipe] = {
    "demo": PoolRecipe(merges=200, items=250, prepare=prepare_demo),
    "demo_ties": PoolRecipe(merges=200, items=250, prepare=prepare_demo_ties),
    "demo_generated": PoolRecipe(merges=100, items=250, prepare=prepare_demo_generated),
    "smollm2": PoolRecipe(merges=64, items=120, prepare=prepare_smollm2),
}


def _configure_demo(folder: Path, tiny: bool, changes: Mapping[str, Any]) -> Config:
    """The demo's base and tasks of its domains, with the experts of `folder`; some sections changed."""
    experts = train(_read_demo_training(tiny), folder / "experts")
    domains = TINY_DOMAINS if tiny else DOMAINS
    names = [name for name in ("it", *domains) if name in experts]
    values = {
        "base": "base",
        "vectors": {name: {"model": str(experts[name].resolve())} for name in names},
        "merge": {"method": "task_arithmetic", "exclude": []},
        "evaluate": {
            "tasks": [f"continue_{domain}" for domain in domains],
            "include_path": "tasks",
            "batch_size": 64,
        },
    }
    return _parse({**values, **changes})


def _read_demo_training(tiny: bool) -> Config:
    if not tiny:
        return load_config(DEMO / "domains.yaml")
    values = yaml.safe_load((DEMO / "domains.yaml").read_text(encoding="utf-8"))
    kept = {name: values["train"]["datasets"][name] for name in TINY_DOMAINS}
    return _parse({**values, "train": _shrink_training({**values["train"], "datasets": kept})})


def _shrink_training(training: Mapping[str, Any]) -> dict[str, Any]:
    datasets = {name: {**each, "tokens": TINY_TOKENS} for name, each in training["datasets"].items()}
    return {**training, "datasets": datasets, **TINY_TRAINING}


def _convert_smollm2(folder: Path) -> Path:
    """The base as the example makes it, from the package's file; nothing where it is there."""
    from examples.smollm2.convert import gguf_file

    if not folder.exists():
        convert_gguf(gguf_file(), folder)
    return folder.resolve()


def _parse(values: dict[str, Any]) -> Config:
    return parse_config(values, where="pool", folder=DEMO)
