"""Commands and snippets to go on from a run, with this run's own paths, to be copied as they are."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from aftermix.report.sections.mixture import is_mixture


@dataclass(frozen=True)
class UsageCommands:
    """Ready commands; `run` is the folder as the user named it, so they work where the search was started."""

    run: str
    command: str
    """`search` or `mixture`."""
    resume: str
    reoptimise: str
    report: str
    transformers: str
    vllm: str


def build_usage(run: Path) -> UsageCommands:
    """Commands and snippets for the run folder `run`."""
    folder = run.as_posix()
    quoted = shlex.quote(folder)
    model = f"{folder}/model"

    command, other = ("mixture", "utility") if is_mixture(run) else ("search", "objective")
    return UsageCommands(
        run=folder,
        command=command,
        resume=f"aftermix {command} --resume {quoted}",
        reoptimise=f"aftermix {command} other-{other}.yaml --from {quoted} -o {shlex.quote(f'{folder}-2')}",
        report=f"aftermix report {quoted}",
        transformers=(
            "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
            f"model = AutoModelForCausalLM.from_pretrained({model!r})\n"
            f"tokenizer = AutoTokenizer.from_pretrained({model!r})\n"
            'inputs = tokenizer("The capital of Japan is", return_tensors="pt")\n'
            "print(tokenizer.decode(model.generate(**inputs, max_new_tokens=32)[0]))"
        ),
        vllm=f"vllm serve {shlex.quote(model)}",
    )
