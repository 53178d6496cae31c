"""One of the processes of an `accelerate launch`: trains, is interrupted, goes on, and fails where the two differ.

Run by test_training_launch.py as `accelerate launch ... launched_process.py FILE FOLDER`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch.distributed.fsdp import FSDPModule

from aftermix.config import load_config
from aftermix.jobs.train.command import train
from aftermix.training import loop
from aftermix.training.distributed.processes import read_process_index, wait_for_all

advance = loop.StepRecorder.on_step_end


def interrupt(self: loop.StepRecorder, *args: Any, **kwargs: Any) -> None:
    advance(self, *args, **kwargs)
    assert isinstance(kwargs["model"], FSDPModule), "the model must be sharded"
    if len(self.losses) == 4:
        raise KeyboardInterrupt


def main(file: Path, output: Path) -> None:
    torch.set_num_threads(1)
    config = load_config(file)
    train(config, output / "whole")
    loop.StepRecorder.on_step_end = interrupt  # type: ignore[method-assign]
    try:
        train(config, output / "interrupted")
    except KeyboardInterrupt:
        pass
    else:
        raise AssertionError("nothing was interrupted")
    loop.StepRecorder.on_step_end = advance  # type: ignore[method-assign]
    wait_for_all()
    said: list[str] = []
    train(config, output / "interrupted", log=said.append)
    if read_process_index() == 0:
        assert "cats: goes on after step 2 of 5" in said, said
        ours, theirs = (load_file(output / run / "cats/model.safetensors") for run in ("interrupted", "whole"))
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs), "the run that went on differs"
        told = {(output / run / "cats/losses.jsonl").read_text() for run in ("interrupted", "whole")}
        assert len(told) == 1, "the losses of the run that went on differ"


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
