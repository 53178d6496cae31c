"""The demo's contest is its search with rivals: rows that can be run, on as many tokens as all experts took."""

from __future__ import annotations

from pathlib import Path

from aftermix.config import load_config
from aftermix.jobs.compare.rival_plans import plan_rivals
from aftermix.jobs.run_folder.comparison import select_comparable

DEMO = Path(__file__).parents[3] / "examples" / "demo"


def test_the_search_is_that_of_the_demo_and_its_run_can_go_on_with_it() -> None:
    contest, demo = load_config(DEMO / "compare.yaml"), load_config(DEMO / "aftermix.yaml")
    assert select_comparable(contest) == select_comparable(demo)
    assert contest.search == demo.search


def test_the_rivals_are_trained_as_the_experts_were() -> None:
    contest, trained = load_config(DEMO / "compare.yaml"), load_config(DEMO / "train.yaml")
    assert contest.train is not None
    assert trained.train is not None
    left_out = {"datasets", "vector"}
    assert contest.train.model_dump(exclude=left_out) == trained.train.model_dump(exclude=left_out)
    plans = plan_rivals(contest)
    assert [(plan.name, plan.instruction, plan.is_tuned) for plan in plans] == [
        ("datamix", "it", True),
        ("found-ratios", "it", True),
    ]
    tokens = sum(dataset.tokens or 0 for name, dataset in trained.train.datasets.items() if name != "it")
    assert [plan.training and plan.training.tokens for plan in plans] == [tokens, tokens]
