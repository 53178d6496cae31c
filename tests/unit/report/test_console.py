"""Tables in the terminal: a share is written in points, a score that is none in its own unit."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

from rich.console import Console

from aftermix.api.commands.texts import describe_scores
from aftermix.jobs.merge.model_card import _tabulate_scores
from aftermix.report.console.mixture import print_mixture
from aftermix.report.console.search import print_result
from aftermix.runs.reader import read_best
from aftermix.runs.records import ScoresRecord

MIXTURE = Path(__file__).parents[2] / "data" / "runs-0a1294b" / "mixture"
Edit = Callable[[Path, Callable[[Any], None]], None]


def draw(show: Callable[..., None], run: Path) -> str:
    stream = StringIO()
    show(run, console=Console(file=stream, width=160))
    return stream.getvalue()


def make_loss(task: str, part: str = "tasks") -> Callable[[Any], None]:
    """Change a result so that `task` scores minus ten times what it did, and the objective with it."""

    def change(best: Any) -> None:
        for scores in [best["test"], *(baseline["test"] for baseline in best["baselines"])]:
            for entry in {id(each): each for each in (scores["tasks"][task], scores[part][task])}.values():
                entry["score"] *= -10
                entry["interval"] = [-10 * end for end in reversed(entry["interval"])]
            scores["objective"] = [sum(each["score"] for each in scores["tasks"].values()) / len(scores["tasks"])]
            scores["interval"] = [[scores["objective"][0] - 1, scores["objective"][0] + 1]]

    return change


def test_shares_of_a_search_are_in_points(make_run: Any) -> None:
    run = make_run(trials=12)
    best = read_best(run)
    shown = draw(print_result, run)
    assert "Test items, in points; 95 % bootstrap intervals; difference is winner minus row, paired" in shown
    (winner,) = [line for line in shown.splitlines() if "winner " in line and "difference" not in line]
    low, high = best.test.interval[0] or (0, 0)
    assert f"{100 * best.test.objective[0]:.1f} [{100 * low:.1f}, {100 * high:.1f}]" in winner
    assert f" {100 * best.test.tasks['gsm8k'].score:.1f} " in winner


def test_a_loss_in_a_search_is_as_it_was_measured(make_run: Any, edit_json: Edit) -> None:
    run = make_run(trials=12)
    edit_json(run / "best.json", make_loss("gsm8k"))
    best = read_best(run)
    shown = draw(print_result, run)
    assert "Test items, in points (gsm8k: as they are); 95 % bootstrap intervals" in shown
    (winner,) = [line for line in shown.splitlines() if "winner " in line and "difference" not in line]
    assert f" {best.test.tasks['gsm8k'].score:.3f} " in winner
    assert f" {100 * best.test.tasks['humaneval'].score:.1f} " in winner
    # A mean with a loss is no share, whatever it comes to; nor is a difference of two.
    assert f"{best.test.objective[0]:.3f} [" in winner
    difference = best.baselines[0].difference
    assert f"{difference.objective[0]:.3f} [" in shown


def test_a_loss_in_a_mixture_is_as_it_was_measured(tmp_path: Path, edit_json: Edit) -> None:
    run = shutil.copytree(MIXTURE, tmp_path / "run")
    assert "Test items: utility, and scores in points; 95 % intervals" in draw(print_mixture, run)
    edit_json(run / "best.json", make_loss("numbers", "capabilities"))
    shown = draw(print_mixture, run)
    assert "Test items: utility, and scores in points (numbers: as they are); 95 % intervals" in shown
    (winner,) = [line for line in shown.splitlines() if "winner " in line and "difference" not in line]
    assert " 50.0 " in winner
    assert " -4.000 " in winner
    assert "-400" not in shown


def test_evaluate_and_the_card_of_a_model_too() -> None:
    tasks = {
        "acc": {"score": 0.613, "interval": [0.589, 0.636], "items": 30},
        "loss": {"score": -3.25, "interval": [-3.5, -3.0], "items": 20, "cut_prompts": 2},
        "count": {"score": 12.0, "interval": [9.0, 15.5], "items": 5},
    }
    scores = ScoresRecord.model_validate({"objective": [3.121], "interval": [None], "tasks": tasks})
    assert list(describe_scores(scores)) == [
        "acc: 61.3 [58.9, 63.6] on 30 items",
        "loss: -3.250 [-3.500, -3.000] on 20 items; 2 prompts cut to the model's length",
        "count: 12.000 [9.000, 15.500] on 5 items",
        "objective: 3.121 [unknown]",
    ]
    rows = _tabulate_scores(scores).splitlines()[-3:]
    assert rows == [
        "| acc | 61.3 | 58.9 - 63.6 | 30 |",
        "| loss | -3.250 | -3.500 to -3.000 | 20 |",
        "| count | 12.000 | 9.000 to 15.500 | 5 |",
    ]
    alone = ScoresRecord.model_validate({"objective": [0.613], "interval": [[0.5, 0.7]], "tasks": {}})
    assert list(describe_scores(alone)) == ["objective: 61.3 [50.0, 70.0]"]
