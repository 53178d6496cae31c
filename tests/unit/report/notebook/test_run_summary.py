"""A run in a cell's output: what it says, what it draws, and nothing of a stranger's name as markup."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import pytest
from markupsafe import escape
from tests.unit.response.response_world import ParabolaWorld

from aftermix.errors import SearchError
from aftermix.report.context import build_context
from aftermix.report.notebook.desk_frame import MixingDesk
from aftermix.report.notebook.run_charts import COLOURS, ChartSheet
from aftermix.report.notebook.run_summary import summarise_run
from aftermix.report.number_format import DASH
from aftermix.report.sections.desk import build_desk_section
from aftermix.runs.reader import read_run
from support.desk_runs import add_response

PAIR = ("it", "ja")
MakeRun = Callable[..., Path]
IDS = re.compile(r'\bid="([^"]+)"')
REFERENCES = re.compile(r'(?:href="#|url\(#)([^")]+)')


def test_a_finished_run_shows_what_its_report_says(make_run: MakeRun) -> None:
    contents = read_run(make_run(trials=20))
    shown, context = summarise_run(contents), build_context(contents)
    assert context.headline in shown
    for model in context.models:
        assert f"{model.name}</td>" in shown
        assert model.objectives[0].interval in shown
    for vector in context.vectors:
        assert f'{vector.weight}</td><td style="text-align:right' in shown
        assert (vector.ratio or DASH) in shown
    assert re.search(r'<tr style="font-weight:bold"><td style="text-align:left">winner</td>', shown)
    assert shown.count("<svg") == 2
    assert f"<p>Run: {contents.folder}</p>" in shown


def test_an_unfinished_run_shows_its_trials(make_run: MakeRun) -> None:
    shown = summarise_run(read_run(make_run(trials=9, finished=False)))
    assert "unfinished" in shown
    assert "merge weight" not in shown
    assert shown.count("<svg") == 1


def test_several_objectives_have_a_chart_each(make_run: MakeRun) -> None:
    charts = ChartSheet.draw(read_run(make_run(trials=12, objectives=2, vectors=PAIR)))
    assert {"comparison_1", "comparison_2", "progress", "pareto"} <= set(charts)
    assert list(charts) == [name for name in charts if charts[name].name == name]
    shown = charts._repr_html_()
    assert shown.count("<svg") == len(charts) == shown.count("<h4>")


def test_names_are_no_markup(make_run: MakeRun) -> None:
    contents = read_run(make_run("a<b>&'", trials=6, vectors=PAIR))
    assert "a<b>" not in summarise_run(contents)
    assert "a&lt;b&gt;&amp;&#39;" in summarise_run(contents)


def test_drawings_of_several_runs_stand_on_one_page(make_run: MakeRun) -> None:
    shown = [summarise_run(read_run(make_run(str(trials), trials=trials, vectors=PAIR))) for trials in (12, 30)]
    ours, theirs = (set(IDS.findall(html)) for html in shown)
    assert ours
    assert not ours & theirs
    assert all(set(REFERENCES.findall(html)) == set(IDS.findall(html)) for html in shown)


def test_a_drawing_has_all_its_colours_and_is_saved_in_those_of_a_light_page(make_run: MakeRun, tmp_path: Path) -> None:
    charts = ChartSheet.draw(read_run(make_run(trials=12, vectors=PAIR)))
    for name, chart in charts.items():
        assert set(re.findall(r"var\(--([\w-]+)\)", chart.svg)) <= set(COLOURS)
        saved = chart.save(tmp_path / f"{name}.svg").read_text(encoding="utf-8")
        assert ET.fromstring(saved).tag == "{http://www.w3.org/2000/svg}svg"  # noqa: S314 - our own
        assert "var(" not in saved
    assert repr(charts["progress"]) == "RunChart('progress')"


def test_the_desk_is_that_of_the_report_in_a_frame_that_reaches_nothing(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(trials=24, vectors=PAIR, tasks=("gsm8k", "mgsm"))
    add_response(run, ParabolaWorld(items=60, seed=3))
    contents = read_run(run)
    desk, section = MixingDesk.build(contents), build_desk_section(contents)
    assert section is not None
    page = desk.save(tmp_path / "desk.html").read_text(encoding="utf-8")
    assert section.payload in page
    assert section.script in page
    assert f'<meta http-equiv="Content-Security-Policy" content="{escape(section.policy)}">' in page

    frame = desk._repr_html_()
    assert frame.count("<") == 2
    assert 'sandbox="allow-scripts"' in frame


def test_a_run_without_a_response_has_no_desk(make_run: MakeRun) -> None:
    with pytest.raises(SearchError, match=r"expected a run with a stored response, found none\. Take a run of"):
        MixingDesk.build(read_run(make_run(trials=6)))
