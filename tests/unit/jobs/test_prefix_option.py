"""`--prefix` of `diff` and `inspect`: what the message on other names says is what the command takes."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from aftermix.cli import cli
from aftermix.errors import AftermixError
from aftermix.jobs.analysis.targets import load_target, parse_prefixes

BASE = {"visual.": "visual.", "model.": "model."}
RENAMED = {"visual.": "model.visual.", "model.": "model.language_model."}


def write_model(folder: Path, prefixes: dict[str, str], *, shift: float) -> Path:
    """A vision tower and a language model of two layers each, under these prefixes."""
    seen, read = prefixes["visual."], prefixes["model."]
    names = {f"{read}embed_tokens.weight": (9, 4), f"{read}norm.weight": (4,), f"{seen}merger.mlp.0.weight": (4, 4)}
    for layer in range(2):
        names |= {f"{read}layers.{layer}.mlp.up_proj.weight": (8, 4), f"{seen}blocks.{layer}.attn.qkv.weight": (12, 4)}
    torch.manual_seed(0)
    folder.mkdir()
    tensors = {name: torch.randn(shape) + shift for name, shape in names.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps({"architectures": ["SomeForCausalLM"], "vocab_size": 9}))
    return folder


def run(*arguments: object) -> str:
    """Standard output of a command, or the text of what it was refused for."""
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    return str(result.exception) if result.exception else result.output


@pytest.mark.parametrize("command", ["diff", "inspect", "analyze"])
def test_the_option_that_the_message_names_is_taken(command: str, tmp_path: Path) -> None:
    base = write_model(tmp_path / "base", BASE, shift=0.0)
    expert = write_model(tmp_path / "expert", RENAMED, shift=0.5)
    arguments = [command, expert, "--base", base, *(["-o", tmp_path / "vector"] if command == "diff" else [])]
    told = run(*arguments)
    assert "Add to `vectors" not in told
    options = shlex.split(told.partition("Say `")[2].partition("`")[0])
    assert options == ["--prefix", "model.language_model.=model.", "--prefix", "model.visual.=visual."]

    assert "refused" not in run(*arguments, *options)
    if command == "diff":
        stored = load_file(next((tmp_path / "vector").rglob("*.safetensors")))
        assert {
            name.removeprefix("values."): float(values.float().mean()) for name, values in stored.items()
        } == pytest.approx(dict.fromkeys(load_file(base / "model.safetensors"), 0.5), abs=0.01)


def test_a_target_that_is_not_there_is_told_before_its_base_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "expert").mkdir()
    for command in ("inspect", "analyze"):
        told = run(command, tmp_path / "expret")
        assert told.startswith(f"{tmp_path / 'expret'}: there is no such file or folder. Correct it; ")
        assert "Did you mean" in told
    assert "is a model, whose vector needs a base" in run("inspect", tmp_path / "expert")


def test_what_is_no_map_and_what_a_file_says_itself_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AftermixError, match="expected OWN=BASE, found 'model.'"):
        parse_prefixes(["model."])
    with pytest.raises(AftermixError, match="names its own vectors"):
        load_target(str(tmp_path / "file.yaml"), base=None, prefixes={"a.": "b."})
    assert parse_prefixes([]) is None
