"""The mixing desk as a section: sliders, buttons, and a table that needs no script."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.response.response_world import ParabolaWorld

from aftermix.errors import AftermixError
from aftermix.report.number_format import POINTS
from aftermix.report.page import write_report
from aftermix.report.sections.desk import DeskSection, build_desk_section
from aftermix.runs.reader import read_run
from support.desk_runs import add_response, predict_with_model, search_settings

TASKS = ("gsm8k", "mgsm")


def _build(run: Path) -> DeskSection:
    desk = build_desk_section(read_run(run))
    assert desk is not None
    return desk


def test_a_run_without_a_response_has_no_desk(make_run) -> None:
    assert build_desk_section(read_run(make_run(trials=6))) is None


def test_sliders_reach_the_range_and_every_button(make_run) -> None:
    run = make_run(vectors=("it", "ja"), tasks=TASKS, trials=8)
    add_response(run, ParabolaWorld(items=20))
    weights = read_run(run).best.weights

    desk = _build(run)

    assert [(axis.name, axis.low, axis.high, axis.least, axis.most) for axis in desk.axes] == [
        ("it", 0.3, 1.0, 0.0, 1.0),
        ("ja", 0.0, 1.0, 0.0, 1.0),
    ]
    assert [(preset.name, preset.position) for preset in desk.presets] == [
        ("winner", (weights["it"], weights["ja"])),
        ("uniform", (0.5, 0.5)),
        ("base", (0.0, 0.0)),
    ]
    assert desk.marks == (round(100 * weights["it"], 2), round(100 * weights["ja"], 2))


def test_every_member_of_the_front_has_a_button(make_run, edit_json) -> None:
    run = make_run(vectors=("it", "ja"), tasks=TASKS, trials=8, objectives=2)
    add_response(run, ParabolaWorld(items=20))
    winner = read_run(run).best.winner.trial
    others = [number for number in range(8) if number != winner][:2]
    edit_json(run / "best.json", lambda best: best.update(front=[winner, *others]))

    desk = _build(run)

    assert [preset.name for preset in desk.presets] == ["winner", "uniform", "base", *(f"trial {n}" for n in others)]
    assert desk.scores == ("gsm8k only", "mgsm only", "gsm8k", "mgsm")


def test_the_table_has_what_was_predicted_and_what_was_measured(make_run) -> None:
    run = make_run(vectors=("it", "ja"), tasks=TASKS, trials=8)
    add_response(run, ParabolaWorld(items=20))
    best, trials = read_run(run).best, read_run(run).trials

    desk = _build(run)

    method = "uniform dare_linear"
    assert [(row.name, row.source) for row in desk.rows] == [
        ("winner", "predicted"),
        ("winner", f"measured, search items (trial {best.winner.trial})"),
        ("winner", "measured, test items"),
        ("uniform", "predicted"),
        ("uniform", f"measured, test items ({method})"),
        ("base", "predicted"),
        ("base", "measured, test items (base)"),
    ]
    predicted = predict_with_model(run, [preset.position for preset in desk.presets])
    scores = trials[best.winner.trial].scores
    measured = [best.test.objective[0], *(best.test.tasks[task].score for task in TASKS)]
    for place, name in enumerate(desk.scores):
        cell = desk.rows[0].cells[place]
        assert cell.text == POINTS.format(predicted[name].mean_C[0])
        assert cell.interval == POINTS.format_interval((predicted[name].low_C[0], predicted[name].high_C[0]))
        assert desk.rows[2].cells[place].text == POINTS.format(measured[place])
    assert [cell.text for cell in desk.rows[1].cells[1:]] == [POINTS.format(scores[task]) for task in TASKS]


def test_settings_are_sliders_and_choices(make_run) -> None:
    run = make_run(vectors=("it", "ja"), tasks=TASKS, trials=9)
    search_settings(run, {"density": {"low": 0.2, "high": 0.6, "step": 0.1}, "rescale": [True, False]})
    add_response(run, ParabolaWorld(items=20))

    density, rescale = _build(run).axes[2:]

    assert (density.kind, density.low, density.high, density.step) == ("number", 0.2, 0.6, 0.1)
    assert (rescale.kind, rescale.labels) == ("choice", ("true", "false"))


def test_a_damaged_response_keeps_the_old_report(make_run) -> None:
    run = make_run(vectors=("it", "ja"), tasks=TASKS, trials=8)
    add_response(run, ParabolaWorld(items=20))
    (run / "report.html").write_text("old", encoding="utf-8")
    (run / "response.safetensors").unlink()

    with pytest.raises(AftermixError, match="expected a fitted response, found no such file"):
        write_report(run)
    assert (run / "report.html").read_text(encoding="utf-8") == "old"


def test_an_unfinished_run_opens_at_the_uniform_merge(make_run) -> None:
    run = make_run(vectors=("it", "ja"), tasks=TASKS, trials=8)
    add_response(run, ParabolaWorld(items=20))
    (run / "best.json").unlink()

    desk = _build(run)

    assert [preset.name for preset in desk.presets] == ["uniform", "base"]
    assert desk.marks == (None, None)
    assert '"start":[0.5,0.5]' in desk.payload
