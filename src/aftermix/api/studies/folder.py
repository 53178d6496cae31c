"""The folder of a study: what it was opened with, the points that were asked for, and what was told of them.

`study.yaml` is its configuration, `proposals.jsonl` has a line for each point before it is handed out, `told.jsonl` a
line for each that was told, in the order of telling. Scores and log-likelihoods of items lie in `items/`, as in a run.
A process killed at any instant leaves whole lines and at most one torn one, which is cut off.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from aftermix.config import Config, as_yaml_values
from aftermix.errors import SearchError
from aftermix.files import append_line, append_lines, format_lines, write_atomically
from aftermix.process_lock import hold_lock
from aftermix.runs.answers.candidate import KeptAnswers
from aftermix.runs.journal import PROPOSALS_FILE, locate_items, read_proposals, write_items
from aftermix.runs.trials import ItemScores, ProposedPoint, Trial, dump_proposal, dump_trial, parse_trial
from aftermix.yaml_file import read_yaml

STUDY_FILE, TOLD_FILE, LOCK_FILE = "study.yaml", "told.jsonl", ".lock"
SECTIONS = ("base", "vectors", "merge", "search")
FREE = ("trials", "top", "budget_tokens", "baselines", "max_consecutive_failures", "precision")
"""Keys of `search:` that decide nothing about the points of a study."""
REMEDY = "Restore the file from a backup, or name a new folder."


@dataclass
class StudyFolder:
    """The files of one study. One process at a time works with them."""

    path: Path
    _known: dict[str, int] = field(default_factory=dict)
    """Sizes of the journals as they were last read or written."""

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Keep other processes away. Raises :class:`AftermixError` where one is at work, or nothing can be written."""
        with hold_lock(self.path / LOCK_FILE, subject=self.path):
            yield

    def open(self, config: Config) -> None:
        """Begin the study of `config` here, or go on with it.

        Raises :class:`SearchError` for a folder that holds something else, and for another study, naming what differs.
        """
        with self.hold():
            values = _pick_values(config)
            if (self.path / STUDY_FILE).is_file():
                self._refuse_foreign(values)
                return
            if any(entry.name != LOCK_FILE for entry in self.path.iterdir()):
                found = f"expected the folder of a study, or none, found one without {STUDY_FILE}"
                raise SearchError(str(self.path), found, "Name a new folder.")
            write_atomically(self.path / STUDY_FILE, yaml.safe_dump(values, sort_keys=False, allow_unicode=True))

    @property
    def has_changed(self) -> bool:
        """True if another process has written since the journals were read."""
        return self._measure_sizes() != self._known

    def read(self) -> tuple[list[ProposedPoint], list[Trial]]:
        """All points that were asked for, and the trials in the order of telling; what was cut is cut off."""
        points = read_proposals(self.path)
        trials = self._read_told()
        strangers = {trial.number for trial in trials} - {point.number for point in points}
        if strangers:
            found = f"expected points that were asked for, found point {min(strangers)}"
            raise SearchError(str(self.path / TOLD_FILE), found, REMEDY)

        self._rewrite(PROPOSALS_FILE, format_lines(map(dump_proposal, points)))
        self._rewrite(TOLD_FILE, format_lines(map(dump_trial, trials)))
        self._known = self._measure_sizes()
        return points, trials

    def append_points(self, points: Sequence[ProposedPoint]) -> None:
        """Write down points, all in one write, before they are handed out."""
        append_lines(self.path / PROPOSALS_FILE, map(dump_proposal, points))
        self._known = self._measure_sizes()

    def append_trial(self, trial: Trial, items: ItemScores | None, answers: KeptAnswers | None) -> None:
        """Write down what was told of a point: answers, scores of items, then the line."""
        if items is not None:
            write_items(locate_items(self.path, "search", trial.number), items, answers=answers)
        append_line(self.path / TOLD_FILE, dump_trial(trial))
        self._known = self._measure_sizes()

    def _read_told(self) -> list[Trial]:
        path = self.path / TOLD_FILE
        lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
        trials: list[Trial] = []
        for number, line in enumerate(lines, 1):
            try:
                trials.append(parse_trial(line))
            except ValueError as error:
                found = f"expected the record of a point, found {' '.join(str(error).split())}"
                raise SearchError(f"{path}, line {number}", found, REMEDY) from error
        return trials

    def _rewrite(self, name: str, content: str) -> None:
        path = self.path / name
        if path.exists() and path.read_bytes() != content.encode():
            write_atomically(path, content)

    def _measure_sizes(self) -> dict[str, int]:
        files = [self.path / name for name in (PROPOSALS_FILE, TOLD_FILE)]
        return {file.name: file.stat().st_size for file in files if file.exists()}

    def _refuse_foreign(self, values: dict[str, Any]) -> None:
        stored = read_yaml(self.path / STUDY_FILE)
        differing = sorted(
            f"{section}.{key}" if key else section
            for section in SECTIONS
            for key in _list_differences(stored.get(section), values.get(section))
            if (section, key) not in {("search", free) for free in FREE}
        )
        if differing:
            found = f"expected a study of the same arguments, found another in {', '.join(differing[:5])}"
            raise SearchError(str(self.path), found, "Open it with the arguments that it has, or name a new folder.")


def _pick_values(config: Config) -> dict[str, Any]:
    values = as_yaml_values(config)
    return {section: values[section] for section in SECTIONS if section in values}


def _list_differences(mine: Any, theirs: Any) -> list[str]:
    """Keys in which two sections differ; one empty key for values that are no sections."""
    if not (isinstance(mine, dict) and isinstance(theirs, dict)):
        return [] if mine == theirs else [""]
    return [str(key) for key in {**mine, **theirs} if mine.get(key) != theirs.get(key)]
