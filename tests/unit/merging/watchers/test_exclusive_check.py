"""`merge --check`: it passes what is exclusive, and finds what is broken on purpose."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from aftermix.checkpoints.pool import open_pool
from aftermix.config import Config, MergeConfig, VectorConfig
from aftermix.errors import AftermixError, MergeError
from aftermix.jobs.merge.command import merge
from aftermix.jobs.merge.statistics import open_merger
from aftermix.merging.merge import Merger
from aftermix.merging.recipe import MergeRecipe
from aftermix.merging.rules.exclusive import ExclusivePruner, exclusive
from aftermix.merging.stream import stream_merged_pieces
from aftermix.merging.topk.magnitude import TensorBlocks
from aftermix.merging.topk.scores import ScoredEntries
from aftermix.merging.watchers.exclusive_check import ExclusiveCheck
from aftermix.merging.watchers.merged_block import MergedBlock
from aftermix.merging.watchers.shares import ShareTally

Family = Mapping[str, Path]
Change = Callable[[MergedBlock], MergedBlock]
WEIGHTS = {"a": 0.7, "b": 0.0, "c": -0.4}
Q_PROJ = "model.layers.1.self_attn.q_proj.weight"


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def config_of(family: Family, **options: Any) -> Config:
    vectors = {name: VectorConfig(model=str(family[name]), weight=weight) for name, weight in WEIGHTS.items()}
    return Config(base=str(family["base"]), vectors=vectors, merge=MergeConfig.model_validate(options))


def merger_for(family: Family, **options: Any) -> Merger:
    config = config_of(family, **options)
    return open_merger(config, open_pool(config), MergeRecipe.from_config(config.merge, vectors=config.vectors))


@pytest.mark.parametrize("dtype", [None, "float16", "float32"])
@pytest.mark.parametrize(
    "options",
    [
        {"method": "ties_im"},
        {"method": "obim", "lambda": 0.3},
        {"method": "ties_im", "density": 0.1, "order": ["c", "a", "b"]},
    ],
)
def test_an_exclusive_merge_passes(
    options: dict[str, Any], dtype: str | None, family: Family, statistics: dict[str, Path]
) -> None:
    statistics_of = {"statistics": str(statistics[str(family["base"])])} if options["method"] == "obim" else {}
    merger = merger_for(family, dtype=dtype, **options, **statistics_of)
    check = ExclusiveCheck(merger, WEIGHTS)
    for _ in stream_merged_pieces(merger, WEIGHTS, watch=check):
        pass
    assert check.summarise() == "Checked: 20 tensors, 25,760 positions, none from two vectors"


def test_weights_of_0_give_the_base(family: Family) -> None:
    merger = merger_for(family, method="ties_im")
    check = ExclusiveCheck(merger, {})
    for _ in stream_merged_pieces(merger, {}, watch=check):
        pass
    assert check.tensors == 20


def broken(family: Family, change: Change) -> None:
    """Merge with `change` between the merge and the check."""
    merger = merger_for(family, method="ties_im")
    check = ExclusiveCheck(merger, WEIGHTS)

    def watch(block: MergedBlock) -> None:
        check(change(block) if block.info.name == Q_PROJ else block)

    for _ in stream_merged_pieces(merger, WEIGHTS, watch=watch):
        pass


def with_owners(block: MergedBlock, vector: str, owners: np.ndarray) -> MergedBlock:
    mark = block.pruners[vector].mark  # type: ignore[attr-defined]
    return replace(block, pruners={**block.pruners, vector: ExclusivePruner(owners, mark)})


def first_of(block: MergedBlock, mark: int) -> int:
    owners = block.pruners["a"].owners  # type: ignore[attr-defined]
    return int(np.flatnonzero(owners == mark)[0])


def test_a_keeper_that_takes_what_another_has_is_found(family: Family) -> None:
    place = []

    def change(block: MergedBlock) -> MergedBlock:
        place.append(first_of(block, 2))
        owners = block.pruners["c"].owners.copy()  # type: ignore[attr-defined]
        owners[place[0]] = 3
        return with_owners(block, "c", owners)

    with pytest.raises(MergeError) as raised:
        broken(family, change)
    assert str(raised.value) == (
        f"{Q_PROJ}: entry {place[0]} is kept by vector 'b' and by vector 'c'. This is a fault of aftermix, not of your "
        "models: please report it with the recipe."
    )


def test_a_wrong_value_is_found(family: Family) -> None:
    place = []

    def change(block: MergedBlock) -> MergedBlock:
        place.append(first_of(block, 1))
        merged = block.merged.clone()
        merged[place[0]] = torch.nextafter(merged[place[0]].float(), torch.tensor(9.0)).to(merged.dtype) + 1
        return replace(block, merged=merged)

    with pytest.raises(
        MergeError, match=r"q_proj\.weight: entry \d+ is .*, expected .*, the value of vector 'a' alone"
    ):
        broken(family, change)


def test_a_position_of_nobody_that_moved_is_found(family: Family) -> None:
    def change(block: MergedBlock) -> MergedBlock:
        owners = block.pruners["a"].owners.copy()  # type: ignore[attr-defined]
        owners[first_of(block, 1)] = 0
        return with_owners(block, "a", owners)

    with pytest.raises(MergeError, match=r"entry \d+ is .*, expected .*, the value of the base"):
        broken(family, change)


def test_a_count_that_is_not_the_ratio_is_found(family: Family) -> None:
    def change(block: MergedBlock) -> MergedBlock:
        owners = block.pruners["b"].owners.copy()  # type: ignore[attr-defined]
        owners[first_of(block, 2)] = 0
        return with_owners(block, "b", owners)

    with pytest.raises(
        MergeError, match=r"vector 'b' has 340 of 1024 entries, expected floor\(0\.333333 \* 1024\) = 341"
    ):
        broken(family, change)


def test_the_job_writes_nothing_when_the_check_fails(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = ExclusivePruner.__call__

    def greedy(self: ExclusivePruner, delta: torch.Tensor, start: int) -> torch.Tensor:
        return delta if self.mark == 2 else honest(self, delta, start)

    monkeypatch.setattr(ExclusivePruner, "__call__", greedy)
    with pytest.raises(MergeError, match=r"is kept by vector 'a' and by vector 'b'"):
        merge(config_of(family, method="ties_im"), tmp_path / "out", check=True)
    assert list(tmp_path.iterdir()) == []


def test_other_methods_have_nothing_to_check(family: Family, tmp_path: Path) -> None:
    with pytest.raises(
        AftermixError, match=r"--check: ties shares no positions out, there is nothing to check\. Leave"
    ):
        merge(config_of(family, method="ties"), tmp_path / "out", check=True)
    assert not (tmp_path / "out").exists()


def test_tensors_of_several_blocks_on_several_threads(family: Family, tmp_path: Path) -> None:
    large = {}
    for seed, name in enumerate(("base", "a", "b", "c")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_bytes((family["base"] / "config.json").read_bytes())
        values = torch.randn(700, 1000, generator=torch.Generator().manual_seed(seed)).bfloat16()
        save_file({Q_PROJ: values}, tmp_path / name / "model.safetensors", metadata={"format": "pt"})
        large[name] = tmp_path / name
    merger = merger_for(large, method="ties_im", density=0.3)
    check, tally = ExclusiveCheck(merger, WEIGHTS), ShareTally()

    def watch(block: MergedBlock) -> None:
        check(block)
        tally(block)

    for _ in stream_merged_pieces(merger, WEIGHTS, threads=3, watch=watch):
        pass
    assert check.summarise() == "Checked: 1 tensor, 700,000 positions, none from two vectors"
    assert tally.counts == {Q_PROJ: {"a": 210_000, "b": 210_000, "c": 210_000}}


def test_more_vectors_than_a_byte_can_tell_apart_are_refused() -> None:
    blocks = TensorBlocks([(0, 1)], lambda _: torch.ones(1))
    candidates = {f"v{number}": ScoredEntries(blocks) for number in range(256)}
    with pytest.raises(MergeError, match=r"vectors: an exclusive merge takes at most 255, found 256\. Merge some"):
        exclusive(candidates, dict.fromkeys(candidates, 0.001), 0)
