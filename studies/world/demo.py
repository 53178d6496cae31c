"""What the demo's world has made ready: its sources, its split by document, its tasks."""

from __future__ import annotations

import sys

from studies.world.layout import ROOT

sys.path.insert(0, str(ROOT / "examples" / "demo"))  # its modules are called `world.*`

from world.sources import PACKAGES, Documents, help_pages, read_all
from world.splits import Split, split, write_jsonl_gz
from world.tasks import write_task
from world.tiny import write_packages

DEMO = ROOT / "examples" / "demo"
__all__ = [
    "DEMO",
    "PACKAGES",
    "Documents",
    "Split",
    "help_pages",
    "read_all",
    "split",
    "write_jsonl_gz",
    "write_packages",
    "write_task",
]
