"""`python -m fuzz.run`: every reader under a coverage-guided fuzzer (libFuzzer through atheris), and a table.

Each target runs in a process of its own. A finding does not stop it: the input that showed it is kept in `--findings`,
one for each place in the code, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

import click

INSTRUMENTED = ["aftermix", "yaml", "json"]
LONGEST_INPUT = 4096
MEMORY_BYTES = 24 << 30
"""Of address space, most of which the libraries reserve and never use."""
SECONDS_A_TARGET = 3600


def main() -> int:
    """Run the targets named, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=10_000, help="inputs of each target, by its share")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--findings", type=Path, default=Path("runs/fuzz"), help="where inputs with findings go")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("targets", nargs="*")
    arguments = parser.parse_args()
    if arguments.child:
        _fuzz(arguments.child, arguments.inputs, arguments.seed, arguments.findings)
        return 0
    from fuzz.targets import TARGETS

    click.echo(f"{'target':<16} {'inputs':>8} {'inputs/s':>9} {'edges':>6} {'slowest':>8} {'findings':>8}")
    total = findings = 0
    for name in arguments.targets or TARGETS:
        done, found = _run(name, int(arguments.inputs * TARGETS[name].share), arguments.seed, arguments.findings)
        total, findings = total + done, findings + found
    click.echo(f"{'all':<16} {total:>8} {findings:>32}")
    return 1 if findings else 0


def _run(name: str, inputs: int, seed: int, folder: Path) -> tuple[int, int]:
    """One target in its own process; its row of the table."""
    options = ["--child", name, "--inputs", str(inputs), "--seed", str(seed), "--findings", str(folder / name)]
    (folder / name).mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    process = subprocess.run(
        [sys.executable, "-m", "fuzz.run", *options],
        capture_output=True,
        timeout=SECONDS_A_TARGET,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", **_memory_disk()},
        check=False,
    )
    log = process.stderr.decode(errors="replace")
    (folder / name / "log.txt").write_text(log)
    done = int(_last(r"stat::number_of_executed_units:\s+(\d+)", log))
    edges, slowest = _last(r"cov: (\d+)", log), _last(r"slowest_unit_time_sec:\s+(\d+)", log)
    found = [json.loads(line) for line in _lines(folder / name / "findings.jsonl")]
    if not done:
        found.append(
            {"what": f"ended with {process.returncode}: {log[-300:]}", "input": str(folder / name / "log.txt")}
        )
    per_s = done / (time.monotonic() - started)
    click.echo(f"{name:<16} {done:>8} {per_s:>9.0f} {edges:>6} {slowest:>6} s {len(found):>8}")
    for finding in found:
        click.echo(f"    {finding['what']}\n      at {finding.get('at')}, input {finding['input']}")
    return done, len(found)


def _memory_disk() -> dict[str, str]:
    """Files of the inputs in memory where that is to be had: a merge forces its result to disk each time."""
    return {"TMPDIR": "/dev/shm"} if os.access("/dev/shm", os.W_OK) else {}  # noqa: S108


def _last(pattern: str, text: str) -> str:
    return (re.findall(pattern, text) or ["0"])[-1]


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def _fuzz(name: str, inputs: int, seed: int, folder: Path) -> None:
    import atheris

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    with atheris.instrument_imports(include=INSTRUMENTED, enable_loader_override=False):
        from fuzz.targets import TARGETS
    target = TARGETS[name]
    seen: set[str] = set()
    (folder / "findings.jsonl").unlink(missing_ok=True)

    def one_input(data: bytes) -> None:
        try:
            target.one_input(data)
        except Exception as error:
            at = _place(error)
            if at in seen:
                return
            seen.add(at)
            input_file = folder / f"{hashlib.sha256(data).hexdigest()[:16]}.input"
            input_file.write_bytes(data)
            with (folder / "findings.jsonl").open("a") as file:
                file.write(json.dumps({"what": ascii(f"{error}")[:400], "at": at, "input": str(input_file)}) + "\n")

    with tempfile.TemporaryDirectory() as corpus:
        for number, content in enumerate(target.seeds):
            (Path(corpus) / f"seed-{number}").write_bytes(content)
        # -timeout=0: the oracle has its own alarm, and there is one alarm clock.
        options = [
            f"-runs={inputs}",
            f"-seed={seed}",
            f"-max_len={LONGEST_INPUT}",
            f"-artifact_prefix={corpus}/",  # what libFuzzer calls slow is no finding of ours
            "-timeout=0",
            "-print_final_stats=1",
        ]
        atheris.Setup([sys.argv[0], *options, "-rss_limit_mb=8192", corpus], one_input)
        atheris.Fuzz()


def _place(error: BaseException) -> str:
    """The kind of the first fault and the deepest frame of ours: one finding for each."""
    cause = error.__cause__ or error
    ours = [frame for frame in traceback.extract_tb(cause.__traceback__) if "/aftermix/" in frame.filename]
    frames = ours or traceback.extract_tb(cause.__traceback__)
    return f"{type(cause).__name__} {frames[-1].filename.rsplit('/aftermix/')[-1]}:{frames[-1].lineno}"


if __name__ == "__main__":
    sys.exit(main())
