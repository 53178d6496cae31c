"""Exclusive iterative merging against a slow twin that walks the entries, and its promises on whole merges."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from aftermix.checkpoints.pool import open_pool
from aftermix.config import Config, MergeConfig, VectorConfig
from aftermix.errors import AftermixError, MergeError
from aftermix.merging.merge import Merger
from aftermix.merging.methods import bind
from aftermix.merging.recipe import MergeRecipe
from aftermix.merging.rules.exclusive import compute_shifts, exclusive
from aftermix.merging.stream import stream_merged_tensors
from aftermix.merging.topk.magnitude import TensorBlocks
from aftermix.merging.topk.scores import ScoredEntries

Family = Mapping[str, Path]
NAMES = ["a", "b", "c"]


def in_blocks(values: np.ndarray, size: int) -> TensorBlocks:
    flat = torch.from_numpy(values.copy())
    bounds = [(start, min(start + size, len(flat))) for start in range(0, len(flat), size)]
    return TensorBlocks(bounds, lambda bounds: flat[bounds[0] : bounds[1]].clone())


def kept_by(
    values: Mapping[str, np.ndarray], ratios: Mapping[str, float], shift: int, block: int, **options: object
) -> dict[str, np.ndarray]:
    blocks = {name: in_blocks(array, block) for name, array in values.items()}
    keepers = exclusive({n: ScoredEntries(b) for n, b in blocks.items()}, ratios, shift, **options)  # type: ignore[arg-type]
    found = {}
    for name, keeper in keepers.items():
        parts = [keeper(part, start) for part, (start, _) in zip(blocks[name], blocks[name].spans, strict=True)]
        found[name] = torch.cat(parts).numpy()
    return found


def slow_owners(values: Mapping[str, np.ndarray], ratios: Mapping[str, float], turns: list[str]) -> list[str | None]:
    elements = len(next(iter(values.values())))
    owners: list[str | None] = [None] * elements
    for name in turns:
        free = [index for index in range(elements) if owners[index] is None]
        free.sort(key=lambda index: (-abs(float(values[name][index])), index))
        for index in free[: int(ratios[name] * elements * (1 + 1e-12))]:
            owners[index] = name
    return owners


ARRAYS = hnp.arrays(
    np.float32,
    st.shared(st.integers(1, 60), key="length"),
    elements=st.one_of(st.sampled_from([0.0, -0.0, 0.5, -0.5, 1e-42]), st.floats(-3, 3, width=32)),
)


@given(data=st.data(), block=st.integers(1, 70), shift=st.integers(0, 9))
@settings(max_examples=200)
def test_it_is_the_walk_over_the_entries_whatever_the_blocks(data: st.DataObject, block: int, shift: int) -> None:
    values = {name: data.draw(ARRAYS) for name in NAMES}
    ratios = {name: data.draw(st.sampled_from([0.05, 0.2, 1 / 3])) for name in NAMES}
    found = kept_by(values, ratios, shift, block)
    turns = [NAMES[(shift + turn) % 3] for turn in range(3)]
    owners = slow_owners(values, ratios, turns)
    for name in NAMES:
        wanted = np.where([owner == name for owner in owners], values[name], 0)
        assert np.array_equal(found[name], wanted), name


def test_counts_are_exact_and_no_entry_is_kept_twice() -> None:
    rng = np.random.default_rng(0)
    values = {name: rng.normal(size=10_007).astype(np.float32) for name in NAMES}
    found = kept_by(values, {"a": 0.29, "b": 0.3, "c": 0.41}, 1, 1000)
    assert [np.count_nonzero(found[name]) for name in NAMES] == [2902, 3002, 4102]
    assert max(sum(np.abs(np.sign(part)) for part in found.values())) == 1


def test_a_named_order_holds_for_every_tensor() -> None:
    values = {name: np.array([3.0, 2.0, 1.0], dtype=np.float32) for name in NAMES}
    ratios = dict.fromkeys(NAMES, 1 / 3)
    for shift in (0, 1):
        found = kept_by(values, ratios, shift, 3, order=("c", "a", "b"))
        assert {name: part.tolist() for name, part in found.items()} == {
            "c": [3.0, 0.0, 0.0],
            "a": [0.0, 2.0, 0.0],
            "b": [0.0, 0.0, 1.0],
        }


@pytest.mark.parametrize(("start", "turns"), [(None, "abc"), ("a", "abc"), ("b", "bca"), ("c", "cab")])
def test_the_rotation_begins_with_the_vector_that_is_named(start: str | None, turns: str) -> None:
    """All want the same entries, so the largest goes to who comes first, and each later tensor begins one further."""
    values = {name: np.array([3.0, 2.0, 1.0], dtype=np.float32) for name in NAMES}
    for shift in range(4):
        found = kept_by(values, dict.fromkeys(NAMES, 1 / 3), shift, 3, start=start)
        taken = sorted(found, key=lambda name: -found[name].max())
        assert "".join(taken) == turns[shift % 3 :] + turns[: shift % 3]


def test_a_named_start_makes_names_indifferent(family: Family) -> None:
    """Renamed vectors give other bytes by the alphabet, and the same ones where the start is named."""

    def merge(first: str, second: str, **options: object) -> dict[str, torch.Tensor]:
        models = {first: family["a"], second: family["b"]}
        vectors = {name: VectorConfig(model=str(model)) for name, model in models.items()}
        section = MergeConfig.model_validate({"method": "ties_im", **options})
        config = Config(base=str(family["base"]), vectors=vectors, merge=section)
        merger = Merger.build(open_pool(config), MergeRecipe.from_config(config.merge, vectors=config.vectors))
        return dict(stream_merged_tensors(merger, dict.fromkeys(models, 1.0)))

    def differing(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> int:
        return sum(not torch.equal(ours[name], theirs[name]) for name in ours)

    plain = merge("a", "b")
    assert differing(plain, merge("a", "b", start="a")) == 0
    assert differing(plain, merge("z", "b")) > 0
    assert differing(plain, merge("z", "b", start="z")) == 0
    assert differing(merge("a", "b", start="b"), merge("z", "b")) == 0


def test_the_base_is_one_of_those_that_share() -> None:
    bound = bind(MergeConfig.model_validate({"method": "ties_im", "count_base": True}))
    assert bound.compute_ratios(["a", "b", "c"]) == dict.fromkeys("abc", 0.25)
    own = {"a": VectorConfig(model="a", ratio=0.5), "b": VectorConfig(model="b")}
    shared = bind(MergeConfig.model_validate({"method": "obim", "count_base": True}), vectors=own)
    assert shared.compute_ratios(["a", "b"]) == {"a": 0.5, "b": pytest.approx(1 / 3)}
    plain = bind(MergeConfig.model_validate({"method": "obim", "count_base": False, "start": None}))
    assert plain == bind(MergeConfig(method="obim"))
    assert not {"start", "count_base"} & set(plain.options)


def test_no_vector_comes_first_for_one_kind_of_tensor_in_every_block() -> None:
    names = [f"model.layers.{block}.{kind}.weight" for block in range(14) for kind in "abcdefg"]
    shifts = compute_shifts([*names, "model.embed_tokens.weight", "lm_head.weight"])
    assert shifts["model.embed_tokens.weight"] == shifts["lm_head.weight"] == 0
    for kind in "abcdefg":
        first = {shifts[f"model.layers.{block}.{kind}.weight"] % 7 for block in range(14)}
        assert first == set(range(7))


def config_of(family: Family, ratios: Mapping[str, float | None], **merge: object) -> Config:
    vectors = {n: VectorConfig(model=str(family[n]), weight=1.0, ratio=ratio) for n, ratio in ratios.items()}
    return Config(base=str(family["base"]), vectors=vectors, merge=MergeConfig.model_validate(merge))


def test_each_entry_of_the_result_is_the_base_or_one_expert(untied_family: Family) -> None:
    config = config_of(untied_family, {"a": None, "b": 0.25, "c": 0.4}, method="ties_im")
    pool = open_pool(config)
    recipe = MergeRecipe.from_config(config.merge, vectors=config.vectors)
    for name, tensor in stream_merged_tensors(Merger.build(pool, recipe), dict.fromkeys(NAMES, 1.0)):
        base = pool.read_base_block(name, (0, tensor.numel())).reshape(tensor.shape)
        experts = [pool.experts[v].read_block(name, (0, tensor.numel())).reshape(tensor.shape) for v in NAMES]
        # base + (expert - base) may round once in float32
        close = [torch.isclose(tensor, model, rtol=1e-6, atol=1e-9) for model in (base, *experts)]
        assert torch.stack(close).any(0).all(), name


@pytest.mark.parametrize(
    ("ratios", "merge", "message"),
    [
        (
            {"a": 0.6, "b": 0.5},
            {"method": "ties_im"},
            r"vectors: ratios sum to 1\.1 \(a 0\.6, b 0\.5\)\. Lower `ratio`",
        ),
        ({"a": None, "b": None}, {"method": "ties_im", "density": 0.7}, r"ratios sum to 1\.4 \(a 0\.7, b 0\.7\)"),
        ({"a": 0.5}, {"method": "ties"}, r"vectors\.a\.ratio: ties has no use for it"),
        ({"a": None}, {"method": "ties_obm", "order": ["x"]}, r"merge\.order: there is no vector 'x' \(a\)"),
        (
            {"a": None},
            {"intra": "random", "inter": "exclusive"},
            r"merge\.intra: random\+exclusive cannot rank entries",
        ),
        (
            {"a": None},
            {"method": "ties_im", "scope": "model"},
            r"merge\.scope: ties_im shares out every tensor by itself",
        ),
        ({"a": None}, {"method": "obim", "start": "x"}, r"merge\.start: there is no vector 'x' \(a\)"),
        (
            {"a": None, "b": None},
            {"method": "ties_im", "order": ["b", "a"], "start": "a"},
            r"merge\.start: stands beside a list of names, which begins with b. Remove `start`",
        ),
        ({"a": None}, {"method": "ties", "start": "a"}, r"merge\.start: ties has no option 'start'"),
        ({"a": None}, {"method": "ties_im", "order": ["a", "x"]}, r"merge\.order: there is no vector 'x' \(a\)"),
        (
            {"a": None, "b": None},
            {"method": "ties_im", "order": ["a"]},
            r"merge\.order: names a, not every vector \(a, b\)",
        ),
    ],
)
def test_bad_shares_are_refused_before_any_weight_is_read(
    ratios: dict[str, float | None], merge: dict[str, object], message: str, family: Family
) -> None:
    config = config_of(family, ratios, **merge)
    with pytest.raises(AftermixError, match=message):
        Merger.build(open_pool(config), MergeRecipe.from_config(config.merge, vectors=config.vectors))


def test_a_pair_takes_equal_shares_unless_it_says_otherwise() -> None:
    pair = bind(MergeConfig.model_validate({"intra": "magnitude", "inter": {"rule": "exclusive", "order": ["b", "a"]}}))
    assert pair.compute_ratios(["a", "b"]) == {"a": 0.5, "b": 0.5}
    assert pair.options["order"] == ("b", "a")
    third = bind(MergeConfig.model_validate({"intra": {"rule": "magnitude", "density": 0.3}, "inter": "exclusive"}))
    assert third.compute_ratios(["a", "b"]) == {"a": 0.3, "b": 0.3}
    with pytest.raises(MergeError, match="sum to"):
        third.compute_ratios(["a", "b", "c", "d"])


def test_one_file_serves_obim_and_its_halves(family: Family) -> None:
    vectors = {"a": VectorConfig(model="a", ratio=0.4), "b": VectorConfig(model="b", ratio=0.2)}
    kept = {}
    for method in ("obim", "ties_im", "ties_obm"):
        bound = bind(MergeConfig.model_validate({"method": method, "order": ["b", "a"]}), vectors=vectors)
        kept[method] = {name: bound.collect_options(name)["density"] for name in vectors}
        assert bound.options["order"] == ("b", "a")
    assert kept["obim"] == kept["ties_im"] == kept["ties_obm"] == {"a": 0.4, "b": 0.2}
    both = {"a": VectorConfig(model="a", ratio=0.4, density=0.4)}
    with pytest.raises(AftermixError, match=r"vectors\.a\.ratio: stands beside `density`, its other name"):
        bind(MergeConfig(method="ties_obm"), vectors=both)
