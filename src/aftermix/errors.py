"""The one kind of error a user meets: where it is, what is wrong, and what to do about it."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

LONGEST_TEXT = 2000
"""Characters of a part of a message: room for a long path and a list of names."""
MOST_ENTRIES = 10_000
"""Entries of a folder among which a misspelt name is looked for."""
LISTED = 100
"""Problems of one message that are written out; the count is of all."""
LONGEST_CAUSE, LISTED_CAUSES = 300, 4
"""Characters of one exception, and exceptions of a chain, in :func:`describe_cause`."""
PLAIN_NAME = re.compile(r"[\w/-]+")
FILE_ENDINGS = frozenset(
    (
        *("arrow", "bin", "cfg", "csv", "gguf", "gz", "htm", "html", "ini", "ipynb", "jinja", "js", "json", "jsonl"),
        *("lock", "log", "md", "npy", "npz", "parquet", "pdf", "pkl", "png", "pt", "py", "rs", "safetensors", "sh"),
        *("sql", "svg", "toml", "tsv", "txt", "xml", "yaml", "yml", "zip"),
    )
)
"""Endings of files that a name might be taken for."""
UNPRINTABLE = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Unicode categories: control characters, invisible formatting (which can reverse text), halves of pairs, line ends."""


@dataclass(frozen=True)
class Problem:
    """One fault of the input: `where` it lies, what was expected and `found`, and the `remedy`."""

    where: str
    found: str
    remedy: str

    @property
    def parts(self) -> tuple[str, str, str]:
        """Place, what was found there, and remedy."""
        return self.where, self.found, self.remedy

    def __str__(self) -> str:
        """Text on one line: `where: found. remedy`.

        >>> str(Problem("merge.density", "expected a number above 0, found -1", "Use a value in (0, 1]."))
        'merge.density: expected a number above 0, found -1. Use a value in (0, 1].'
        """
        return printable(f"{_clipped(self.where)}: {_clipped(self.found.rstrip('.'))}. {self.remedy}")


def printable(text: str) -> str:
    """`text` on one line, with what would steer a terminal or cannot be encoded written as an escape.

    Names of tensors and values of configurations are a stranger's text.

    >>> print(printable("model." + chr(27) + "[2J"))
    model.\\x1b[2J
    """
    return "".join(
        ascii(character)[1:-1] if unicodedata.category(character) in UNPRINTABLE else character for character in text
    )


def join_place(place: str, *names: object) -> str:
    """Place of what the user called `names` (strings, or numbers of a list), below `place`: `vectors.ja.weight`.

    A name that is no plain word is quoted, as YAML would have it, and so is a last one that ends like a file:
    `mixture."py"` is the domain py, `mixture.py` a file.

    >>> join_place("vectors", "ja", "weight"), join_place("mixture", "py"), join_place("vectors", "my.base", "tokens")
    ('vectors.ja.weight', 'mixture."py"', 'vectors."my.base".tokens')
    """
    texts = [str(name) for name in names]
    last = len(texts) - 1
    written = [
        text if PLAIN_NAME.fullmatch(text) and (at < last or text.lower() not in FILE_ENDINGS) else f'"{text}"'
        for at, text in enumerate(texts)
    ]
    return ".".join([place, *written] if place else written)


def find_meant(name: object, known: Iterable[object]) -> str | None:
    """The one of `known` that `name` is probably meant to be, whatever its case, hyphens and underscores; else None.

    >>> find_meant("Task-Arithmetic", ["ties", "task_arithmetic"]), find_meant("xyz", ["ties"])
    ('task_arithmetic', None)
    """
    by_folded = {_fold(each): str(each) for each in known}
    close = difflib.get_close_matches(_fold(name), list(by_folded), n=1)
    return by_folded[close[0]] if close else None


def ask_meant(remedy: str, name: object, known: Iterable[object]) -> str:
    """`remedy`, and the question whether another of the `known` names was meant, where one is near to `name`.

    >>> ask_meant("Correct the name.", "mathh", ["ja", "math"])
    "Correct the name. Did you mean 'math'?"
    """
    meant = find_meant(name, known)
    return f"{remedy} Did you mean '{meant}'?" if meant is not None else remedy


def ask_meant_path(remedy: str, path: Path) -> str:
    """`remedy`, and the question whether another path was meant, where the folder of `path` holds a name near to it.

    The part of the path that is not there is held against what lies beside it; what follows is kept, if it is there.
    """
    missing, rest = path, Path()
    while not _is_there(missing.parent) and missing != missing.parent:
        missing, rest = missing.parent, Path(missing.name) / rest
    if _is_there(missing):
        return remedy

    try:
        beside = [entry.name for entry in islice(missing.parent.iterdir(), MOST_ENTRIES)]
    except OSError:  # no folder, or one that may not be read
        return remedy
    meant = find_meant(missing.name, beside)
    if meant is None:
        return remedy
    near = missing.with_name(meant)
    return f"{remedy} Did you mean '{near / rest if _is_there(near / rest) else near}'?"


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # no name that this file system can hold, or a folder that may not be searched
        return False


def _fold(name: object) -> str:
    return str(name).casefold().replace("-", "_")


def describe_cause(error: BaseException) -> str:
    """Type and text of a stranger's exception and of those that it came from, the innermost last, on one line.

    A library often raises "an error occurred" from the exception that names file and line.

    >>> try:
    ...     raise RuntimeError("cannot generate") from ValueError("row 9 of a.jsonl is broken")
    ... except RuntimeError as error:
    ...     describe_cause(error)
    'RuntimeError: cannot generate; from ValueError: row 9 of a.jsonl is broken'
    """
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)

    texts = dict.fromkeys(" ".join(f"{type(each).__name__}: {each}".split()).removesuffix(":") for each in chain)
    shown = [text[:LONGEST_CAUSE].rstrip(".") for text in texts]
    return "; from ".join(shown if len(shown) <= LISTED_CAUSES else [shown[0], *shown[1 - LISTED_CAUSES :]])


def _clipped(text: str) -> str:
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}... ({len(text)} characters)"


class AftermixError(Exception):
    """Bad input, refused before work begins. The command line prints it and exits with `exit_code`.

    >>> import aftermix
    >>> try:
    ...     aftermix.Pool("models/base", {"ja": "experts/ja"}).merge({"jp": 0.4})
    ... except aftermix.AftermixError as error:
    ...     error.problems[0].found
    "expected vectors of the pool (ja), found 'jp'"
    """

    exit_code = 2

    def __init__(self, where: str, found: str, remedy: str) -> None:
        self.problem = Problem(where, found, remedy)
        self.problems: tuple[Problem, ...] = (self.problem,)
        super().__init__(str(self.problem))

    def __reduce__(self) -> tuple[Any, ...]:
        """Parts to pickle: a worker's error reaches the process that asked it as it was raised."""
        return _restore_error, (type(self), self.args, self.__dict__)


def _restore_error(kind: type[AftermixError], texts: tuple[object, ...], state: dict[str, Any]) -> AftermixError:
    error = kind.__new__(kind, *texts)
    error.args = texts
    error.__dict__.update(state)
    return error


class ConfigError(AftermixError):
    """The YAML file, or an option in it, is not what the job takes."""


class CheckpointError(AftermixError):
    """A model folder cannot be read, does not align with the others, or cannot be written."""


class InputFaultError(CheckpointError):
    """An input is no longer what it was when it was opened, or holds no numbers: no merge of it is to blame."""


class EngineFaultError(InputFaultError):
    """An engine does not hold the weights that it was handed: no merge is to blame, and every score would be wrong."""


class MergeError(AftermixError):
    """A merge method, its options or its operands are unusable."""


class EvaluationError(AftermixError):
    """A task, its items or its scores are unusable."""


class SearchError(AftermixError):
    """A search cannot start, resume or choose a winner."""


class OccupiedRunError(SearchError):
    """A new run was to begin in the folder of one that the same file began."""

    def name_command(self, command: str) -> OccupiedRunError:
        """The refusal with the `command` that goes on with that run."""
        remedy = f"Go on with it by `{command}`, or name a new folder."
        return OccupiedRunError(self.problem.where, self.problem.found, remedy)


class MixtureError(AftermixError):
    """Mixtures, their scores, a utility or bounds are unusable."""


class TrainingError(AftermixError):
    """Training data or a training run is unusable."""


class RunFailedError(AftermixError):
    """Work that had begun could not be finished; what was finished is kept."""

    exit_code = 1

    def __init__(
        self,
        where: str,
        found: str,
        remedy: str,
        *,
        kept: str | None = None,
        takes_new_run: bool = False,
        scores_serve: bool = True,
    ) -> None:
        super().__init__(where, found, remedy)
        self.kept = kept
        """What is there for whoever goes on."""
        self.takes_new_run = takes_new_run
        """True where going on in the same folder would end in the same way: a new run is what goes on."""
        self.scores_serve = scores_serve
        """False where that run can begin with none of the scores, their task being at fault."""
        self.go_on: str | None = None
        """The command that goes on, where the command line knows one."""

    @staticmethod
    def from_refusal(refusal: AftermixError, *, kept: str) -> RunFailedError:
        """The stop of work that had begun, by `refusal`."""
        stop = RunFailedError(*refusal.problem.parts, kept=kept)
        stop.problems, stop.args = refusal.problems, refusal.args
        return stop


class ManyProblemsError(AftermixError):
    """Several faults, told together so that they are mended in one go."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        first = problems[0]
        super().__init__(first.where, first.found, first.remedy)
        self.problems = tuple(problems)
        if len(self.problems) > 1:
            shown = [f"  {number}. {problem}" for number, problem in enumerate(self.problems[:LISTED], 1)]
            listing = "\n".join([*shown, "  ..."] if len(self.problems) > LISTED else shown)
            self.args = (f"{len(self.problems)} problems:\n{listing}",)


def refuse_if_any(problems: Sequence[Problem]) -> None:
    """Raise :class:`ManyProblemsError` when `problems` is not empty."""
    if problems:
        raise ManyProblemsError(problems)
