"""An early estimate of a training's time, from its first steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from aftermix.report.number_format import format_duration

MEASURED_STEPS = 10
WORTH_SAYING_S = 60.0
"""A shorter training is over before its estimate is read."""


@dataclass
class TimeEstimate:
    """Watches the first steps of a run, and says once how long all will take."""

    tokens: Sequence[int]
    """Of each step."""
    say: Callable[[str], None]
    _begun: tuple[int, float] | None = None

    def note_step(self, step: int) -> None:
        """Take note that `step` steps (from 1) are done; the first that is seen starts the clock."""
        now = time.perf_counter()
        if self._begun is None:
            self._begun = step, now
            return
        first, started = self._begun
        if step != first + MEASURED_STEPS:
            return

        per_second = sum(self.tokens[first:step]) / max(now - started, 1e-9)
        left_s = sum(self.tokens[step:]) / per_second
        if left_s >= WORTH_SAYING_S:
            steps = f"{len(self.tokens) - step} of {len(self.tokens)} steps are left"
            self.say(f"{steps}, about {format_duration(left_s)} at {per_second:,.0f} tokens/s")
