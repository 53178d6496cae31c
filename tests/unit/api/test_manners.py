"""Through the API nothing is printed, and the process is as it was: seen from a process of its own."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from textwrap import dedent

import pytest

from aftermix import progress
from conftest import run_cli

Family = Mapping[str, Path]
SNAPSHOT = """
import json, logging, os, random, signal, sys, warnings
import datasets, numpy, optuna, torch, transformers
from transformers.utils import logging as told

random.seed(5); numpy.random.seed(6); torch.manual_seed(7)
torch.set_num_threads(2)
os.environ["ACCELERATE_USE_CPU"] = "1"
os.environ["KEPT"] = "yes"
warnings.filterwarnings("ignore", message="mine")

def take():
    return {
        "threads": torch.get_num_threads(), "interop": torch.get_num_interop_threads(),
        "dtype": str(torch.get_default_dtype()), "grad": torch.is_grad_enabled(),
        "matmul": torch.get_float32_matmul_precision(),
        "deterministic": (torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark),
        "random": hash(random.getstate()), "numpy": hash(str(numpy.random.get_state())),
        "torch": hash(torch.get_rng_state().numpy().tobytes()),
        "environment": sorted(os.environ.items()),
        "transformers": (told.get_verbosity(), told.is_progress_bar_enabled()),
        "datasets": (datasets.logging.get_verbosity(), datasets.utils.are_progress_bars_disabled()),
        "optuna": optuna.logging.get_verbosity(),
        "root": (str(logging.getLogger().handlers), logging.getLogger().level, logging.root.manager.disable),
        "signals": [str(signal.getsignal(number)) for number in signal.valid_signals()],
        "warnings": str(warnings.filters), "hooks": (str(sys.excepthook), str(sys.stdout), str(sys.stderr)),
        "folder": os.getcwd(),
    }

before = take()
import aftermix
given = json.loads(sys.argv[1])
pool = aftermix.Pool(given["base"], given["vectors"], merge={"exclude": []})
"""
CHECK = """
after = take()
changed = {name: (before[name], after[name]) for name in before if before[name] != after[name]}
assert not changed, changed
"""
WORK = {
    "merge": """
        merged = pool.merge({"a": 0.5, "b": 0.5}, method="ties", density=0.5)
        merged.save(given["output"])
        assert sum(1 for _ in merged.tensors()) > 10
        assert merged.model().training is False
        assert pool.problems() == []
    """,
    "search": """
        items = {"search": 12, "select": 6, "test": 6}
        sections = {"tasks": ["colours"], "include_path": given["tasks"], "items": items}
        study = {"trials": 5, "startup": 4, "top": 1, "baselines": False}
        run = aftermix.search(pool, output=given["output"], threads=1, **study, **sections)
        assert len(run.trials) == 5 and run.report().is_file()
        assert run.predict({"a": 0.5}).inside
        aftermix.evaluate(pool, weights={"a": 0.5}, threads=1, **sections)
        study = aftermix.Study(pool, startup=1)
        for _ in range(3):
            for point in study.ask(2):
                study.tell(point.number, {"x": point.weights["a"]})
    """,
    "train": """
        open(given["output"] + ".txt", "w").write("one two three four five\\n" * 200)
        data = {"cats": {"data": given["output"] + ".txt", "tokens": 512}}
        made = aftermix.train(pool, output=given["output"], datasets=data, context=32, batch_size=2, threads=1)
        assert set(made) == {"cats"}
    """,
}


def test_nothing_is_printed_and_the_process_is_as_it_was(family: Family, tasks: Path, tmp_path: Path) -> None:
    vectors = {name: str(family[name]) for name in ("a", "b")}
    given = {"base": str(family["base"]), "vectors": vectors, "tasks": str(tasks), "folder": str(tmp_path)}
    works = (f'given["output"] = given["folder"] + "/{name}"\n{dedent(work)}{CHECK}' for name, work in WORK.items())
    code = SNAPSHOT + "\n".join(works)
    done = subprocess.run([sys.executable, "-c", code, json.dumps(given)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_lines_go_to_the_logger_and_the_command_line_writes_them(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.INFO, logger="aftermix"):
        progress.say("a line")
        progress.warn("100 % of it")
        assert list(progress.bar([1, 2], label="quiet")) == [1, 2]
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("INFO", "a line"),
        ("WARNING", "100 % of it"),
    ]
    assert capfd.readouterr() == ("", "")

    with progress.shown(), progress.shown():
        progress.say("a line")
        assert list(progress.bar([1, 2], label="loud")) == [1, 2]
    told = capfd.readouterr()
    assert told.out == ""
    assert told.err.count("a line") == 1
    assert "loud" in told.err
    progress.warn("after it")
    assert capfd.readouterr() == ("", "")


def test_the_command_line_leaves_the_logger_as_it_was(tmp_path: Path) -> None:
    logger = logging.getLogger("aftermix")
    before = list(logger.handlers), logger.level, logger.propagate
    assert run_cli("merge", tmp_path / "missing.yaml", "-o", tmp_path / "out") == 2
    assert (list(logger.handlers), logger.level, logger.propagate) == before
    assert not progress.is_shown()
