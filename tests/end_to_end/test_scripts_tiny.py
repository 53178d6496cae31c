"""Every script of examples, studies and benchmarks runs to its end on tiny input: `--tiny FOLDER`.

A script is a file with a command line of its own. It runs in this process, as its command would, so that all of them
import torch and transformers once.
"""

from __future__ import annotations

import gc
import re
import runpy
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
PLACES = ("examples", "studies", "benchmarks")
MAIN = re.compile(r'^if __name__ == "__main__":', re.MULTILINE)
ANSWER_S = 120


def scripts() -> dict[str, list[Path]]:
    """All scripts, by folder."""
    found: dict[str, list[Path]] = {}
    for path in sorted(path for place in PLACES for path in (ROOT / place).rglob("*.py")):
        if MAIN.search(path.read_text(encoding="utf-8")):
            found.setdefault(str(path.parent.relative_to(ROOT)), []).append(path)
    return found


SCRIPTS = scripts()


@pytest.fixture(scope="session")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all tiny runs of this process: the studies share one world."""
    return tmp_path_factory.mktemp("tiny")


@pytest.fixture(autouse=True)
def same_process() -> Iterator[None]:
    """Scripts choose for their process, which here is that of other tests too."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
    gc.unfreeze()


def test_scripts_are_found() -> None:
    assert {"examples/demo", "examples/smollm2", "studies/world", "studies/obim", "benchmarks"} <= set(SCRIPTS)


@pytest.mark.parametrize("folder", SCRIPTS)
def test_every_script_runs_on_tiny_input(
    folder: str, scratch: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.syspath_prepend(str(ROOT / folder))
    before = committed()

    for script in SCRIPTS[folder]:
        # A script without a command line would not answer, but run for hours.
        with pytest.raises(SystemExit) as end, at_most(ANSWER_S):
            run(script, "--help")
        assert end.value.code == 0
        assert "--tiny" in capfd.readouterr().out, f"{script.relative_to(ROOT)} has no option --tiny"
        # Each training looks for garbage several times, and modules are none: that would be half of all time.
        gc.freeze()
        run(script, "--tiny", str(scratch))

    assert committed() == before


def run(script: Path, *arguments: str) -> None:
    """The command `python SCRIPT ARGUMENTS`; studies are run as modules, as their pages say."""
    known, argv = set(sys.modules), sys.argv
    sys.argv = [str(script), *arguments]
    try:
        name = ".".join(script.relative_to(ROOT).with_suffix("").parts)
        if name.startswith("studies."):
            sys.modules.pop(name, None)  # runpy warns of what is imported already
            runpy.run_module(name, run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(str(script), run_name="__main__")
    finally:
        sys.argv = argv
        forget(set(sys.modules) - known, script.parent)


def forget(names: set[str], folder: Path) -> None:
    """Drop modules that lie beside a script: their names, `tasks` or `merge`, are others' too."""
    for name in names:
        file = getattr(sys.modules[name], "__file__", None)
        if "." not in name and file is not None and Path(file).parent == folder:
            del sys.modules[name]


def committed() -> dict[str, str]:
    """Hashes of all that a study or example has written before and a tiny run must not touch."""
    paths = [path for place in PLACES for path in (ROOT / place).rglob("*") if path.is_file() and path.suffix != ".pyc"]
    return {str(path): sha256(path.read_bytes()).hexdigest() for path in paths}


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """Raise :class:`TimeoutError` when the block takes longer."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"no answer within {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
