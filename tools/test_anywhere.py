"""The suite under other terminals, folders, locales, time zones, users, orders and numbers of workers.

    python tools/test_anywhere.py                            # the whole suite under each condition in turn
    python tools/test_anywhere.py long,narrow ascii,shuffled # two runs, each under two conditions
    python tools/test_anywhere.py spaces -- tests/unit/runs  # what follows `--` is for pytest

It ends with 1 if any run failed, and prints the command of each, so that a failure can be repeated.
"""

from __future__ import annotations

import os
import random
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SEED = "AFTERMIX_SHUFFLE"
OTHER_USER = "nobody"


@dataclass(frozen=True)
class Condition:
    """A place to run the suite in."""

    environment: Mapping[str, str] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()
    temporary: str = ""
    """A folder for temporary files, below the usual one."""
    clone: str = ""
    """A folder for a fresh clone of what is committed."""
    other_user: bool = False


ASCII = {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
CONDITIONS = {
    "narrow": Condition({"COLUMNS": "40", "LINES": "10"}),
    "wide": Condition({"COLUMNS": "200", "LINES": "60"}),
    "coloured": Condition({"FORCE_COLOR": "1"}),
    "long": Condition(temporary="/".join(["a-folder-with-a-long-name"] * 6)),
    "spaces": Condition(temporary="with spaces & ü"),
    "c-locale": Condition({"LANG": "C", "LC_ALL": "C"}),
    # Without the UTF-8 mode that Python chooses in the C locale: every text without an encoding is ASCII.
    "ascii": Condition(ASCII),
    "kiritimati": Condition({"TZ": "Pacific/Kiritimati"}),
    "other-user": Condition(other_user=True, clone="clone"),
    "shuffled": Condition(arguments=("-p", "tools.test_anywhere")),
    "one-worker": Condition(arguments=("-n", "1")),
    "four-workers": Condition(arguments=("-n", "4")),
    "clone": Condition(clone="a clone with spaces"),
}


def pytest_collection_modifyitems(items: list[Any]) -> None:
    """Shuffle files, and the tests of each file; whole files, since many build a model that their tests share."""
    draw = random.Random(os.environ.get(SEED, "0"))  # noqa: S311
    order = {file: draw.random() for file in dict.fromkeys(item.path for item in items)}
    items.sort(key=lambda item: (order[item.path], draw.random()))


def main(arguments: Sequence[str]) -> int:
    """Run each set of conditions, and print which failed."""
    place = arguments.index("--") if "--" in arguments else len(arguments)
    asked, rest = arguments[:place], arguments[place + 1 :]
    unknown = {name for names in asked for name in names.split(",")} - set(CONDITIONS)
    if unknown:
        sys.exit(f"expected some of {', '.join(CONDITIONS)}, found {', '.join(sorted(unknown))}")

    codes = {names: run_under(names.split(","), rest) for names in asked or CONDITIONS}
    for names, code in codes.items():
        print(f"{names}: {'passed' if code == 0 else f'failed with {code}'}")
    return int(any(codes.values()))


def run_under(names: Sequence[str], arguments: Sequence[str]) -> int:
    """The exit code of pytest under all conditions `names` together."""
    conditions = [CONDITIONS[name] for name in names]
    scratch = Path(tempfile.mkdtemp(prefix="anywhere-"))
    try:
        folder = _clone(scratch, conditions)
        temporary = scratch.joinpath("tmp", *(each.temporary for each in conditions))
        temporary.mkdir(parents=True)
        environment = _build_environment(conditions, folder=folder, temporary=temporary)

        command = [
            sys.executable,
            "-m",
            "pytest",
            *(word for each in conditions for word in each.arguments),
            *arguments,
        ]
        if any(each.other_user for each in conditions):
            command = _become_another_user(command, scratch)
            environment["HOME"] = str(scratch / "home")

        changed = {name: value for name, value in environment.items() if os.environ.get(name) != value}
        shown = shlex.join([*(f"{name}={value}" for name, value in changed.items()), *command])
        print(f"\n== {', '.join(names)}\ncd {shlex.quote(str(folder))} && env {shown}", flush=True)
        return subprocess.run(command, cwd=folder, env=environment, check=False).returncode
    finally:
        shutil.rmtree(scratch)


def _clone(scratch: Path, conditions: Sequence[Condition]) -> Path:
    places = [each.clone for each in conditions if each.clone]
    if not places:
        return ROOT
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(scratch / places[-1])], check=True)
    return scratch / places[-1]


def _build_environment(conditions: Sequence[Condition], *, folder: Path, temporary: Path) -> dict[str, str]:
    environment = dict(os.environ)
    for each in conditions:
        environment |= each.environment
    # The folder's own package, whichever one is installed, and this module, which shuffles.
    paths = [str(folder / "src"), str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    return environment | {"TMPDIR": str(temporary), "PYTHONPATH": os.pathsep.join(paths)}


def _become_another_user(command: Sequence[str], scratch: Path) -> list[str]:
    """`command` as a user without rights, to whom `scratch` belongs from now on."""
    if os.getuid() != 0:
        return list(command)
    (scratch / "home").mkdir()
    subprocess.run(["chown", "-R", f"{OTHER_USER}:", str(scratch)], check=True)
    return ["runuser", "-u", OTHER_USER, "--", *command]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
