"""The whole path in a process that may open no connection, started in another folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import json, socket, sys
def refuse(*args, **kwargs):
    raise AssertionError("a connection was opened")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
from pathlib import Path
from aftermix.config import EvaluateConfig
from aftermix.evaluation.engines.hf import HuggingFaceEngine
from aftermix.evaluation.harness import TaskSuite
tasks, model, tokenizer = sys.argv[1:]
config = EvaluateConfig.model_validate({
    "tasks": ["colours", {"task": "write_colour", "filter": "last_letter"}], "include_path": tasks,
    "items": {"search": 4, "select": 4, "test": 4}, "threads": 1, "num_fewshot": 1})
suite = TaskSuite.build(config)
engine = HuggingFaceEngine.open(Path(model), tokenizer_folder=Path(tokenizer), config=config)
print(json.dumps(suite.evaluate(engine.lm, "search").items))
"""


def test_local_tasks_and_models_need_no_network(
    tasks: Path, model_a: Path, tokenizer_folder: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tasks), str(model_a), str(tokenizer_folder)],
        cwd=elsewhere,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    scores = json.loads(done.stdout)
    assert {task: len(values) for task, values in scores.items()} == {"colours": 4, "write_colour": 4}
    assert done.stderr == ""
