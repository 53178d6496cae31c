"""Another objective from stored scores: nothing is measured again, and the new search starts from there."""

import pytest

from aftermix.config import Objective, SearchConfig
from aftermix.errors import SearchError
from aftermix.runs import journal
from aftermix.runs.trials import ItemMeasurement, Trial
from aftermix.search.objective import ObjectiveSet
from aftermix.search.selection import choose_winner
from aftermix.search.space import SearchSpace
from aftermix.search.study import run_study
from aftermix.search.warm_start import import_trials

SPACE = SearchSpace({"it": (0.3, 1.0), "ja": (0.0, 1.0)}, ("it",))
TASKS = ["a", "b"]
FIRST = SearchConfig(trials=12, startup=8)
SECOND = SearchConfig(trials=5, startup=8, objective=Objective(tasks={"b": 1}, floors={"a": 0.5}))


def measure(point, split):
    weights = point.weights
    if weights["ja"] == 1.0 and split == "search":
        raise RuntimeError("one trial fails")
    return ItemMeasurement({"a": [weights["it"], 1.0], "b": [1 - weights["ja"], weights["it"]]}, {"evaluate": 1.0})


def never(point, split):
    pytest.fail("measured")


def run(folder, config, *, measure=measure, imported=(), space=SPACE, tasks=TASKS):
    return run_study(folder, space=space, config=config, tasks=tasks, measure=measure, imported=imported)


def imported_from(folder, *, config=SECOND, space=SPACE, tasks=TASKS, **options):
    objectives = ObjectiveSet.build(config.objective, tasks=tasks)
    return import_trials(folder, space=space, tasks=tasks, objectives=objectives, **options)


@pytest.fixture(name="first")
def _first(tmp_path):
    folder = tmp_path / "first"
    trials = run(folder, FIRST)
    choose_winner(folder, trials=trials, config=FIRST, tasks=TASKS, measure=measure)
    return folder


def test_trials_are_rescored_renumbered_and_traced_to_their_origin(first):
    before = [trial for trial in journal.read_trials(first) if trial.is_complete]
    after = [one.trial for one in imported_from(first)]
    assert len(before) == 11
    assert [trial.number for trial in after] == list(range(11))
    for old, new in zip(before, after, strict=True):
        assert (new.weights, new.scores) == (old.weights, old.scores)
        assert new.objective == (old.scores["b"],)
        assert new.feasible == (old.scores["a"] >= 0.5)
        assert new.origin == f"first#{old.number}"
        assert new.is_imported
        assert new.seconds == {}


def test_the_new_search_starts_from_the_imported_trials_and_asks_no_prior_twice(first, tmp_path):
    imported = imported_from(first)
    trials = run(tmp_path / "second", SECOND, imported=imported)
    assert trials[:11] == [one.trial for one in imported]
    assert [trial.origin for trial in trials[11:]] == ["sampler"] * 5
    assert journal.read_trials(tmp_path / "second") == trials
    for one in imported:
        assert journal.read_items(tmp_path / "second", "search", one.trial.number) == one.search
    few = SECOND.model_copy(update={"startup": 20})
    fresh = run(tmp_path / "third", few, imported=imported)[11:]
    assert [trial.origin for trial in fresh] == ["prior"] + ["startup"] * 4
    assert fresh[0].weights["ja"] == 1.0


def test_a_search_from_another_run_resumes_like_any(first, tmp_path):
    imported = imported_from(first)
    whole = run(tmp_path / "whole", SECOND, imported=imported)
    run(tmp_path / "cut", SECOND.model_copy(update={"trials": 2}), imported=imported)
    resumed = run(tmp_path / "cut", SECOND)
    assert [(trial.weights, trial.objective) for trial in resumed] == [(t.weights, t.objective) for t in whole]
    assert run(tmp_path / "cut", SECOND, imported=imported, measure=never) == resumed


def test_select_scores_of_the_other_run_are_used_again(first, tmp_path):
    trials = run(tmp_path / "second", SECOND.model_copy(update={"trials": 0}), imported=imported_from(first))
    stored = {path.name for path in (tmp_path / "second/items/select").iterdir()}
    assert len(stored) == 3
    config = FIRST.model_copy(update={"trials": 0})
    selection = choose_winner(tmp_path / "second", trials=trials, config=config, tasks=TASKS, measure=measure)
    assert all(candidate.select for candidate in selection.candidates)


def test_a_killed_import_leaves_no_journal_and_is_done_again(first, tmp_path, monkeypatch):
    imported = imported_from(first)
    written = []

    def killed(path, value):
        if len(written) == 4:
            raise KeyboardInterrupt
        written.append(path)

    monkeypatch.setattr(journal, "write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "second", SECOND, imported=imported)
    monkeypatch.undo()
    assert journal.read_trials(tmp_path / "second") == []
    assert len(run(tmp_path / "second", SECOND, imported=imported)) == 16


def test_trials_outside_narrower_ranges_stay_behind(first):
    narrow = SearchSpace({"it": (0.3, 1.0), "ja": (0.0, 0.4)}, ("it",))
    found = imported_from(first, space=narrow)
    assert 0 < len(found) < 11
    assert all(narrow.contains(one.trial.weights) for one in found)
    with pytest.raises(SearchError, match="expected a complete trial within the file's ranges, found none among 11"):
        imported_from(first, space=SearchSpace({"it": (5.0, 6.0), "ja": (0.0, 0.4)}))


def test_trials_outside_narrower_ranges_are_looked_at_where_asked_for_and_never_chosen(first, tmp_path):
    narrow = SearchSpace({"it": (0.3, 1.0), "ja": (0.0, 0.4)}, ("it",))
    found = imported_from(first, space=narrow, with_outside=True)
    assert [one.source_number for one in found] == [one.source_number for one in imported_from(first)]
    for one in found:
        inside = narrow.contains(one.trial.weights)
        assert one.trial.feasible == (inside and one.trial.scores["a"] >= 0.5)
    # A study takes them, new points keep to the ranges, and it goes on after a stop.
    trials = run(tmp_path / "second", SECOND, imported=found, space=narrow)
    assert all(narrow.contains(trial.weights) for trial in trials[11:])
    assert run(tmp_path / "second", SECOND, imported=found, space=narrow, measure=never) == trials
    with pytest.raises(SearchError, match="expected a complete trial within the file's ranges, found none among 11"):
        imported_from(first, space=SearchSpace({"it": (5.0, 6.0), "ja": (0.0, 0.4)}), with_outside=True)


def test_fewer_tasks_are_fine_and_a_new_one_is_named(first):
    found = imported_from(first, config=SearchConfig(), tasks=["b"])
    assert all(set(one.search) == set(one.trial.scores) == {"b"} for one in found)
    with pytest.raises(SearchError) as caught:
        imported_from(first, config=SearchConfig(), tasks=["a", "b", "c"])
    assert "00000.json: expected stored scores of task 'c', found only a, b. Leave that task out" in str(caught.value)


def test_other_vectors_are_refused(first):
    with pytest.raises(SearchError, match="line 1: expected weights of it, en, found it, ja"):
        imported_from(first, space=SearchSpace({"it": (0.3, 1.0), "en": (0.0, 1.0)}))


def test_a_folder_without_trials_is_refused(tmp_path):
    with pytest.raises(SearchError, match=r"trials\.jsonl: expected a complete trial .* found none among 0"):
        imported_from(tmp_path)


def test_importing_into_a_run_with_other_trials_is_refused(first, tmp_path):
    run(tmp_path / "second", FIRST.model_copy(update={"trials": 2}))
    with pytest.raises(SearchError, match="expected no trials or the same 11 imported ones, found 2 others"):
        run(tmp_path / "second", SECOND, imported=imported_from(first), measure=never)


def test_an_imported_trial_is_known_by_its_origin():
    origins = {
        origin: Trial(number=0, state="failed", weights={}, origin=origin).is_imported
        for origin in ("a#1", "prior", None)
    }
    assert origins == {"a#1": True, "prior": False, None: False}
