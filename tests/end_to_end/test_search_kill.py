"""SIGKILL a real search at random instants, and at every kind of write: no trial is lost, none comes out different."""

import json
import os
import random
import signal
import subprocess
import sys

import pytest

TRIALS = 26

SEARCH = """
import os, signal, sys
from pathlib import Path
from aftermix import files
from aftermix.config import Objective, SearchConfig
from aftermix.search.space import ChoiceSet, NumberRange
from aftermix.runs.trials import ItemMeasurement
from aftermix.search.space import SearchSpace
from aftermix.search.study import run_study

folder, preset, fatal_sync = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
ratio, order = NumberRange(0.1, 0.9, 0.1), ChoiceSet(("rotation", ("ja", "en")))
kinds = {"ratio.ja": ratio, "ratio.en": ratio, "order": order}
settings = kinds if preset == "settings" else {}
shares = tuple(name for name in settings if name.startswith("ratio."))
own = {"ratio.ja": 0.5, "ratio.en": 0.5, "order": "rotation"} if settings else {}
real_sync, syncs = os.fsync, 0

def sync(handle):
    # The item file is complete but not in place, or the line is written but not forced: die there.
    global syncs
    syncs += 1
    if syncs == fatal_sync:
        os.kill(os.getpid(), signal.SIGKILL)
    real_sync(handle)

files.os.fsync = sync

def measure(point, split):
    weights = point.weights
    print("measuring", flush=True)
    if 0.6 < weights["ja"] < 0.75:
        raise RuntimeError("this merge does not answer")
    near = {"a": abs(weights["it"] - 0.7), "b": abs(weights["ja"] - 0.2) + abs(weights["en"])}
    near["a"] += abs(point.settings.get("ratio.ja", 0.3) - 0.3) + 0.1 * (point.settings.get("order") == "rotation")
    return ItemMeasurement({t: [float(d < 0.03 * k) for k in range(1, 30)] for t, d in near.items()})

run_study(
    folder,
    space=SearchSpace({"it": (0.3, 1.0), "ja": (0.0, 1.0), "en": (-1.0, 1.0)}, ("it",), settings, shares, own),
    config=SearchConfig(
        trials=TRIALS,
        startup=10,
        preset="paper" if preset == "paper" else "default",
        objective=Objective(floors={"b": 0.3}),
        max_consecutive_failures=TRIALS,
    ),
    tasks=["a", "b"],
    measure=measure,
)
""".replace("TRIALS", str(TRIALS))


def start(folder, preset, fatal_sync=0):
    return subprocess.Popen(
        [sys.executable, "-c", SEARCH, str(folder), preset, str(fatal_sync)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONHASHSEED": "random"},
    )


def outcome(folder):
    """Everything of the journal but the clock, and the item files to the byte."""
    lines = [json.loads(line) for line in (folder / "trials.jsonl").read_text().splitlines()]
    for line in lines:
        del line["seconds"]
    return lines, {path.name: path.read_bytes() for path in (folder / "items" / "search").glob("[0-9]*.json")}


def whole_lines(folder):
    path = folder / "trials.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


ONE_MORE = pytest.mark.whole


@pytest.mark.parametrize(
    "preset", ["default", pytest.param("paper", marks=ONE_MORE), pytest.param("settings", marks=ONE_MORE)]
)
def test_a_search_killed_again_and_again_ends_as_the_uninterrupted_one(tmp_path, preset):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    with start(whole, preset) as process:
        process.communicate()
    assert process.returncode == 0
    instants = random.Random(preset)
    for fatal_sync in (0, 4, 0, 7, 0):
        before = whole_lines(cut)
        with start(cut, preset, fatal_sync) as process:
            if not fatal_sync:
                for _ in range(instants.randint(1, 5)):
                    process.stdout.readline()
                # Between 0 and about one trial later, so that the kill falls anywhere in a trial.
                for _ in range(instants.randrange(400_000)):
                    pass
                process.kill()
            process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert before <= whole_lines(cut) < TRIALS
    assert whole_lines(cut) >= 6
    with start(cut, preset) as process:
        process.communicate()
    assert process.returncode == 0
    assert outcome(cut) == outcome(whole)
    lines, items = outcome(cut)
    assert [line["number"] for line in lines] == list(range(TRIALS))
    assert {line["state"] for line in lines} == {"complete", "failed"}
    assert len(items) == sum(line["state"] == "complete" for line in lines)
