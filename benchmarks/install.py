"""Size of an installation by extra, and seconds to import the package and to print the help.

    python benchmarks/install.py                                    # the packages of this environment, by requirement
    python benchmarks/install.py --bare python3.11 --bare python3.12  # wheel and sdist into environments of their own

Without `--bare` nothing is installed: what an extra brings is followed from requirement to requirement through the
packages that are here, and their files are counted. With it, wheel and sdist are built, each is installed by pip into a
new environment of that Python (torch first, by the same index that pip uses here), and a small merge is run there.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from measure import machine
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from tiny import parse_options

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = ("", "report", "train", "search", "all")
MB = 1e6
SMOKE = """
import json, pathlib, sys, torch
from safetensors.torch import save_file
place = pathlib.Path(sys.argv[1])
for number, name in enumerate(("base", "a", "b")):
    (place / name).mkdir()
    torch.manual_seed(number)
    save_file({"model.norm.weight": torch.randn(64)}, place / name / "model.safetensors", metadata={"format": "pt"})
    described = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    (place / name / "config.json").write_text(json.dumps(described))
import aftermix
pool = aftermix.Pool(place / "base", {"a": place / "a", "b": place / "b"})
print(aftermix.__version__, pool.merge({"a": 0.5, "b": 0.5}, method="ties", density=0.5).save(place / "out").name)
"""


def list_requirements(extra: str) -> list[Requirement]:
    """What `aftermix` or `aftermix[extra]` asks for by itself; extras of its own are followed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    waiting = [Requirement(line) for line in project["dependencies"]]
    if extra:
        waiting += [Requirement(line) for line in project["optional-dependencies"][extra]]
    found: list[Requirement] = []
    while waiting:
        requirement = waiting.pop()
        if requirement.name == "aftermix":
            names = [name for each in requirement.extras for name in project["optional-dependencies"][each]]
            waiting += [Requirement(line) for line in names]
        else:
            found.append(requirement)
    return found


def follow(extra: str) -> tuple[dict[str, int], set[str]]:
    """Bytes by package of all that is asked for, directly or not, and the packages that are not here."""
    sizes: dict[str, int] = {}
    absent: set[str] = set()
    waiting = [(requirement, {""}) for requirement in list_requirements(extra)]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        requirement, extras = waiting.pop()
        if requirement.marker is not None and not any(requirement.marker.evaluate({"extra": each}) for each in extras):
            continue
        name, wanted = canonicalize_name(requirement.name), frozenset({"", *requirement.extras})
        if (name, wanted) in seen:
            continue
        seen.add((name, wanted))
        try:
            package = distribution(name)
        except PackageNotFoundError:
            absent.add(name)
            continue
        sizes[name] = sum(_measure(Path(str(file.locate()))) for file in package.files or () if file.suffix != ".pyc")
        waiting += [(Requirement(line), set(wanted)) for line in package.requires or ()]
    return sizes, absent


def _measure(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0


def time_command(command: list[str], rounds: int) -> float:
    """Median seconds of a command."""
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=build_environment())
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def build_environment() -> dict[str, str]:
    """This process's environment, without a path to other sources."""
    return {**{name: value for name, value in os.environ.items() if name != "PYTHONPATH"}, "OMP_NUM_THREADS": "1"}


def measure_here(rounds: int) -> dict[str, Any]:
    """Sizes by extra, and start-up times in this environment."""
    rows = {}
    for extra in EXTRAS:
        sizes, absent = follow(extra)
        rows[f"aftermix[{extra}]" if extra else "aftermix"] = {
            "packages": len(sizes),
            "megabytes": sum(sizes.values()) / MB,
            "without_torch": sum(size for name, size in sizes.items() if name != "torch") / MB,
            "absent": sorted(absent),
        }
    path = f"import sys; sys.path.insert(0, {str(ROOT / 'src')!r}); "
    empty = time_command([sys.executable, "-c", "pass"], rounds)
    times = {
        "import aftermix": time_command([sys.executable, "-c", path + "import aftermix"], rounds) - empty,
        "aftermix --help": time_command(
            [sys.executable, "-c", path + "sys.argv[1:] = ['--help']; from aftermix.cli import main; main()"], rounds
        ),
    }
    return {"extras": rows, "seconds": times}


def install_bare(python: str, source: Path, extra: str) -> dict[str, Any]:
    """Install the wheel or sdist `source` into a new environment of `python`, measure it, and merge there."""
    with tempfile.TemporaryDirectory(prefix="aftermix-install-") as place:
        subprocess.run([python, "-m", "venv", f"{place}/venv"], check=True)
        new = f"{place}/venv/bin/python"
        pip = [
            new,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "-c",
            str(ROOT / "constraints.txt"),
        ]
        subprocess.run([*pip, "torch"], check=True, env=build_environment())
        subprocess.run(
            [*pip, f"aftermix[{extra}] @ {source.as_uri()}" if extra else str(source)],
            check=True,
            env=build_environment(),
        )
        packages = subprocess.run([new, "-m", "pip", "list", "--format", "json"], capture_output=True, check=True)
        folder = next(Path(place).glob("venv/lib/python*/site-packages"))
        size = sum(_measure(file) for file in folder.rglob("*") if file.suffix != ".pyc")
        told = subprocess.run(
            [new, "-c", SMOKE, place], capture_output=True, check=True, text=True, cwd=place, env=build_environment()
        )
        return {
            "python": python,
            "source": source.name,
            "extra": extra,
            "packages": len(json.loads(packages.stdout)),
            "megabytes": size / MB,
            "import_s": time_command([new, "-c", "import aftermix"], 5) - time_command([new, "-c", "pass"], 5),
            "help_s": time_command([new, "-m", "aftermix", "--help"], 5),
            "merged": told.stdout.strip(),
        }


def print_table(found: dict[str, Any]) -> None:
    """Print the result as tables of Markdown."""
    print("| installed | packages | MB | of it without torch | not here |\n|---|---|---|---|---|")
    for name, row in found["extras"].items():
        absent = ", ".join(row["absent"]) or "-"
        print(f"| `{name}` | {row['packages']} | {row['megabytes']:.0f} | {row['without_torch']:.0f} | {absent} |")
    for name, seconds in found["seconds"].items():
        print(f"\n`{name}`: {1000 * seconds:.0f} ms")


def main() -> None:
    """Measure, and install where `--bare` asks for it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bare", action="append", default=[], metavar="PYTHON", help="install there; may be repeated")
    parser.add_argument("--extra", default="", help="of the installation into a bare environment (default: none)")
    parser.add_argument("--rounds", type=int, default=9, help="starts of each command (default: 9)")
    options = parse_options(parser, lambda _: {"rounds": 1})

    print(machine())
    print_table(measure_here(options.rounds))
    if not options.bare:
        return
    with tempfile.TemporaryDirectory(prefix="aftermix-dist-") as place:
        subprocess.run([sys.executable, "-m", "hatchling", "build", "-d", place], check=True, cwd=ROOT)
        for python in options.bare:
            for source in sorted(Path(place).iterdir()):
                print(json.dumps(install_bare(python, source, options.extra)), flush=True)


if __name__ == "__main__":
    main()
