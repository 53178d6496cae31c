"""Whole commands measured from outside: wall and CPU seconds, and the peak of memory that no other process shares."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil

SAMPLE_S = 0.01


@dataclass(frozen=True)
class Cost:
    """What one run of a command took."""

    wall_s: float
    cpu_s: float
    private_mb: float


def run(command: list[str], *, env: Mapping[str, str] | None = None, folder: str | None = None) -> Cost:
    """Run `command` to its end, in `folder` if one is named. Raises when it fails."""
    started, cpu_before = time.perf_counter(), _children_cpu_s()
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=os.environ | dict(env or {}), cwd=folder
    )
    peak = 0
    while process.poll() is None:
        peak = max(peak, _anonymous_bytes(process.pid))
        try:
            process.wait(SAMPLE_S)
        except subprocess.TimeoutExpired:
            continue
    _, errors = process.communicate()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)}: {errors.decode()[-2000:]}")
    return Cost(time.perf_counter() - started, _children_cpu_s() - cpu_before, peak / 1e6)


def _anonymous_bytes(pid: int) -> int:
    """Memory with no file behind it. Pages of a mapped checkpoint are the system's cache, whoever maps them.

    The kernel keeps this count; asking for a walk over gigabytes of mapped pages would slow what is measured.
    """
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    except OSError:  # it has just ended
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon:")), 0)


def _children_cpu_s() -> float:
    times = os.times()
    return times.children_user + times.children_system


def side_by_side(
    commands: Mapping[str, Callable[[], Cost]], *, rounds: int, log: Callable[[str], None]
) -> dict[str, list[Cost]]:
    """Each command once a round, every second round in reverse order, so that a drifting machine favours none."""
    costs: dict[str, list[Cost]] = {name: [] for name in commands}
    for number in range(rounds):
        names = list(commands) if number % 2 == 0 else list(reversed(commands))
        for name in names:
            cost = commands[name]()
            costs[name].append(cost)
            log(f"round {number + 1}: {name}: {cost.wall_s:.2f} s, {cost.cpu_s:.2f} CPU s, {cost.private_mb:.0f} MB")
    return costs


def median(costs: list[Cost]) -> Cost:
    """Median of each figure."""
    return Cost(
        statistics.median(cost.wall_s for cost in costs),
        statistics.median(cost.cpu_s for cost in costs),
        statistics.median(cost.private_mb for cost in costs),
    )


def machine() -> str:
    """One line about where and when."""
    model = next(
        (line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")), platform.processor()
    )
    memory = psutil.virtual_memory().total / 2**30
    now = datetime.now(UTC)
    return f"{now:%Y-%m-%d}, {model}, {os.cpu_count()} cores, {memory:.0f} GiB, Python {platform.python_version()}"


def describe_machine(threads: float) -> str:
    """The machine, threads and load, as a sentence."""
    return f"{machine()}, {threads} threads, load {os.getloadavg()[0]:.1f}."


def forget_files(files: list[str]) -> None:
    """Ask the system to drop the files from its cache."""
    for name in files:
        handle = os.open(name, os.O_RDONLY)
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []
