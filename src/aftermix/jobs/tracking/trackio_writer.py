"""Numbers in trackio, on this machine: nothing is sent anywhere."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class TrackioWriter:
    """One run of a project."""

    run: Any

    @classmethod
    def open(cls, project: str, name: str) -> TrackioWriter:
        """The run of this name, gone on with where there is one."""
        import trackio

        with redirect_stdout(sys.stderr):  # what it says is no result of ours
            quiet = {"embed": False, "auto_log_gpu": False, "auto_log_cpu": False}
            return cls(trackio.init(project=project, name=name, resume="allow", **quiet))

    def write(self, values: Mapping[str, float], step: int) -> None:
        """Keep the numbers of one step."""
        self.run.log(dict(values), step=step)

    def close(self) -> None:
        """Write what is left."""
        with redirect_stdout(sys.stderr):
            self.run.finish()
