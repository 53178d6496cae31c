"""The data of the mixing desk predicts what the response predicts, read in Python and by the page's own script."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from tests.unit.response.response_world import ParabolaWorld

from aftermix.config import parse_config
from aftermix.jobs.search.predict import predict
from aftermix.report.sections.desk import build_desk_section
from aftermix.response.measurements import TaskMeasurements
from aftermix.runs.answers.response_files import read_response_files
from aftermix.runs.reader import read_run
from support.desk_reader import DeskReader
from support.desk_runs import (
    add_response,
    needs_node,
    predict_with_model,
    run_script,
    scatter_positions,
    search_settings,
)
from support.report_runs import RunMaker

POINTS = 0.0005
"""A twentieth of a point."""
TASKS = ("gsm8k", "mgsm", "lawbench")


def _take_scores(measured: TaskMeasurements) -> TaskMeasurements:
    return dataclasses.replace(measured, kind="score", loglikelihood_NR=None, items=None)


def _take_references(measured: TaskMeasurements) -> TaskMeasurements:
    """The first answer of an item stands for a reference, whose likelihood tells the score."""
    assert measured.loglikelihood_NR is not None
    likelihood_NR = measured.loglikelihood_NR[:, ::4]
    scores_NI = 1 / (1 + np.exp(-(likelihood_NR + 20)))
    return dataclasses.replace(
        measured, kind="reference", loglikelihood_NR=likelihood_NR, items=None, scores_NI=scores_NI.astype(np.float32)
    )


def _share_documents(measured: TaskMeasurements) -> TaskMeasurements:
    """Three items a document, each fourth without a value, later ones counting more."""
    shares_I = np.arange(1.0, len(measured.shares_I) + 1) * (np.arange(len(measured.shares_I)) % 4 != 1)
    return dataclasses.replace(measured, shares_I=shares_I / shares_I.sum(), documents_I=measured.documents_I // 3)


@dataclasses.dataclass(frozen=True)
class DeskKind:
    """A kind of run that a desk is made for."""

    tasks: tuple[str, ...] = TASKS
    objectives: int = 1
    normalised: bool = False
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    change: Callable[[TaskMeasurements], TaskMeasurements] | None = None
    """Made to the last task."""


KINDS = {
    "weights": DeskKind(change=_share_documents),
    "divided by the sum, one task": DeskKind(tasks=TASKS[:1], normalised=True),
    "settings, scores alone": DeskKind(
        settings={"density": {"low": 0.1, "high": 0.9}, "rescale": [True, False]}, change=_take_scores
    ),
    "two objectives, reference answers": DeskKind(objectives=2, change=_take_references),
}


@pytest.fixture(scope="module")
def desk_page(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`desk_page(kind)` is the page of a desk in its run folder, made once."""
    pages: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in pages:
            pages[name] = _make_desk(tmp_path_factory.mktemp("desk") / "run", KINDS[name])
        return pages[name]

    return make


def _write_desk(run: Path) -> Path:
    """A page of the desk alone: that of a whole run takes seconds to draw."""
    desk = build_desk_section(read_run(run))
    assert desk is not None
    page = run / "desk.html"
    data = f'<script type="application/json" id="desk-data">{desk.payload}</script>'
    page.write_text(f"{data}<script>{desk.script}</script>", encoding="utf-8")
    return page


def _make_desk(folder: Path, kind: DeskKind) -> Path:
    run = RunMaker(vectors=("it", "ja"), tasks=kind.tasks, trials=9, objectives=kind.objectives).write(folder)
    search_settings(run, kind.settings)
    add_response(run, ParabolaWorld(tasks=len(kind.tasks), items=40), normalised=kind.normalised, change=kind.change)
    return _write_desk(run)


@pytest.mark.parametrize("kind", KINDS)
def test_the_data_of_the_page_predicts_what_the_response_does(desk_page, kind: str) -> None:
    page = desk_page(kind)
    positions = scatter_positions(page.parent, 50)

    reader, exact = DeskReader(page), predict_with_model(page.parent, positions)

    for place, position in enumerate(positions):
        for name, found in reader.predict(list(position)).items():
            wanted = exact[name.removesuffix(" (objective)")]
            expected = (wanted.mean_C[place], wanted.low_C[place], wanted.high_C[place])
            assert found == pytest.approx(expected, abs=POINTS), (name, position)


@needs_node
@pytest.mark.parametrize("kind", KINDS)
def test_the_script_of_the_page_predicts_what_the_response_does(desk_page, kind: str) -> None:
    page = desk_page(kind)
    positions = scatter_positions(page.parent, 50)

    ran, exact, reader = run_script(page, positions), predict_with_model(page.parent, positions), DeskReader(page)

    assert ran["names"] == reader.names
    for place, shown in enumerate(ran["positions"]):
        for name, score in zip(ran["names"], shown["scores"], strict=True):
            wanted = exact[name.removesuffix(" (objective)")]
            expected = (wanted.mean_C[place], wanted.low_C[place], wanted.high_C[place])
            assert (score["mean"], score["low"], score["high"]) == pytest.approx(expected, abs=POINTS), name
        assert shown["deviation"] == pytest.approx(reader.compute_deviation(list(positions[place])), rel=1e-6)


@needs_node
def test_the_script_equals_predict(desk_page) -> None:
    page = desk_page("weights")
    position = [0.61, 0.34]

    (shown,) = run_script(page, [position])["positions"]
    printed = predict(page.parent, {"it": 0.61, "ja": 0.34})

    for score, record in zip(shown["scores"], [printed.objective, *printed.tasks.values()], strict=True):
        expected = (record.mean, record.low, record.high)
        assert (score["mean"], score["low"], score["high"]) == pytest.approx(expected, abs=POINTS)


@needs_node
def test_doubts_name_ranges_and_the_distance(desk_page) -> None:
    page = desk_page("weights")
    data = DeskReader(page).data
    near = data["numbers"][-1]

    outside, close, far = run_script(page, [[0.0, 0.5], near, [0.3, 1.0]])["positions"]

    assert outside["doubts"][0] == "it 0.00 is outside its range (0.30 to 1.00)"
    assert close["deviation"] < data["limit"]
    assert close["doubts"] == []
    (doubt,) = far["doubts"]
    times = far["deviation"] / data["median"]
    assert times > 2
    assert doubt == (
        f"no measured merge is near: the deviation is {times:.1f} times the median at the measured ones, above 2"
    )


def test_the_limit_is_twice_the_median_deviation_at_the_measured_merges(desk_page) -> None:
    page = desk_page("weights")
    _, arrays = read_response_files(page.parent)

    assert DeskReader(page).data["limit"] == pytest.approx(2 * np.median(np.sqrt(arrays["variances"])))


def test_the_same_run_gives_the_same_data(desk_page) -> None:
    page = desk_page("settings, scores alone")
    first = page.read_bytes()

    assert _write_desk(page.parent).read_bytes() == first


@needs_node
def test_a_position_as_a_file_and_as_a_command(desk_page) -> None:
    run = desk_page("weights").parent

    (shown,) = run_script(run / "desk.html", [[0.61, 1e-7]])["positions"]
    config = parse_config(yaml.safe_load(shown["recipe"]), where="position.yaml", folder=run)

    assert {name: vector.weight for name, vector in config.vectors.items()} == {"it": 0.61, "ja": 0.0000001}
    assert config.vectors["it"].role == "instruction"
    assert (config.merge.method, config.merge.options) == ("dare_linear", {"density": 0.7})
    assert config.merge.exclude == ("embed_tokens", "lm_head", "rotary")
    assert shown["command"] == f"aftermix merge {run} --weights it=0.61,ja=0.0000001 -o merged"


@needs_node
def test_settings_stand_in_the_file_and_no_command_is_given(desk_page) -> None:
    run = desk_page("settings, scores alone").parent

    (shown,) = run_script(run / "desk.html", [[0.61, 0.25, 0.4, 1]])["positions"]
    config = parse_config(yaml.safe_load(shown["recipe"]), where="position.yaml", folder=run)

    assert config.merge.options == {"density": 0.4, "rescale": False}
    assert shown["command"] == ""
