"""`aftermix merge`: one YAML in, one model folder out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aftermix.checkpoints.alignment.views import alignment_lines
from aftermix.checkpoints.companions import companion_files
from aftermix.checkpoints.pool import Pool, open_pool
from aftermix.checkpoints.writer import landing, refuse_occupied, write_checkpoint
from aftermix.config import Config, require
from aftermix.errors import CheckpointError
from aftermix.jobs.provenance import hashing, lock, recipe_yaml
from aftermix.jobs.statistics import merger_of
from aftermix.merging.blocks import block_bounds
from aftermix.merging.merge import Merger, Recipe, Weights, check_weights, merged_pieces
from aftermix.progress import bar


def merge(config: Config, output: Path, *, say: Callable[[str], object] = lambda _: None) -> Path:
    """Merge the vectors of `config` at their weights into the new folder `output`.

    What had to be mapped or aligned, and what passes through from the base, is said line by line.

    Everything is checked before the first weight is read. Raises :class:`AftermixError`, with nothing written, on bad
    input.
    """
    require(config, "vectors")
    weights = {name: vector.weight for name, vector in config.vectors.items()}
    recipe = Recipe.of(config.merge, vectors=config.vectors)
    check_weights(recipe, weights)
    pool = open_pool(config)
    refuse_output(output, pool)
    for line in alignment_lines(pool.base, pool.experts):
        say(line)
    return write_model(merger_of(config, pool, recipe), weights, config=config, output=output)


def write_model(
    merger: Merger, weights: Weights, *, config: Config, output: Path, best: dict[str, Any] | None = None
) -> Path:
    """Write the merge at `weights` with everything that makes it serve; scores in `best` go into the model card."""
    from aftermix.jobs.model_card import model_card

    recipe, pool = merger.recipe, merger.pool
    layout = merger.layout()
    blocks = sum(len(block_bounds(spec.shape)) for spec in layout)
    with hashing(pool) as digest:
        companions: dict[str, bytes | Callable[[], bytes]] = {
            **companion_files(pool, dtype=recipe.dtype),
            "README.md": model_card(config, recipe, weights, name=landing(output).name, best=best),
            "aftermix.yaml": recipe_yaml(config, recipe, weights).encode(),
            "lock.json": lambda: (json.dumps(lock(pool, config, digest=digest), indent=2) + "\n").encode(),
        }
        return write_checkpoint(
            output,
            bar(merged_pieces(merger, weights), label="Merging", total=blocks, unit="block"),
            layout=layout,
            companions=companions,
            max_shard_bytes=config.merge.max_shard_bytes,
        )


def refuse_output(output: Path, pool: Pool) -> None:
    """Raise :class:`CheckpointError` when `output` is an input's folder, lies inside one, or is occupied."""
    inputs = [*pool.experts.values(), *([pool.base] if pool.base else [])]
    for checkpoint in inputs:
        # An adapter without a tokenizer has its base's folder, a GGUF file that of a cache.
        folders = {checkpoint.folder, *(folder for folder in [Path(checkpoint.label)] if folder.is_dir())}
        if any(landing(output).is_relative_to(folder.resolve()) for folder in folders):
            found = f"lies in the input folder {checkpoint.label}"
            raise CheckpointError(str(output), found, "Name another folder for the result.")
    refuse_occupied(output)
