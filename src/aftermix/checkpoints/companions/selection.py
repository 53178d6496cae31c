"""The files of one model folder that go along with its weights, and those that stay behind, each with its reason."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from aftermix.checkpoints.companions.code_files import MODEL_SETTINGS, TOKENIZER_SETTINGS, list_code_files
from aftermix.checkpoints.companions.rules import (
    CODE,
    MAX_FILE_BYTES,
    PROCESSOR,
    REPLACED,
    TOKENIZER,
    WEIGHTS,
    explain_exclusion,
    fits,
)
from aftermix.checkpoints.companions.sentence_modules import list_module_folders
from aftermix.checkpoints.safe_files import leads_out

SETTLED = ("config.json", "generation_config.json")
"""Files that a result has its own version of."""
TEMPLATES = "additional_chat_templates"
MOST_FILES = 100
"""In a subfolder that goes along."""
SHOWN = 8
"""Names that are told for each reason."""


@dataclass
class CompanionSelection:
    """Names relative to the folder, written with `/`, in order of name."""

    folder: Path
    taken: list[str] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)
    """Names by reason."""

    def list_spoken(self) -> list[str]:
        """Those taken that belong to the tokenizer, chat templates included, or to its code."""
        code = list_code_files(self.folder, TOKENIZER_SETTINGS)
        return [name for name in self.taken if (fits(name, TOKENIZER) and not fits(name, CODE)) or name in code]

    def list_seen(self) -> list[str]:
        """Those taken that say how pictures and sounds become numbers."""
        return [name for name in self.taken if fits(name, PROCESSOR)]

    def list_rest(self) -> list[str]:
        """Those taken that belong to the model itself."""
        code = list_code_files(self.folder, MODEL_SETTINGS)
        apart = {*self.list_spoken(), *self.list_seen()} - set(code)
        return [name for name in self.taken if name not in apart]

    def describe_left_out(self, *, spoken: bool = False) -> str | None:
        """The files that stayed behind by reason, but for cards, caches and hidden files; None where there are none.

        With `spoken`, those alone that a tokenizer or a processor would be made of.
        """
        told = []
        for reason, left in self.left_out.items():
            names = [name for name in left if not spoken or fits(name, (*TOKENIZER, *PROCESSOR))]
            if not names:
                continue
            shown = ", ".join(names[:SHOWN])
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            told.append(f"{shown}{more} ({reason})")
        return "; ".join(told) or None

    def _leave(self, reason: str, name: str) -> None:
        self.left_out.setdefault(reason, []).append(name)


def select_companions(folder: Path, *, weights: frozenset[str] = frozenset()) -> CompanionSelection:
    """Sort the files of the model folder `folder`; `weights` are names of files that a merge reads, which are no news.

    A subfolder goes along with all that it holds, but for one that holds weights (another model), more than 100 files
    or more than 64 MB. What `modules.json` names goes along in any case, without its weights.
    """
    selection = CompanionSelection(folder)
    code = set(list_code_files(folder, (*MODEL_SETTINGS, *TOKENIZER_SETTINGS)))
    modules = list_module_folders(folder)

    for name in sorted(entry.name for entry in folder.iterdir()):
        path = folder / name
        if path.is_dir() and any(module == name or module.startswith(f"{name}/") for module in modules):
            _select_module(selection, folder, name, modules)
        elif path.is_dir():
            _select_subfolder(selection, folder, name)
        elif name not in SETTLED and name not in weights:
            _select_file(selection, folder, name, code)
    return selection


def _select_file(selection: CompanionSelection, folder: Path, name: str, code: set[str]) -> None:
    reason = _explain_file(folder, name, code)
    if reason is None:
        selection.taken.append(name)
    elif not fits(name, REPLACED):
        selection._leave(reason, name)


def _explain_file(folder: Path, name: str, code: set[str]) -> str | None:
    """The reason for which one file stays behind; None for a companion."""
    path = folder / name
    if (reason := explain_exclusion(name)) is not None:
        return reason
    if fits(name, CODE) and name not in code:
        return "code that no `auto_map` names"
    if path.is_symlink() and leads_out(path, folder):
        return "links that lead out of the folder"
    if not path.is_file():
        return "no regular files"
    if path.stat().st_size > MAX_FILE_BYTES and not fits(name, TOKENIZER):
        return "larger than 64 MB"
    return None


def _select_module(selection: CompanionSelection, folder: Path, name: str, modules: list[str]) -> None:
    """Everything of a module of sentence-transformers but its weights, which are merged."""
    for file in _walk(folder, name):
        parent = file.rpartition("/")[0]
        if parent in modules and fits(file, WEIGHTS):
            continue
        _select_file(selection, folder, file, set())


def _select_subfolder(selection: CompanionSelection, folder: Path, name: str) -> None:
    path = folder / name
    if fits(name, REPLACED):
        return
    if path.is_symlink() and leads_out(path, folder):
        selection._leave("links that lead out of the folder", f"{name}/")
        return
    if name != TEMPLATES and (reason := _explain_subfolder(folder, name)) is not None:
        selection._leave(reason, f"{name}/")
        return
    for file in _walk(folder, name):
        _select_file(selection, folder, file, set())


def _explain_subfolder(folder: Path, name: str) -> str | None:
    """The reason for which a subfolder stays behind as a whole; None where its files are looked at one by one."""
    if (reason := explain_exclusion(f"{name}/file")) is not None:
        return reason

    count = size = 0
    for file in _walk(folder, name):
        if fits(file, WEIGHTS):
            return "folders with weights of their own"
        path, count = folder / file, count + 1
        size += path.stat().st_size if path.is_file() else 0
        if count > MOST_FILES or size > MAX_FILE_BYTES:
            return f"folders of more than {MOST_FILES} files or 64 MB"
    return None


def _walk(folder: Path, name: str) -> Iterator[str]:
    """Files below the subfolder `name`, relative to `folder`, in order; links to folders are not followed."""
    for parent, folders, files in os.walk(folder / name):
        folders.sort()
        yield from (Path(parent, file).relative_to(folder).as_posix() for file in sorted(files))
