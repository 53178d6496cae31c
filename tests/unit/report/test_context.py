"""What the report says: verdict, tables, cost and wording, from records alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aftermix.report.context import build_context, choose_run_scale
from aftermix.report.number_format import POINTS, RAW, choose_scale, format_duration
from aftermix.report.tables.cost import summarise_cost
from aftermix.report.tables.vectors import WeightBar, place_bar
from aftermix.report.trials import find_nondominated
from aftermix.runs.reader import read_run
from aftermix.runs.trials import Trial


def _view(run):
    return build_context(read_run(run))


@pytest.mark.parametrize(
    ("gap", "standing", "headline"),
    [
        (0.032, "better", "3.2 above the best baseline."),
        (0.005, "level", "level with the best baseline within noise."),
        (-0.005, "level", "level with the best baseline within noise."),
        (-0.05, "worse", "5.0 below the best baseline."),
    ],
)
def test_verdict_follows_the_interval_of_the_paired_difference(make_run, gap, standing, headline):
    view = _view(make_run(trials=12, gap=gap))
    (verdict,) = view.verdicts

    assert verdict.standing == standing
    assert view.headline.endswith(headline)
    assert view.headline.startswith(f"The merge scores {verdict.score} points on test items, ")
    assert verdict.difference == POINTS.format_signed(gap)
    assert verdict.difference_interval == f"{POINTS.format_signed(gap - 0.018)} to {POINTS.format_signed(gap + 0.018)}"


def test_level_and_worse_verdicts_name_the_baseline_that_needs_no_search(make_run, edit_json):
    level = _view(make_run("level", trials=12, gap=0.0)).verdicts[0]
    worse = _view(make_run("worse", trials=12, gap=-0.05)).verdicts[0]

    assert f"cannot tell the winner from “{level.baseline}”" in level.advice
    assert f"The search did not pay on this objective: “{worse.baseline}” scores higher" in worse.advice


def test_verdict_without_an_interval_or_without_baselines_says_so(make_run, edit_json):
    run = make_run("a", trials=12)
    edit_json(run / "best.json", lambda best: [b["difference"].update(interval=[None]) for b in best["baselines"]])
    bare = _view(make_run("b", trials=12, baselines=False))

    assert _view(run).verdicts[0].badge == "Difference without an interval"
    assert bare.verdicts[0].badge == "Not compared"
    assert bare.headline.endswith("on test items, and no baseline was measured beside it.")


def test_several_objectives_are_judged_one_by_one(make_run, edit_json):
    run = make_run(trials=12, objectives=2)
    assert _view(run).headline == "The merge is better than the best baseline on all 2 objectives."

    def spoil(best):
        for baseline in best["baselines"]:
            baseline["difference"]["interval"][1] = [-0.01, 0.02]

    edit_json(run / "best.json", spoil)
    view = _view(run)

    assert view.objectives == ("gsm8k only", "ja_leaderboard_mgsm only")
    assert [verdict.standing for verdict in view.verdicts] == ["better", "level"]
    assert view.headline == (
        "Of 2 objectives, the merge is better than the best baseline on 1 and within noise of the best baseline on 1."
    )


def test_models_are_sorted_by_score_and_the_highest_is_marked(make_run):
    view = _view(make_run(trials=12, gap=-0.05))
    scores = [float(row.objectives[0].text) for row in view.models]

    assert scores == sorted(scores, reverse=True)
    assert [row.objectives[0].top for row in view.models] == [True] + [False] * (len(scores) - 1)
    assert [row.leads == () for row in view.models] == [row.winner for row in view.models]
    assert len(view.models) == 16


def test_rows_say_how_each_model_was_made(make_run):
    recipes = {row.name: row.recipe for row in _view(make_run(vectors=("it", "ja", "math"), trials=12)).models}

    assert recipes["base"] == "no vector added"
    assert recipes["it"] == "this instruction model alone"
    assert recipes["ja"] == "this expert alone"
    assert recipes["ja + 0.6 it"] == "task_arithmetic: ja 1.00, it 0.60"
    assert recipes["uniform ties"] == "ties: each vector 0.33"
    assert recipes["winner"].startswith("dare_linear: it 0.")


def test_settings_are_told_once(make_run, edit_json):
    run = make_run(trials=6)
    edit_json(run / "best.json", lambda best: best["winner"].update(exclude=["lm_head"]))
    edit_json(run / "best.json", lambda best: best["baselines"][0].update(kind="uniform", method="ties", density=0.5))
    view = _view(run)
    facts = dict(view.merged)

    assert facts["Options"] == "density 0.7"
    assert facts["Left at the base's values"] == "lm_head"
    assert facts["Objective"] == "mean of gsm8k, ja_leaderboard_mgsm, humaneval, lawbench"
    assert facts["Seeds"] == "search 0, merge 0, items 0"
    assert "ties at density 0.5" in [row.recipe for row in view.models]


def test_vectors_show_weight_ratio_and_tokens(make_run, edit_json):
    run = make_run(vectors=("it", "ja", "math"), trials=12)
    weights, ratios = {"it": 0.6, "ja": -0.5, "math": 0.25}, {"ja": 0.0, "math": 1.0}
    edit_json(run / "best.json", lambda best: best.update(weights=weights, ratios=ratios))
    it, ja, math = _view(run).vectors

    assert (it.weight, it.ratio, it.tokens, it.range) == ("0.60", "", "", "0.30 to 1.00")
    assert (ja.weight, ja.ratio, ja.tokens) == ("\N{MINUS SIGN}0.50", "0.0 %", "250.0 M")
    assert math.ratio == "100.0 %"
    # The track reaches from -0.5 to 1: zero lies a third of the way.
    assert ja.bar == WeightBar(left=0.0, width=33.33, zero=33.33)
    assert it.bar == WeightBar(left=33.33, width=40.0, zero=33.33)


def test_cost_leaves_out_imported_trials(make_run):
    run = read_run(make_run(trials=10, imported=5))
    cost = summarise_cost(run)
    own = [trial.seconds for trial in run.trials if not trial.is_imported]

    assert cost.trials == 10
    assert [part.name for part in cost.phases] == ["combine", "evaluate", "overhead"]
    assert sum(part.percent for part in cost.phases) == pytest.approx(100, abs=0.02)
    assert cost.phases[1].total == format_duration(sum(seconds["evaluate"] for seconds in own))
    assert [part.name for part in cost.stages] == ["prepare", "search", "select", "test"]


def test_overlap_and_missed_floors_are_told(make_run):
    view = _view(make_run(trials=12, scheme="first", floors={"gsm8k": 0.9}))

    assert "Search and select items overlap (item scheme “first”" in view.warnings[0]
    assert view.floors == "Floors not met by the winner on the select items: gsm8k at least 90.0."
    assert not view.floors_met


def test_optimism_is_put_in_words(make_run, edit_json):
    run = make_run(trials=12)

    def losing(best):
        best["search"]["objective"], best["test"]["objective"] = [0.62], [0.60]

    edit_json(run / "best.json", losing)
    assert "score fell by 2.0 points" in _view(run).optimism

    edit_json(run / "best.json", lambda best: best["search"].update(objective=[0.59]))
    assert "score did not fall: no optimism shows" in _view(run).optimism


def test_finished_trials_without_a_result_are_told_apart_from_an_interrupted_search(make_run):
    view = _view(make_run(trials=6, finished=False, failed=range(6)))

    assert view.headline == "All 6 trials have ended, but the winner is not chosen and measured yet."
    assert view.warnings == ("No trial has a score yet: see the failed trials below.",)
    assert {row.reason[:24] for row in view.failures} == {"layers.3.mlp.up_proj.wei"}


def test_scores_outside_zero_to_one_are_shown_as_they_are(make_run, edit_json):
    run = make_run(trials=6)
    edit_json(run / "best.json", lambda best: best["test"]["tasks"]["gsm8k"].update(score=-2.345))

    assert choose_run_scale(read_run(run)) is RAW
    assert RAW.format(-2.345) == "\N{MINUS SIGN}2.345"
    assert choose_scale([0.0, 1.0]) is POINTS


def test_origins_count_states(make_run):
    rows = {row.label: row for row in _view(make_run(trials=20, imported=3, failed=(4, 15), pruned=(16,))).origins}

    assert (rows["imported"].complete, rows["prior"].complete, rows["prior"].failed) == (3, 4, 1)
    assert (rows["sampler"].failed, rows["sampler"].pruned) == (1, 1)


POINT = st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 4))


@given(st.lists(POINT, min_size=1, max_size=12))
def test_front_agrees_with_the_definition(points):
    trials = [
        Trial(number=place, state="complete", weights={}, objective=point, feasible=True)
        for place, point in enumerate(points)
    ]

    front = find_nondominated(trials)

    for place, point in enumerate(points):
        beaten = False
        for other in points:
            no_worse = [other[side] >= point[side] for side in range(3)]
            better = [other[side] > point[side] for side in range(3)]
            beaten = beaten or (all(no_worse) and any(better))
        assert (place in front) == (not beaten)


@given(st.floats(-2, 2), st.floats(-2, 1), st.floats(0.01, 2))
def test_weight_bar_stays_on_its_track(value, low, span):
    bar = place_bar(value, low, low + span)

    assert bar.left >= -0.01
    assert bar.left + bar.width <= 100.02
    assert 0 <= bar.zero <= 100


@pytest.mark.parametrize(
    ("score", "signed"),
    [(0.032, "+3.2"), (-0.004, "\N{MINUS SIGN}0.4"), (0.0, "0.0"), (-0.0004, "0.0"), (0.0004, "0.0")],
)
def test_differences_carry_a_sign_unless_they_round_to_zero(score, signed):
    assert POINTS.format_signed(score) == signed
