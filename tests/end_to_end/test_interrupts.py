"""Ctrl-C and "interrupt the kernel" through the Python interface: the same process goes on, to the same trials."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import aftermix
from support.forked import ForkedProcess

POLL_S = 0.002
OPTIONS = {
    "tasks": ["colours", "numbers"],
    "items": {"search": 10, "select": 10, "test": 10},
    "threads": 1,
    "trials": 12,
    "startup": 4,
    "top": 2,
    "baselines": False,
}
# As a notebook does it: the kernel lives on, with all that it has loaded, and keeps the exception.
CELLS = """
import json, sys
import aftermix

job, kept = json.loads(sys.argv[1]), []
pool = aftermix.Pool(job["base"], job["vectors"], merge={"method": "ties", "density": 0.5})
while True:
    try:
        run = aftermix.search(pool, output=job["run"], resume=bool(kept), **job["options"])
        break
    except KeyboardInterrupt as stop:
        kept.append(stop)
        print(json.dumps([str(stop.__notes__), len(aftermix.open_run(job["run"]).trials)]), flush=True)
print(json.dumps([run.best.weights, run.path.joinpath(".lock").exists()]), flush=True)
"""


def count_lines(file: Path) -> int:
    return file.read_bytes().count(b"\n") if file.exists() else 0


def test_a_search_interrupted_twice_goes_on_in_the_same_process(
    tmp_path: Path, family: Mapping[str, Path], tasks: Path
) -> None:
    run, alone = tmp_path / "run", tmp_path / "alone"
    options = {**OPTIONS, "include_path": str(tasks)}
    vectors = {name: str(family[name]) for name in ("a", "b")}
    job = {"base": str(family["base"]), "vectors": vectors, "run": str(run), "options": options}

    moments: list[Callable[[], bool]] = [
        lambda: count_lines(run / "trials.jsonl") >= 3,
        lambda: any((run / "items" / "select").glob("*")),
    ]
    with ForkedProcess(CELLS, json.dumps(job)) as process:
        told = []
        for moment in moments:
            wait_for(process, moment)
            process.send_signal(signal.SIGINT)
            told.append(json.loads(process.stdout.readline()))
        output, errors = process.communicate()
    assert process.returncode == 0, errors.decode()

    call = f"aftermix.search('{run}/config.yaml', output='{run}', resume=True)"
    assert all(f"every finished trial is kept; go on with\\n  {call}" in notes for notes, _ in told)
    assert 3 <= told[0][1] <= told[1][1] == 12

    pool = aftermix.Pool(family["base"], vectors, merge={"method": "ties", "density": 0.5})
    expected = aftermix.search(pool, output=alone, **options)
    assert expected.best is not None
    assert json.loads(output) == [expected.best.weights, False]
    ours, theirs = (opened.trials.filter(regex="^(?!seconds)") for opened in (aftermix.open_run(run), expected))
    assert ours.equals(theirs)


def wait_for(process: ForkedProcess, moment: Callable[[], bool]) -> None:
    while not moment():
        try:
            process.wait(POLL_S)
        except subprocess.TimeoutExpired:
            continue
        raise AssertionError(f"ended with {process.returncode} before the moment came")
