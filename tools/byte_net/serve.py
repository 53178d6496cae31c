"""The server of one side: `python serve.py PLAN.json`, with the side's sources on PYTHONPATH.

It loads the libraries that the product needs, of the product itself nothing, and forks for every command: starting
Python with torch, transformers and lm-eval for each of some hundred commands would take most of the time. What a
command says and its exit code are written to the file that the plan names.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

LIBRARIES = """
accelerate click datasets huggingface_hub jinja2 lightgbm lm_eval.evaluator lm_eval.models.huggingface lm_eval.tasks
matplotlib.figure numpy optuna pandas psutil pyarrow pydantic.dataclasses pydantic.main pydantic.type_adapter regex
rich.table safetensors.torch scipy.optimize scipy.spatial scipy.stats sklearn.gaussian_process sklearn.linear_model
torch tqdm transformers transformers.models.auto.modeling_auto transformers.models.auto.tokenization_auto
transformers.models.llama.modeling_llama xxhash yaml
""".split()  # noqa: SIM905 - as words it can be read
PATIENCE_S = 3600.0
LIMIT_CODE = 124


def main(plan: Path) -> None:
    """Run all commands of `plan`: a list of objects with `scenario` and what :func:`run_command` takes."""
    for library in LIBRARIES:
        importlib.import_module(library)
    gc.freeze()  # what is loaded stays shared with the children, and they need not look through it

    for number, command in enumerate(commands := json.loads(plan.read_text()), 1):
        started = time.monotonic()
        scenario = command.pop("scenario")
        code = run_command(**command)
        shown = f"{number}/{len(commands)} {scenario}: {' '.join(command['arguments'])[:70]}"
        print(f"{shown} ({code}, {time.monotonic() - started:.1f} s)", flush=True)


def run_command(*, folder: str, arguments: list[str], output: str, kill: dict[str, Any] | None, is_fresh: bool) -> int:
    """Run `aftermix ARGUMENTS` in `folder`, write what it said and its exit code to `output`, and return the code."""
    said = {stream: Path(f"{output}.{stream}") for stream in ("stdout", "stderr")}
    with said["stdout"].open("wb") as out, said["stderr"].open("wb") as err:
        if is_fresh:
            command = [sys.executable, "-m", "aftermix", *arguments]
            code = subprocess.run(command, cwd=folder, stdout=out, stderr=err, check=False).returncode
        else:
            code = wait_for(fork_command(folder, arguments, (out.fileno(), err.fileno()), kill))

    # The bar of a killed command stands where the clock left it.
    heard = [f"--- {stream}\n".encode() + path.read_bytes() for stream, path in said.items()][: 1 if kill else 2]
    head = f"$ aftermix {' '.join(arguments)}\nexit code {code}\n".encode()
    Path(output).write_bytes(head + b"\n".join(heard) + b"\n")
    for path in said.values():
        path.unlink()
    return code


def fork_command(folder: str, arguments: list[str], streams: tuple[int, int], kill: dict[str, Any] | None) -> int:
    """Return the process number of a child that runs the command line."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child

    code = 1
    try:
        os.setsid()
        os.chdir(folder)
        for target, stream in enumerate(streams, 1):
            os.dup2(stream, target)
        if kill:
            die_when(Path(folder), kill["pattern"], kill["lines"])
        code = call_product(arguments)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def call_product(arguments: list[str]) -> int:
    """Return the exit code of the product's `main`; an exception that it lets through is told in one line."""
    sys.argv = ["aftermix", *arguments]
    try:
        from aftermix.cli import main as product

        product()
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
    except BaseException as error:
        if os.environ.get("SHOW_TRACEBACKS"):
            traceback.print_exc()
        print(f"Uncaught {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


def die_when(folder: Path, pattern: str, lines: int) -> None:
    """Kill this process as soon as a file of `folder` matches `pattern` and has so many `lines`.

    Looked for after each call that puts a file in place or forces it to disk, so that the moment is always the same.
    """

    def die_if_there() -> None:
        if any(path.read_bytes().count(b"\n") >= lines for path in folder.glob(pattern)):
            os.kill(os.getpid(), signal.SIGKILL)

    def watched(call: Callable[..., Any]) -> Callable[..., Any]:
        def call_and_look(*arguments: Any, **options: Any) -> Any:
            result = call(*arguments, **options)
            die_if_there()
            return result

        return call_and_look

    for name in ("fsync", "rename", "replace"):
        setattr(os, name, watched(getattr(os, name)))


def wait_for(child: int) -> int:
    """Return the exit code of `child`, negative for a signal; one that takes too long is killed."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return LIMIT_CODE
        time.sleep(0.01)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
