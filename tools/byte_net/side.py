"""One side of the comparison: a version checked out, all scenarios run with it, and what they leave kept apart."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from .compare import NOTE
from .scenario import Scenario

HERE = Path(__file__).resolve().parent


LEFT_OUT = (".git", ".venv", "runs", "__pycache__", "*.egg-info", ".*_cache", ".hypothesis", "build", "dist")


@dataclass(frozen=True)
class Scratch:
    """The folders that both sides use in turn, so that absolute paths in outputs are the same."""

    folder: Path

    @property
    def tree(self) -> Path:
        """The version that is checked out."""
        return self.folder / "tree"

    @property
    def world(self) -> Path:
        """Models, tasks and texts; made once, only read."""
        return self.folder / "world"

    @property
    def work(self) -> Path:
        """A folder for each scenario, in which its commands run."""
        return self.folder / "work"

    def kept(self, side: str, scenario: Scenario) -> Path:
        """Return the folder to which what a side leaves of `scenario` is moved."""
        return self.folder / "sides" / side / scenario.name

    def has(self, side: str, scenario: Scenario, version: str) -> bool:
        """Return whether a side holds what the commit `version` left of this very scenario."""
        note = self.kept(side, scenario) / NOTE
        return not Path(version).is_dir() and note.is_file() and note.read_text() == describe(version, scenario)

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Hold the scratch folder alone: two comparisons in one place would overwrite each other's files."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                sys.exit(f"{self.folder}: another comparison is at work here. Wait for it, or name another --scratch.")
            yield

    def prepare(self, *, afresh: bool) -> None:
        """Make the world unless it is there, or make it `afresh`."""
        if afresh:
            shutil.rmtree(self.world, ignore_errors=True)
        if self.world.exists():
            return
        making = self.folder / "world.incomplete"
        shutil.rmtree(making, ignore_errors=True)
        command = [sys.executable, str(HERE / "world.py"), str(making)]
        subprocess.run(command, check=True, env=self.environment(), stderr=subprocess.DEVNULL)
        making.rename(self.world)

    def environment(self) -> dict[str, str]:
        """Return the environment of all commands: one thread, no network, caches of their own, a fixed terminal."""
        cache = self.folder / "cache"
        kept = {name: value for name, value in os.environ.items() if name in ("PATH", "LD_LIBRARY_PATH", "SystemRoot")}
        return kept | {
            "PYTHONPATH": str(self.tree / "src"),
            "PYTHONHASHSEED": "0",
            "HOME": str(cache / "home"),
            "HF_HOME": str(cache / "hf"),
            "XDG_CACHE_HOME": str(cache / "xdg"),
            "MPLCONFIGDIR": str(cache / "matplotlib"),
            "TMPDIR": str(cache / "tmp"),
            "HF_HUB_OFFLINE": "1",
            "HF_DATASETS_OFFLINE": "1",
            "TRANSFORMERS_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "COLUMNS": "120",
            "LINES": "40",
            "TERM": "dumb",
            "LANG": "C.UTF-8",
            "LC_ALL": "C.UTF-8",
            "TZ": "UTC",
        }


def run_side(version: str, scenarios: Sequence[Scenario], *, scratch: Scratch, side: str) -> None:
    """Check `version` out, run `scenarios` with it, and keep what they leave under the name `side`."""
    for folder in (scratch.tree, scratch.work, scratch.folder / "cache"):
        shutil.rmtree(folder, ignore_errors=True)
    check_out(version, scratch.tree)
    for name in ("home", "tmp"):
        (scratch.folder / "cache" / name).mkdir(parents=True)

    # The server gets all commands at once; scenarios share nothing but its libraries.
    plan = scratch.folder / "plan.json"
    plan.write_text(json.dumps([row for scenario in scenarios for row in plan_scenario(scenario, scratch)]))
    command = [sys.executable, str(HERE / "serve.py"), str(plan)]
    subprocess.run(command, check=True, env=scratch.environment(), cwd=scratch.folder)

    for scenario in scenarios:
        kept = scratch.kept(side, scenario)
        keep(scenario, scratch, kept)
        (kept / NOTE).write_text(describe(version, scenario))


def describe(version: str, scenario: Scenario) -> str:
    """Return a text that is the same as long as version and scenario are."""
    return f"{run_git('rev-parse', version).decode()}{scenario!r}\n" if not Path(version).is_dir() else f"{version}\n"


def run_git(*arguments: str) -> bytes:
    """Return the output of git in the repository that this file lies in."""
    done = subprocess.run(["git", *arguments], check=False, cwd=HERE.parents[1], capture_output=True)
    if done.returncode:
        sys.exit(f"{arguments[-1]}: is neither a folder nor a commit: {done.stderr.decode().strip()}")
    return done.stdout


def check_out(version: str, tree: Path) -> None:
    """Lay the sources of a commit, or of a folder, at `tree`."""
    if Path(version).is_dir():
        shutil.copytree(version, tree, ignore=shutil.ignore_patterns(*LEFT_OUT), symlinks=True)
        return
    archive = run_git("archive", version)
    tree.mkdir(parents=True)
    subprocess.run(["tar", "-x", "-C", str(tree)], input=archive, check=True)


def plan_scenario(scenario: Scenario, scratch: Scratch) -> list[dict[str, object]]:
    """Write the files of `scenario`, and return its commands as rows of the server's plan."""
    work = scratch.work / scenario.name
    folder = scratch.tree if scenario.runs_in_tree else work
    (work / "commands").mkdir(parents=True)
    scenario.write_files(folder, scratch.world)
    rows: list[dict[str, object]] = []
    for number, command in enumerate(scenario.commands, 1):
        arguments = command.arguments(scratch.world)
        output = work / "commands" / f"{number:03d}-{arguments[0] if arguments else 'nothing'}.output"
        rows.append({
            "scenario": scenario.name,
            "folder": str(folder),
            "arguments": arguments,
            "output": str(output),
            "kill": asdict(command.kill) if command.kill else None,
            "is_fresh": command.is_fresh,
        })  # fmt: skip
    return rows


def keep(scenario: Scenario, scratch: Scratch, kept: Path) -> None:
    """Move what `scenario` left to `kept`, in place of what an earlier call left there."""
    shutil.rmtree(kept, ignore_errors=True)
    kept.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(scratch.work / scenario.name, kept)
    runs = scratch.tree / "runs"
    if scenario.runs_in_tree and runs.exists():
        shutil.move(runs, kept / "runs")
