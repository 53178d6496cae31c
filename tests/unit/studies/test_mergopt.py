"""The MergOPT study's own arithmetic: the walk for a coefficient, pairing by seed, near-best shares, page, vision."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.interpolate import RegularGridInterpolator
from studies.mergopt import landscape, page, results, tables, times
from studies.mergopt.bench import _half
from studies.mergopt.crew import EQUAL_STEPS, EQUAL_TIME, GROUPS, OF_FEW, TASKS, missing, trained
from studies.mergopt.methods import DARE, METHODS, TIES, WEIGHTS, lowest
from studies.mergopt.results import Groups, Row, accuracy, by_seed, minus, relative, summary
from studies.mergopt.vision_data import PARTS, Images, _digits, all_views, images
from studies.mergopt.vision_data import TASKS as VIEWS
from studies.mergopt.vision_train import BATCH, VARIANTS, _adamw, new_model, train
from studies.world.figures import Mean
from studies.world.layout import World

from aftermix.config import MergeConfig
from aftermix.merging.methods import bind

CALM = {"median": 0.2, "least": 0.15}
NAMES = [kind.name for kind in (*EQUAL_STEPS, *EQUAL_TIME)]


@given(st.floats(-0.5, 2.0), st.sampled_from(WEIGHTS))
def test_walk_ends_at_the_minimum_of_a_valley(bottom: float, start: float) -> None:
    calls: list[float] = []

    def cost(coefficient: float) -> float:
        calls.append(coefficient)
        return abs(coefficient - bottom)

    assert cost(lowest(cost, WEIGHTS, start=start)) == min(map(cost, WEIGHTS))


def test_walk_measures_each_place_once_and_stops_on_a_plain() -> None:
    calls: list[float] = []
    assert lowest(lambda x: calls.append(x) or 1.0, (1.0, 2.0, 3.0), start=2.0) == 2.0  # type: ignore[func-returns-value]
    assert sorted(calls) == [1.0, 2.0, 3.0]


def test_every_method_binds_and_starts_on_its_grid() -> None:
    for method in METHODS:
        for count, sets in GROUPS.items():
            for tasks in sets:
                assert len(tasks) == count
                start = method.start[count] if method.grid else 1 / count
                point = method.point(tasks, start, seed=3)
                bind(MergeConfig.model_validate(point.merge))
                assert start in method.grid or not method.grid
                assert set(point.weights) == set(tasks)
    assert TIES.point(("ja",), 0.6, seed=0).merge["lambda"] == 0.6
    assert DARE.point(("ja",), 0.3, seed=7).merge["seed"] == 7
    assert DARE.point(("ja",), 0.3, seed=7).weights == {"ja": 0.3}


def test_half_the_text_is_half_the_characters() -> None:
    texts = ["abcd", "efgh", "ij", "klmnop"]
    assert _half(texts) == ["abcd", "efgh"]
    assert "".join(_half(texts)) == "".join(texts)[:8]


def row(name: str, seed: int, bits: float, right: float | None = None, task: str = "ja") -> Row:
    return Row(name, seed, (task,), 0.3, bits, right)


ROWS = [
    *(row("constant", seed, 90.0 + seed, 40.0) for seed in range(3)),
    *(row("aware", seed, 89.0 + seed, 41.0) for seed in range(2)),
    row("aware", 1, 92.0, 43.0, task="zh"),
]


def test_differences_are_paired_on_the_seeds_that_both_have() -> None:
    assert by_seed(ROWS, "aware") == {0: 89.0, 1: 91.0}
    assert by_seed(ROWS, "aware", accuracy) == {0: 41.0, 1: 42.0}
    found = minus(ROWS, "aware", "constant")
    assert found is not None
    assert found.value == -0.5
    assert minus(ROWS, "constant", "absent") is None
    assert summary(ROWS, "constant") == Mean(91.0, pytest.approx(4.302653 / 3**0.5))
    gained = relative(ROWS, "constant", "aware", accuracy)
    assert gained is not None
    assert gained.value == pytest.approx(100 * ((40 / 41 - 1) + (40 / 42 - 1)) / 2)
    assert results.shown(None) == ""


def test_results_read_back_one_row_a_line(tmp_path: Path) -> None:
    groups: Groups = {"alone": ROWS, "6 TIES": ROWS[:1]}
    results.write(tmp_path / "deep" / "main.json", groups)
    text = (tmp_path / "deep" / "main.json").read_text()
    assert len(text.splitlines()) == 4 + len(ROWS) + 1 + 3 + 1
    source, found = results.read(tmp_path / "deep" / "main.json")
    assert found == groups
    assert set(source) == {"command", "machine"}


@given(st.lists(st.floats(50, 150), min_size=9, max_size=9))
def test_bilinear_values_equal_scipys(flat: list[float]) -> None:
    loss_AB = np.array(flat).reshape(3, 3)
    side = np.linspace(0, 2, landscape.FINE)
    expected = RegularGridInterpolator((np.arange(3), np.arange(3)), loss_AB)(
        np.stack(np.meshgrid(side, side, indexing="ij"), -1)
    )
    np.testing.assert_allclose(landscape.finer(loss_AB.tolist()), expected, rtol=1e-9)


def test_share_near_the_best_is_of_the_square() -> None:
    ramp = [[100.0, 100.0], [110.0, 110.0]]  # within 2 % on the first fifth
    assert landscape.share_within(ramp) == pytest.approx(20.0, abs=1.0)
    assert landscape.share_within(ramp, best=110.0) == 100.0
    assert landscape.share_within(ramp, best=90.0) == 0.0


def test_verdicts_count_fewer_bits_and_more_accuracy_as_better() -> None:
    rows = [*(row("constant", s, 90 + s, 40) for s in range(3)), *(row("aware", s, 89 + s, 42) for s in range(3))]
    assert tables.so(rows, "aware", "constant") == "yes"
    assert tables.so(rows, "constant", "aware") == "reversed"
    assert tables.so(rows, "aware", "constant", accuracy) == "yes"
    assert tables.so(rows[:1] + rows[3:4], "aware", "constant") == ""
    counted = tables.tally({"6 TIES": rows, "2 TIES": rows}, "aware")
    assert counted == "aware against constant: 2 better"


def written(folder: Path, seeds: tuple[int, ...] = (0, 1, 2), *, without: str = "") -> Path:
    """Results of a whole study, made up."""
    found = folder / "results"
    kinds = [(name, seed) for name in NAMES for seed in seeds if f"{name}-{seed}" != without]

    def rows(names: list[tuple[str, int]], right: float | None = None) -> list[Row]:
        return [row(name, seed, 90.0 + seed + len(name) / 10, right) for name, seed in names]

    merges = {f"{count} {method.name}": rows(kinds) for count in GROUPS for method in METHODS}
    merges["6 Task Arithmetic"] = rows(kinds, 40.0)
    results.write(found / "main.json", {"alone": rows(kinds, 41.0), **merges})
    pairs = ["constant + constant", "aware + aware", "constant + aware"]
    mixed = rows([(pair, seed) for pair in pairs for seed in seeds])
    results.write(found / "mixed.json", {"Task Arithmetic": mixed, "TIES": mixed})
    few = rows([(kind.name, seed) for kind in (*EQUAL_STEPS, *OF_FEW) for seed in seeds])
    results.write(found / "sensitivity.json", {"alone": few, "averaging": few, "Task Arithmetic": few})
    views = rows([(name, seed) for name in VARIANTS for seed in seeds], 80.0)
    groups = dict.fromkeys(("alone", "averaging", "Task Arithmetic", "TIES", "DARE"), views)
    results.write(found / "vision.json", {**groups, "base": [replace(views[0], name="base")]})
    grid = [[100.0 + a + b for b in range(7)] for a in range(7)]
    pairs_of = {" and ".join(tasks): dict.fromkeys(landscape.SHOWN, grid) for tasks in GROUPS[2]}
    landscape.write(found / "landscape.json", dict.fromkeys(seeds, pairs_of))
    (found / "time.json").write_text(
        json.dumps({"seconds_a_step": {"constant": CALM, "sam": {"median": 0.5, "least": 0.3}}})
    )
    return found


def test_page_has_every_section_and_names_what_is_missing(tmp_path: Path) -> None:
    page.write_page(written(tmp_path, without="cosine-1"))
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    for title in ("Experts at home", "6 experts", "The paper's gains", "SAM and ASAM", "Time of a step", "Mixed pairs"):
        assert title in text
    for title in ("Scale and learning rate", "The noise table", "Joint loss over two", "Vision"):
        assert title in text
    assert "Seeds 0, 1, 2. Not measured yet: cosine of seed 1." in text
    assert "| sam | 500 | 300 | 2.50 | 2.00 | 2.04 |" in text
    assert (tmp_path / "landscape.png").stat().st_size < 300_000


def test_page_of_one_seed_shows_no_interval_and_no_verdict(tmp_path: Path) -> None:
    page.write_page(written(tmp_path, seeds=(0,)))
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "aware against constant: one seed, no interval" in text
    assert "±" not in text.split("## Experts at home")[1]


def test_what_is_not_trained_is_named_and_left_out(tmp_path: Path) -> None:
    world = World(tmp_path / "world", "base", "en", TASKS, "ja", 256, "x")
    assert missing(world, [0])[0] == "constant-0"
    assert list(trained(world, EQUAL_STEPS, seed=0)) == []
    for task in TASKS:
        folder = tmp_path / "mergopt" / "constant-0" / task
        folder.mkdir(parents=True)
        (folder / "train.json").write_text(json.dumps({"seconds": 12.3, "steps": 123}))
    assert [kind.name for kind in trained(world, EQUAL_STEPS, seed=0)] == ["constant"]
    assert "constant-0" not in missing(world, [0])
    assert "fitted-table-0" in missing(world, [0])
    assert times.seconds_a_step(world, [0, 1]) == {"constant": {"median": 0.1, "least": 0.1}}


def test_digits_are_in_one_part_each_and_seen_as_the_task_says() -> None:
    parts = [images("mirrored", part) for part in PARTS]
    seen_NHW = torch.cat([one.pixels_N1HW for one in parts])[:, 0].flip(2)
    upright_NHW, labels_N = _digits()
    assert torch.equal(seen_NHW.flatten(1).sort(0).values, upright_NHW.flatten(1).sort(0).values)
    assert len(seen_NHW) == len(labels_N)
    mirrored, negative = images("mirrored", "test"), images("negative", "test")
    assert torch.equal(mirrored.labels_N, negative.labels_N)
    assert torch.equal(negative.pixels_N1HW, 1 - mirrored.pixels_N1HW.flip(3))
    turned = images("half-turn", "test").pixels_N1HW
    assert torch.equal(turned, mirrored.pixels_N1HW.flip(2))
    assert len(all_views("pretrain")) == len(VIEWS) * PARTS["pretrain"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_vision_experts_of_every_optimizer_learn(variant: str) -> None:
    torch.set_num_threads(1)
    whole = images("mirrored", "train")
    data = Images(whole.pixels_N1HW[:BATCH], whole.labels_N[:BATCH])
    model = new_model(0)
    before = _loss(model, data)
    train(model, data, optimizer=VARIANTS[variant](_adamw(model, 1e-3), 1e-3, 0), steps=25, seed=0)
    assert _loss(model, data) < before - 0.2


def test_vision_without_noise_is_adamw_to_the_bit() -> None:
    torch.set_num_threads(1)
    data, found = images("mirrored", "train"), []
    for variant in ("constant", "fitted"):
        model = new_model(1)
        train(model, data, optimizer=VARIANTS[variant](_adamw(model, 1e-3), 0.0, 0), steps=3, seed=1)
        found.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))
    assert torch.equal(*found)


def _loss(model: torch.nn.Module, data: Images) -> float:
    with torch.inference_mode():
        logits_NC = model(pixel_values=data.pixels_N1HW[:256]).logits
    return float(torch.nn.functional.cross_entropy(logits_NC, data.labels_N[:256]))
