"""Where the parts of a world lie, and which domains it has."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from aftermix.files import write_json

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "runs" / "studies" / "world"
"""Where the world is made; git does not see it."""
MANIFEST = "world.json"
Size = TypeVar("Size")


@dataclass(frozen=True)
class World:
    """A folder with data, tasks and models, and what its manifest says."""

    folder: Path
    base: str
    general: str
    """The domain that the base was trained on."""
    domains: tuple[str, ...]
    """One expert each."""
    long_run: str
    """The domain of the run with checkpoints along the way."""
    context: int
    """Tokens of a sequence, in training, calibration and held-out text."""
    fingerprint: str
    """Hash of held-out text and items: measurements of another world are not taken for this one's."""
    tiny: bool = False
    """Whether it only shows in seconds that everything runs: made-up text, a random base, hardly any of either."""

    @staticmethod
    def open(folder: Path = FOLDER) -> World:
        """Read the manifest. Raises :class:`SystemExit` for a folder in which no world was made."""
        path = folder / MANIFEST
        if not path.is_file():
            raise SystemExit(f"{folder}: holds no world. Run `python -m studies.world.make` first.")
        values = json.loads(path.read_text(encoding="utf-8"))
        return World(folder=folder, **{**values, "domains": tuple(values["domains"])})

    def write(self) -> None:
        """Write the manifest."""
        values = {key: value for key, value in asdict(self).items() if key != "folder"}
        write_json(self.folder / MANIFEST, values)

    def pick(self, real: Size, *, tiny: Size) -> Size:
        """The one of two sizes that is this world's."""
        return tiny if self.tiny else real

    @property
    def measured(self) -> tuple[str, ...]:
        """Every domain with a task and held-out text."""
        return (self.general, *self.domains)

    @property
    def tasks(self) -> Path:
        """Folder of the lm-eval tasks `continue_DOMAIN`."""
        return self.folder / "tasks"

    def training_text(self, domain: str) -> Path:
        """What the expert of `domain` is trained on."""
        return self.folder / "texts" / f"{domain}.jsonl.gz"

    def held_out(self, domain: str, split: str) -> Path:
        """Text for bits per byte; `split` is `select` or `test`."""
        return self.folder / "held-out" / f"{domain}-{split}.jsonl.gz"

    def expert(self, name: str, *, seed: int) -> Path:
        """Model folder of an expert, or of `it`, the instruction sibling."""
        return self.folder / f"experts-{seed}" / name

    def checkpoints(self, *, seed: int) -> list[Path]:
        """Model folders of the long run, in order of tokens."""
        return sorted(path.parent for path in (self.folder / f"long-{seed}").rglob("tokens-*/config.json"))
