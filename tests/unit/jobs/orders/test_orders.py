"""An order carried out where an engine runs gives the tensors of the same order here; no tensor crosses the border."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from aftermix.checkpoints.pool import open_pool
from aftermix.config import Config, EvaluateConfig, VectorConfig
from aftermix.errors import EvaluationError
from aftermix.jobs.compare.rival_models import RivalOrder
from aftermix.jobs.merge.statistics import open_merger
from aftermix.jobs.orders.engines import open_engine
from aftermix.jobs.orders.opened import OPENER, MergeOrder, OpenedMerges, OpeningPlan, open_in_engine
from aftermix.jobs.orders.order import BaselineOrder, FileOrder, FrameOrder, OtherVectorsOrder, PointOrder
from aftermix.jobs.search.baselines import BaselineMerge
from aftermix.merging.recipe import MergeRecipe
from aftermix.runs.trials import Point

Family = Mapping[str, Path]
WEIGHTS = {"a": 0.4, "b": 0.7}


@pytest.fixture(scope="module")
def config(family: Family) -> Config:
    vectors = {name: {"model": str(family[name])} for name in WEIGHTS}
    merge = {"method": "dare_linear", "density": 0.5, "exclude": ["embed_tokens"]}
    return Config.model_validate({"base": str(family["base"]), "vectors": vectors, "merge": merge})


@pytest.fixture(scope="module")
def here(config: Config) -> OpenedMerges:
    recipe = MergeRecipe.from_config(config.merge, vectors=config.vectors, for_search=True)
    return OpenedMerges(config, open_merger(config, open_pool(config), recipe), None)


@pytest.mark.parametrize("prepares", [False, True])
@pytest.mark.parametrize("kind", ["point", "settings", "file", "baseline", "frame", "other vectors", "finished model"])
def test_an_order_gives_the_same_tensors_on_both_sides(
    kind: str, prepares: bool, config: Config, here: OpenedMerges, family: Family
) -> None:
    other = config.model_copy(update={"vectors": {"c": VectorConfig(model=str(family["c"]))}})
    orders: dict[str, MergeOrder] = {
        "point": PointOrder(Point(WEIGHTS)),
        "settings": PointOrder(Point(WEIGHTS, {"lambda": 0.5})),
        "file": FileOrder(WEIGHTS),
        "baseline": BaselineOrder(BaselineMerge("ties", "uniform", WEIGHTS, "ties", 0.5)),
        "frame": FrameOrder(),
        "other vectors": OtherVectorsOrder(other, {"c": 1.0}),
        "finished model": RivalOrder(str(family["c"]), "a", 0.6),
    }
    order = pickle.dumps(orders[kind])
    assert len(order) < 5000

    there = open_in_engine(pickle.dumps(OpeningPlan(config, prepares=prepares)))
    tensors, unchanged = there.stream(order, lambda _: None)
    found = {name: tensor.clone() for name, tensor in tensors}
    expected = {name: tensor.clone() for name, tensor in orders[kind].stream(here, lambda _: None).tensors}
    assert found.keys() | unchanged >= expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())
    if kind in ("point", "settings") and prepares:
        assert unchanged == {"model.embed_tokens.weight"}
    assert there.frame.label == here.merger.pool.frame.label
    assert there.tokenizer_folder == family["base"]


def test_the_opener_is_found_by_its_name() -> None:
    assert OPENER == "aftermix.jobs.orders.opened:open_in_engine"


def test_models_that_are_no_vectors_of_a_file_are_for_the_other_engine(here: OpenedMerges) -> None:
    asked = EvaluateConfig.model_validate({"tasks": ["colours"], "engine": "vllm"})
    with pytest.raises(
        EvaluationError, match="expected hf for models that are not the vectors of one file, found vllm"
    ):
        open_engine(here.merger.pool, asked, None, None)  # type: ignore[arg-type]
