"""Ranking by saliency against slow twins, and statistics that do not fit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.torch import load_file

from aftermix.checkpoints.model import Span
from aftermix.checkpoints.pool import open_pool
from aftermix.config import Config, MergeConfig, VectorConfig
from aftermix.errors import AftermixError
from aftermix.jobs.merge.command import merge
from aftermix.jobs.merge.statistics import open_merger
from aftermix.merging.recipe import MergeRecipe
from aftermix.merging.rules.intra import TensorKey, saliency
from aftermix.merging.saliency import ChannelImportance, MissingStatistics, Ranking, build_score, choose_ranking
from aftermix.merging.topk.magnitude import TensorBlocks
from aftermix.merging.topk.scores import ScoredEntries, find_top_scored
from conftest import Family, write_statistics

FEW = st.sampled_from([0.0, 0.5, -0.5, 1.0, -1.0, 2.0])


def in_blocks(values: np.ndarray, size: int) -> TensorBlocks:
    flat = torch.from_numpy(values.copy()).reshape(-1)
    bounds = [(start, min(start + size, len(flat))) for start in range(0, len(flat), size)]
    return TensorBlocks(bounds, lambda bounds: flat[bounds[0] : bounds[1]].clone())


@given(data=st.data(), block=st.integers(1, 40))
@settings(max_examples=150)
def test_a_ranked_choice_is_a_sort_by_score_then_magnitude_then_index(data: st.DataObject, block: int) -> None:
    length = data.draw(st.integers(1, 40))
    deltas = data.draw(hnp.arrays(np.float32, length, elements=FEW))
    ranks = data.draw(hnp.arrays(np.float32, length, elements=st.sampled_from([0.0, 1.0, 2.0])))
    count = data.draw(st.integers(1, length))
    scores = torch.from_numpy(ranks)

    def score(_: torch.Tensor, runs: Sequence[Span]) -> torch.Tensor:
        return torch.cat([scores[start:end] for start, end in runs])

    candidates = ScoredEntries(in_blocks(deltas, block), score, only_magnitude=False)
    cut = find_top_scored(candidates, count)
    found = np.concatenate(
        [
            cut.choose(delta, score, start)
            for delta, score, (start, _) in zip(
                candidates.deltas, candidates.scores, candidates.deltas.spans, strict=True
            )
        ]
    )
    order = sorted(range(length), key=lambda i: (-float(ranks[i]), -abs(float(deltas[i])), i))
    assert sorted(np.flatnonzero(found).tolist()) == sorted(order[:count])


@pytest.mark.parametrize(
    ("shape", "factor"), [((4, 6), (1, 6)), ((4, 6), (4, 1)), ((3, 4, 6), (3, 1, 6)), ((3, 4, 6), (3, 4, 1))]
)
@given(data=st.data())
@settings(max_examples=40)
def test_the_factor_of_any_run_is_that_of_the_whole(
    shape: tuple[int, ...], factor: tuple[int, ...], data: st.DataObject
) -> None:
    values = torch.rand(factor, generator=torch.Generator().manual_seed(0))
    whole = values.expand(shape).reshape(-1)
    runs = []
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(whole) - 1))
        runs.append((start, data.draw(st.integers(start + 1, len(whole)))))
    expected = torch.cat([whole[start:end] for start, end in runs])
    assert ChannelImportance(values, shape).multiply(torch.full_like(expected, 3.0), runs).equal(expected * 3)


def kept(values: np.ndarray, ranking: Ranking, *, density: float, block: int = 7) -> np.ndarray:
    blocks = in_blocks(values, block)
    keeper = saliency(blocks, TensorKey(0, "v", "t", values.size, values.shape[-1], None, ranking), density=density)
    parts = [keeper(part, start) for part, (start, _) in zip(blocks, blocks.spans, strict=True)]
    return torch.cat(parts).numpy().reshape(values.shape)


def test_saliency_is_the_input_times_the_square_of_the_change() -> None:
    rng = np.random.default_rng(0)
    deltas = rng.normal(size=(20, 30)).astype(np.float32)
    inputs = rng.normal(size=(500, 30)).astype(np.float32) * np.linspace(0.1, 3, 30, dtype=np.float32)
    mean_square = (inputs.astype(np.float64) ** 2).mean(0).astype(np.float32)
    found = kept(deltas, ChannelImportance(torch.from_numpy(mean_square)[None], deltas.shape), density=0.25)
    # The change of the layer's output on the calibration inputs, were this entry alone undone (OBIM, equation 5).
    effect = (inputs.astype(np.float64) ** 2).sum(0) * deltas.astype(np.float64) ** 2
    best = np.argsort(-effect.reshape(-1))[:150]
    assert np.count_nonzero(found) == 150
    assert len(set(best) & set(np.flatnonzero(found))) >= 149  # float32 may settle a near tie the other way
    uniform = kept(deltas, ChannelImportance(torch.ones(1, 30), deltas.shape), density=0.25)
    assert np.array_equal(uniform, kept(deltas, "magnitude", density=0.25))


def test_a_random_choice_has_the_count_and_depends_on_names_alone() -> None:
    deltas = np.random.default_rng(0).normal(size=(100, 50)).astype(np.float32)
    found = kept(deltas, "random", density=0.3, block=5000)
    assert np.count_nonzero(found) == 1500
    assert np.array_equal(found, kept(deltas, "random", density=0.3, block=5000))
    chosen = np.abs(deltas[found != 0]).mean()
    assert abs(chosen - np.abs(deltas).mean()) < 5 * np.abs(deltas).std() / np.sqrt(1500)
    bounds = in_blocks(deltas, 700).spans
    score = build_score("random", bounds, seed=0, key=("v", "t"))
    whole = torch.cat([score(torch.empty(0), [block]) for block in bounds])
    for run in ((0, 700), (710, 715), (4999, 5000)):
        assert score(torch.empty(0), [run]).equal(whole[slice(*run)])
    assert score(torch.empty(0), [(710, 715), (5, 8)]).equal(torch.cat([whole[710:715], whole[5:8]]))


class Measured:
    """Statistics of one weight."""

    def __init__(self, factor: torch.Tensor | None, uncovered: tuple[str, ...] = ()) -> None:
        self._factor = factor
        self.uncovered = uncovered

    def factor(self, name: str) -> torch.Tensor | None:
        return self._factor


def test_what_ranks_a_tensor() -> None:
    assert choose_ranking(Measured(None), "norm", (8,)) == "random"
    assert choose_ranking(Measured(None, ("w",)), "w", (8, 8)) == "magnitude"
    assert choose_ranking(Measured(None, ("w[0]", "w[1]")), "w", (2, 8, 8)) == "magnitude"
    assert choose_ranking(MissingStatistics(frozenset({"norm"})), "norm", (8,)) == "magnitude"
    factor = torch.tensor([[[1.0, 3.0]], [[0.0, 0.0]], [[5.0, 7.0]]])
    found = choose_ranking(Measured(factor, ("w[1]",)), "w", (3, 4, 2))
    assert isinstance(found, ChannelImportance)
    assert found.factor[1].tolist() == [[4.0, 4.0]]  # an expert without a token: the mean of the others, all channels
    assert found.factor[0].tolist() == [[1.0, 3.0]]


def config_of(family: Family, statistics: Path | None, **merge_options: object) -> Config:
    vectors = {name: VectorConfig(model=str(family[name]), weight=1.0) for name in ("a", "b", "c")}
    merge_config = MergeConfig.model_validate({"statistics": statistics and str(statistics), **merge_options})
    return Config(base=str(family["base"]), vectors=vectors, merge=merge_config)


def test_obim_gives_every_entry_to_its_most_salient_turn(
    untied_family: Family, statistics: dict[str, Path], tmp_path: Path
) -> None:
    folder = statistics[str(untied_family["base"])]
    order = ("b", "c", "a")
    out = merge(config_of(untied_family, folder, method="obim", order=order), tmp_path / "out")
    name = "model.layers.1.mlp.up_proj.weight"
    tensors = {model: _stored(path)[name].numpy() for model, path in untied_family.items()}
    free = np.ones(tensors["base"].size, dtype=bool)
    wanted = tensors["base"].reshape(-1).copy()
    for vector in order:
        delta = (tensors[vector] - tensors["base"]).astype(np.float32)
        mean_square = load_file(folder / f"{vector}.safetensors")[name].numpy()
        score = np.where(free, (delta * delta * mean_square).reshape(-1), -1.0)
        taken = np.argsort(-score, kind="stable")[: free.size // 3]
        wanted[taken] = tensors[vector].reshape(-1)[taken]
        free[taken] = False
    found = _stored(out)[name].numpy().reshape(-1)
    assert np.isclose(found, wanted, rtol=1e-6, atol=1e-8).mean() > 0.999


def _stored(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def test_the_recipe_and_the_lock_name_the_statistics(
    family: Family, statistics: dict[str, Path], tmp_path: Path
) -> None:
    import json

    from aftermix.config import load_config

    folder = statistics[str(family["base"])]
    first = merge(config_of(family, folder, method="obim"), tmp_path / "first")
    again = merge(load_config(first / "aftermix.yaml"), tmp_path / "again")
    assert (first / "model.safetensors").read_bytes() == (again / "model.safetensors").read_bytes()
    lock = json.loads((first / "lock.json").read_text())
    assert sorted(lock["statistics"]) == [f"{v}.{kind}" for v in "abc" for kind in ("json", "safetensors")]


def test_statistics_that_do_not_fit_are_refused(
    family: Family, untied_family: Family, statistics: dict[str, Path], tmp_path: Path
) -> None:
    incomplete = write_statistics(tmp_path / "incomplete", family, ("a", "b"))
    other = statistics[str(untied_family["base"])]
    for folder, message in (
        (None, r"merge\.statistics: obim needs statistics, there are none of a, b, c\. Run `aftermix calibrate"),
        (tmp_path / "nowhere", r"there is no such folder of statistics"),
        (incomplete, r"holds no statistics of vector 'c', but of: a, b"),
        (other, r"statistics of vector 'a' .* are of another model than .*: its values differ"),
    ):
        config = config_of(family, folder, method="obim")
        with pytest.raises(AftermixError, match=message):
            open_merger(config, open_pool(config), MergeRecipe.from_config(config.merge))
