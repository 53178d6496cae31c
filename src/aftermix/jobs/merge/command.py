"""`aftermix merge`: one YAML in, one model folder out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from aftermix.checkpoints.alignment.align import describe_alignment
from aftermix.checkpoints.alignment.mismatches import list_setting_remarks
from aftermix.checkpoints.companions.model_use import find_model_use
from aftermix.checkpoints.model_files import (
    describe_left_out,
    describe_stops,
    list_input_files,
    read_companion_files,
)
from aftermix.checkpoints.pool import ModelPool, open_pool
from aftermix.checkpoints.safe_files import InputStamps
from aftermix.checkpoints.writer import follow_links, refuse_occupied, write_checkpoint
from aftermix.config import Config, require
from aftermix.errors import CheckpointError
from aftermix.jobs.job_kind import NEEDED
from aftermix.jobs.merge.given_weights import read_given_weights
from aftermix.jobs.merge.kinship import list_kinship_remarks
from aftermix.jobs.merge.rounding import list_rounding_remarks
from aftermix.jobs.merge.sentence_modules import plan_merged_modules
from aftermix.jobs.merge.statistics import open_merger
from aftermix.jobs.provenance import format_recipe, hash_weight_files, lock
from aftermix.merging.blocks import list_block_spans
from aftermix.merging.merge import Merger
from aftermix.merging.recipe import MergeRecipe, Weights, check_weights
from aftermix.merging.stream import stream_merged_pieces
from aftermix.merging.watchers.exclusive_check import ExclusiveCheck
from aftermix.merging.watchers.merged_block import MergedBlock
from aftermix.merging.watchers.rounding_tally import RoundingTally
from aftermix.merging.watchers.shares import ShareTally, build_share_record, describe_fallbacks, drops_entries
from aftermix.progress import bar
from aftermix.runs.input_records import LOCK_FILE
from aftermix.runs.reader import RunResult
from aftermix.runs.share_records import SHARES_FILE


def merge(config: Config, output: Path, *, log: Callable[[str], object] = lambda _: None, check: bool = False) -> Path:
    """Merge the vectors of `config` at their weights into the new folder `output`.

    What had to be mapped or aligned, what passes through from the base, what saliency could not rank, and which vectors
    may be of another base is said line by line. With `check` every block of an exclusive merge is held against a second
    computation.

    Everything is checked before the first weight is read. Raises :class:`AftermixError`, with nothing written, on bad
    input.
    """
    merger, weights, inputs = open_given_merge(config, output)
    pool, recipe = merger.pool, merger.recipe
    checked = ExclusiveCheck(merger, weights) if check else None
    settings = [
        remark
        for vector, expert in pool.experts.items()
        for remark in list_setting_remarks(pool.frame, expert, vector=vector)
    ]
    noted = [*list_rounding_remarks(pool, recipe.dtype), *settings, *list_kinship_remarks(pool)]
    remarks = [str(remark) for remark in noted]
    described = [*describe_alignment(pool.base, pool.experts), *describe_left_out(pool), *describe_stops(pool)]
    for line in [*described, *describe_fallbacks(merger), *remarks]:
        log(line)

    rounding = RoundingTally() if pool.base is not None else None
    folder = write_model(merger, weights, config=config, output=output, inputs=inputs, check=checked, rounding=rounding)
    if rounding is not None and (line := rounding.summarise()):
        log(line)
    if checked is not None:
        log(checked.summarise())
    return folder


def open_given_merge(config: Config, output: Path) -> tuple[Merger, Weights, InputStamps]:
    """The merge of `config`, to be written to `output`, its weights, and stamps of the models that it reads.

    No weight is read. Raises :class:`AftermixError` on bad input.
    """
    require(config, *NEEDED["merge"])
    weights = read_given_weights(config)
    recipe = MergeRecipe.from_config(config.merge, vectors=config.vectors)
    check_weights(recipe, weights)

    pool = open_pool(config)
    inputs = InputStamps.take(list_input_files(pool))
    refuse_output(output, pool)
    return open_merger(config, pool, recipe), weights, inputs


def write_model(
    merger: Merger,
    weights: Weights,
    *,
    config: Config,
    output: Path,
    inputs: InputStamps | None = None,
    best: RunResult | None = None,
    check: ExclusiveCheck | None = None,
    rounding: RoundingTally | None = None,
) -> Path:
    """Write the merge at `weights` with everything that makes it serve; scores in `best` go into the model card.

    Nothing is written where one of the models is not as it was when `inputs` (by default now) were taken.
    """
    pool = merger.pool
    inputs = inputs or InputStamps.take(list_input_files(pool))
    inputs.refuse_changed()
    layout = merger.list_specs()
    blocks = sum(len(list_block_spans(spec.shape)) for spec in layout)

    tally = ShareTally() if drops_entries(merger.recipe.method, merger.vectors) else None
    watchers = [watcher for watcher in (tally, check, rounding) if watcher is not None]

    def watch(block: MergedBlock) -> None:
        for watcher in watchers:
            watcher(block)

    with hash_weight_files(pool) as digest:

        def build_lock() -> bytes:
            content = lock(pool, config, digest=digest).to_bytes(escaped=True)
            inputs.refuse_changed()  # all has been read: the result is of these files
            return content

        companions = _plan_companions(merger, weights, config=config, folder=follow_links(output), best=best)
        companions[LOCK_FILE] = build_lock
        if tally is not None:
            companions[SHARES_FILE] = lambda: build_share_record(merger, weights, tally).to_bytes(escaped=True)

        pieces = stream_merged_pieces(merger, weights, watch=watch if watchers else None)
        return write_checkpoint(
            output,
            bar(pieces, label="Merging", total=blocks, unit="block"),
            layout=layout,
            companions=companions,
            max_shard_bytes=config.merge.max_shard_bytes,
        )


def _plan_companions(
    merger: Merger, weights: Weights, *, config: Config, folder: Path, best: RunResult | None
) -> dict[str, bytes | Callable[[], bytes]]:
    """Files beside the weights in `folder`, each written or still to be made: tokenizer, modules, card and recipe."""
    from aftermix.jobs.merge.model_card import build_model_card

    recipe, pool = merger.recipe, merger.pool
    beside = read_companion_files(pool, dtype=recipe.dtype)
    use = find_model_use(pool.frame.config, beside)
    return {
        **beside,
        **plan_merged_modules(merger, weights),
        "README.md": build_model_card(config, recipe, weights, name=folder.name, best=best, use=use),
        "aftermix.yaml": format_recipe(config, recipe, weights, folder=folder).encode(),
    }


def refuse_output(output: Path, pool: ModelPool) -> None:
    """Raise :class:`CheckpointError` when `output` is an input's folder, lies inside one, or is occupied."""
    inputs = [*pool.experts.values(), *([pool.base] if pool.base else [])]
    for checkpoint in inputs:
        # An adapter without a tokenizer has its base's folder, a GGUF file that of a cache.
        folders = {checkpoint.folder, *(folder for folder in [Path(checkpoint.label)] if folder.is_dir())}
        if any(follow_links(output).is_relative_to(folder.resolve()) for folder in folders):
            found = f"lies in the input folder {checkpoint.label}"
            raise CheckpointError(str(output), found, "Name another folder for the result.")
    refuse_occupied(output)
