"""The studies run from an empty cache on a tiny world, go on from what was measured, and write their page."""

from __future__ import annotations

import gzip
import json
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from support.forked import run_forked

ROOT = Path(__file__).resolve().parents[2]
TASK = """\
task: continue_{domain}
dataset_path: json
dataset_kwargs: {{data_files: {{test: continue_{domain}.jsonl}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{context}}}}"
target_delimiter: ""
doc_to_choice: choices
doc_to_target: answer
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
"""
DOMAINS = ("en", "a", "b", "c")


def write_texts(path: Path, texts: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress("".join(json.dumps({"text": text}) + "\n" for text in texts).encode()))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, family: dict[str, Path]) -> Path:
    """Three experts and three checkpoints (the same models) of a random base, texts and tasks of random words."""
    folder = tmp_path_factory.mktemp("world")
    for domain in DOMAINS:
        draws = random.Random(domain)
        texts = [" ".join(draws.choices(["sum", "even", "answer", domain], k=12)) for _ in range(12)]
        write_texts(folder / "texts" / f"{domain}.jsonl.gz", texts)
        for part in ("select", "test"):
            write_texts(folder / "held-out" / f"{domain}-{part}.jsonl.gz", texts[:4])
        items = [
            {"context": texts[n % 12], "choices": draws.sample([" one", " two", " three", " four"], 4), "answer": n % 4}
            for n in range(32)
        ]
        tasks = folder / "tasks"
        tasks.mkdir(exist_ok=True)
        (tasks / f"continue_{domain}.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
        (tasks / f"continue_{domain}.yaml").write_text(TASK.format(domain=domain))
    for number, name in enumerate("abc", 1):
        shutil.copytree(family[name], folder / "experts-0" / name)
        shutil.copytree(family[name], folder / "long-0" / "a-checkpoints" / f"tokens-{number:012d}")
    manifest = {"base": str(family["base"]), "general": "en", "domains": ["a", "b", "c"], "long_run": "a"}
    (folder / "world.json").write_text(json.dumps({**manifest, "context": 32, "fingerprint": "tiny"}))
    return folder


def run_study(name: str, world: Path, out: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = f"import runpy; runpy.run_module('studies.obim.{name}', run_name='__main__', alter_sys=True)"
    options = ["--quick", "--seed", 0, "--threads", 1, "--world", world]
    options += ["--measurements", out / "measurements", "--results", out / "results"]
    return run_forked(program, *options, *arguments, folder=ROOT)


@pytest.mark.whole
def test_a_study_runs_from_an_empty_cache_and_again_without_measuring(world: Path, tmp_path: Path) -> None:
    first = run_study("methods", world, tmp_path)
    assert first.returncode == 0, first.stderr[-3000:]
    measurements = tmp_path / "measurements" / "seed-0-quick.jsonl"
    lines = measurements.read_bytes()
    page = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "### Three experts (Table 1)" in page
    assert "| OBIM above TIES | +2.02 |" in page
    # A kill in the middle of a line costs that measurement and no other.
    measurements.write_bytes(lines[:-20])
    second = run_study("methods", world, tmp_path)
    assert second.returncode == 0, second.stderr[-3000:]
    again = measurements.read_bytes().splitlines()
    assert again[:-1] == lines.splitlines()[:-1]
    assert json.loads(again[-1])["bits"] == json.loads(lines.splitlines()[-1])["bits"]
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == page
