"""Numbers as event files of TensorBoard, by the writer of PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class TensorBoardWriter:
    """One folder of event files; a run that goes on adds a file."""

    events: Any

    @classmethod
    def open(cls, folder: Path) -> TensorBoardWriter:
        """The writer of a folder, made with the first event."""
        from torch.utils.tensorboard import SummaryWriter

        return cls(SummaryWriter(log_dir=str(folder)))

    def write(self, values: Mapping[str, float], step: int) -> None:
        """Keep the numbers of one step, readable from then on."""
        for name, value in values.items():
            self.events.add_scalar(name, value, step)
        self.events.flush()

    def close(self) -> None:
        """Close the file."""
        self.events.close()
