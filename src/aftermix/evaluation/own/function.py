"""The user's own scorer: a function in a file, or one handed over in Python, with hashes of the code that it is."""

from __future__ import annotations

import hashlib
import inspect
import marshal
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from aftermix.config import CALLABLE
from aftermix.errors import AftermixError, EvaluationError, InputFaultError, describe_cause

KEY = "evaluate.function"
ITEMS = "items"
"""Name of the function that lists the items of each task."""
INSTALLED = tuple(Path(sysconfig.get_path(kind)).resolve() for kind in ("stdlib", "purelib", "platlib"))
DEFINE = "Define `score(model, tokenizer, items)` there, and `items()` beside it."


@dataclass(frozen=True)
class OwnFunction:
    """A scorer and, where it has one, the list of its items."""

    name: str
    """As users know it, e.g. `my_eval.py:score`."""
    files: Mapping[str, str]
    """Path -> `sha256:HEX` of every file of the user's code that was run to define it."""
    score: Callable[..., Any] = field(repr=False)
    list_items: Callable[[], Any] | None = field(repr=False)

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call `function`, one of the two.

        Raises :class:`EvaluationError` with the line at which it raised, and :class:`InputFaultError` where a file or
        the system failed it, which no merge is to blame for.
        """
        where = self.name if function is self.score else f"{self.name.rpartition(':')[0]}:{ITEMS}"
        try:
            return function(*arguments)
        except OSError as error:
            raise InputFaultError(where, _describe_raise(error, self.files), "Mend that; nothing is lost.") from error
        except AftermixError:
            raise
        except (Exception, SystemExit) as error:
            remedy = "Mend the function, or give 0 for what it cannot score."
            raise EvaluationError(where, _describe_raise(error, self.files), remedy) from error


@dataclass(frozen=True)
class GivenFunction:
    """A scorer that was handed over in Python."""

    score: Callable[..., Any]
    items: Callable[[], Any] | Mapping[str, Sequence[Any]] | None

    @property
    def key(self) -> str:
        """Text that stands for it in a configuration."""
        name, module = getattr(self.score, "__name__", ""), getattr(self.score, "__module__", None)
        return f"{CALLABLE}{module or '__main__'}:{name if name.isidentifier() else 'function'}"


_given: ContextVar[GivenFunction | None] = ContextVar("given_function", default=None)


@contextmanager
def give_function(given: GivenFunction) -> Iterator[str]:
    """Let jobs in this block find `given` by its key, which is handed out."""
    token = _given.set(given)
    try:
        yield given.key
    finally:
        _given.reset(token)


def open_function(text: str) -> OwnFunction:
    """The scorer that `evaluate.function` names.

    A file is read and hashed, and what is run is what was hashed. Its folder stands on `sys.path` while it is run, and
    no longer; files of that folder that it imports are hashed, too. Raises :class:`EvaluationError` for a file that
    cannot be read or run, and for a function that is missing or none.
    """
    if text.startswith(CALLABLE):
        return _open_given(text)

    file, _, name = text.rpartition(":")
    path, label = Path(file), f"{Path(file).name}:{name}"
    source = _read_source(path, name)
    files = {str(path): _hash_bytes(source)}
    module, siblings = _run_file(path, source, label)
    files |= {str(sibling): _hash_bytes(sibling.read_bytes()) for sibling in siblings}
    score: Any = getattr(module, name, None)
    items: Any = getattr(module, ITEMS, None)
    _refuse_no_function(score, label, "no such name" if not hasattr(module, name) else None)
    if items is not None:
        _refuse_no_function(items, f"{path.name}:{ITEMS}", None)
    return OwnFunction(label, files, score, items)


def identify_function(text: str) -> tuple[str, dict[str, str]]:
    """Name of the scorer that `evaluate.function` names, and path and hash of its file, none of which is run.

    Raises :class:`EvaluationError` as :func:`open_function`.
    """
    if text.startswith(CALLABLE):
        given = _open_given(text)
        return given.name, dict(given.files)
    file, _, name = text.rpartition(":")
    return f"{Path(file).name}:{name}", {file: _hash_bytes(_read_source(Path(file), name))}


def _read_source(path: Path, name: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        found = f"expected a file with the function '{name}', found none at {path} ({error.strerror})"
        raise EvaluationError(KEY, found, "Correct the path; a relative one starts at the file's folder.") from error


def _open_given(text: str) -> OwnFunction:
    given = _given.get()
    if given is None or given.key != text:
        found = f"expected the function that was handed over in Python ({text.removeprefix(CALLABLE)}), found none"
        remedy = "Go on from Python, with `function=` and `items=`, or put it into a file: `my_eval.py:score`."
        raise EvaluationError(KEY, found, remedy)

    name = text.removeprefix(CALLABLE)
    _refuse_no_function(given.score, name, None)
    items = given.items
    if isinstance(items, Mapping):
        listed = dict(items)
        items = lambda: listed  # noqa: E731 - a function as `items()` is one
    elif items is not None:
        _refuse_no_function(items, f"{name}: items", None)
    return OwnFunction(name, _hash_callables(name, given.score, given.items), given.score, items)


def _hash_callables(name: str, score: Any, items: Any) -> dict[str, str]:
    """The source files of both; of what was typed in, the hash of its code."""
    hashes = {}
    for part, function in (("", score), (f" {ITEMS}", items)):
        if not callable(function):
            continue
        path = inspect.getsourcefile(function) if hasattr(function, "__code__") else None
        if path is not None and Path(path).is_file():
            hashes[path] = _hash_bytes(Path(path).read_bytes())
        elif hasattr(function, "__code__"):
            hashes[f"{name}{part}"] = _hash_bytes(_flatten_code(function.__code__))
    return hashes


def _hash_bytes(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _flatten_code(code: CodeType) -> bytes:
    """Instructions, names and constants, whatever the file and the lines."""
    parts = [code.co_code, repr(code.co_names).encode()]
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            parts.append(_flatten_code(constant))
        elif not isinstance(constant, frozenset):  # its order changes from process to process
            parts.append(marshal.dumps(constant))
    return b"\0".join(parts)


def _run_file(path: Path, source: bytes, label: str) -> tuple[ModuleType, list[Path]]:
    """The module that `source` defines, and the files of its folder that it imported."""
    folder = path.resolve().parent
    module = ModuleType(f"aftermix_own_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}")
    module.__file__ = str(path)
    before = _set_aside_siblings(folder)
    loaded = set(sys.modules)
    sys.modules[module.__name__] = module  # dataclasses and pickles look their module up there
    sys.path.insert(0, str(folder))

    try:
        exec(compile(source, str(path), "exec"), module.__dict__)  # noqa: S102 - the user's own file, as an import is
    except (Exception, SystemExit) as error:
        found = f"cannot be run: it {_describe_raise(error, {str(path): ''})}"
        raise EvaluationError(label, found, f"Try it by itself: `python {path.name}`.") from error
    finally:
        if str(folder) in sys.path:
            sys.path.remove(str(folder))
        siblings = _list_siblings(folder, [name for name in sys.modules if name not in loaded])
        sys.modules.update(before)
    return module, [file for file in siblings if file != path.resolve()]


def _set_aside_siblings(folder: Path) -> dict[str, ModuleType]:
    """Take modules with the name of a file in `folder` out of `sys.modules`, unless they are installed; these modules.

    They are of another user's folder, or of that file as it was at an earlier run.
    """
    packages = {entry.parent.name for entry in folder.glob("*/__init__.py")}
    names = {entry.stem for entry in folder.glob("*.py")} | packages
    aside = {}
    for name in names - sys.stdlib_module_names - {"aftermix", "__main__"}:
        file = getattr(sys.modules.get(name), "__file__", None)
        if file and not any(place in Path(file).resolve().parents for place in INSTALLED):
            aside[name] = sys.modules.pop(name)
    return aside


def _list_siblings(folder: Path, modules: Sequence[str]) -> list[Path]:
    """Files below `folder` that `modules` come from, installed packages and this program left out."""
    files = [getattr(sys.modules[name], "__file__", None) for name in modules if name.split(".")[0] != "aftermix"]
    paths = {Path(file).resolve() for file in files if file and file.endswith(".py")}
    return sorted(path for path in paths if folder in path.parents and "site-packages" not in path.parts)


def _refuse_no_function(value: Any, label: str, found: str | None) -> None:
    if not callable(value):
        shown = found or (f"a {type(value).__name__}" if value is not None else "nothing")
        raise EvaluationError(KEY, f"expected the function {label}, found {shown}", DEFINE)


def _describe_raise(error: BaseException, files: Mapping[str, str]) -> str:
    """The exception, and the last line of the user's own code that it passed through."""
    own = {str(Path(file).resolve()) for file in files}
    steps = traceback.extract_tb(error.__traceback__)
    at = [step for step in steps if str(Path(step.filename).resolve()) in own] or steps[-1:]
    place = f" ({Path(at[-1].filename).name}, line {at[-1].lineno})" if at else ""
    cause = describe_cause(error) if isinstance(error, Exception) else type(error).__name__
    return f"raised {cause}{place}"
