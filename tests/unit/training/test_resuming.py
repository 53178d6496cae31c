"""A run that is killed (SIGKILL, a real process) and started again ends with the bytes of one that never stopped."""

from __future__ import annotations

import json
import resource
import shlex
import shutil
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from aftermix.cli import cli
from aftermix.config import Config, parse_config
from aftermix.errors import AftermixError, RunFailedError
from aftermix.jobs.train import expert_run
from aftermix.jobs.train.command import train
from aftermix.training import loop
from aftermix.training.resuming import describe_differences
from support.forked import run_forked

KILLED = """
import json, os, signal, sys
from pathlib import Path
import torch
import aftermix.training.loop as loop
import aftermix.training.resuming as resuming
import aftermix.checkpoints.writer as writer
from transformers import LlamaForCausalLM, LlamaTokenizer  # before the forks: slow to import
from aftermix.config import parse_config
from aftermix.jobs.train.command import train
from aftermix.jobs.train import expert_run
from aftermix.jobs.train.expert_run import _ExpertWriter
expert_run.refuse_own_vector = lambda *_: None  # as versions that began with it

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

def after_step_1():  # before the first resume point
    kill_after_step(1)

def after_step_3():  # between resume points
    kill_after_step(3)

def kill_after_step(number):
    advance = loop.StepRecorder.on_step_end
    def step(self, *args, **kwargs):
        advance(self, *args, **kwargs)
        if len(self.losses) == number:
            die()
    loop.StepRecorder.on_step_end = step

def in_a_backward_pass():  # while merge-aware training has the weights moved
    add = loop.StepRecorder.add
    def added(self, loss):
        if len(self.losses) == 4:
            die()
        return add(self, loss)
    loop.StepRecorder.add = added

def in_a_resume_point():  # the second one: weights are there, the optimizer's state is cut off
    save = torch.save
    def cut(value, path, *args, **kwargs):
        if "checkpoint-4" in str(path) and "optimizer" in str(path):
            Path(path).write_bytes(b"half"); die()
        return save(value, path, *args, **kwargs)
    torch.save = cut

def before_a_point_is_marked():
    write = resuming.write_json
    resuming.write_json = lambda path, value: die() if "checkpoint-4" in str(path) else write(path, value)

def in_a_checkpoint_along_the_way():
    write = _ExpertWriter.write
    def cut(self, folder, **options):
        if options["tokens"] == 512:
            Path.rename = die
        return write(self, folder, **options)
    _ExpertWriter.write = cut

def before_the_expert_appears():
    write = _ExpertWriter.write
    def cut(self, folder, **options):
        if folder == self.plan.folder:
            Path.rename = die
        return write(self, folder, **options)
    _ExpertWriter.write = cut

folder = Path.cwd()
for name, (settings, moment) in json.loads(sys.argv[1]).items():
    child = os.fork()
    if child == 0:
        globals()[moment]()
        train(parse_config(settings, where="train.yaml", folder=folder), folder / name)
        os._exit(3)
    _, status = os.waitpid(child, 0)
    print(name, os.WTERMSIG(status) if os.WIFSIGNALED(status) else status)
"""

TEXTS = [f"the {a} cat sees the {b} dog and the {b} bird" for a in ("red", "old", "sly") for b in ("big", "wet")]

POINTS = {
    "after_step_1": None,
    "after_step_3": 2,
    "in_a_backward_pass": 4,
    "in_a_resume_point": 2,
    "before_a_point_is_marked": 2,
    "in_a_checkpoint_along_the_way": 2,
    "before_the_expert_appears": 4,
}
"""Where a kill comes, and the step of the whole resume point that it leaves."""
OPTIMIZERS: dict[str, Any] = {
    "adamw": {"optimizer": "adamw"},
    "merge_aware": {"optimizer": "merge_aware"},
    "own_vector": {"optimizer": {"name": "merge_aware", "offset": "own_vector"}},
    "damage": {"optimizer": {"name": "merge_aware", "scale": {"damage": 0.02}}},
    "sam": {"optimizer": "sam"},
    "dropout": {"base": "dropout"},
}
CASES = {
    **{("adamw", moment): step for moment, step in POINTS.items()},
    **{
        ("merge_aware", moment): POINTS[moment]
        for moment in ("after_step_3", "in_a_backward_pass", "in_a_resume_point")
    },
    **{(kind, "after_step_3"): 2 for kind in ("own_vector", "damage", "sam", "dropout")},
}


def settings(*, base: str = "base", **train: Any) -> dict[str, Any]:
    return {
        "base": base,
        "train": {
            "datasets": {"cats": {"data": "corpus.jsonl", "tokens": 640}},
            "context": 32,
            "batch_size": 4,
            "accumulation": 2,
            "learning_rate": 1e-3,
            "warmup_steps": 1,
            "threads": 1,
            "device": "cpu",
            "save_steps": 2,
            "checkpoint_tokens": [256, 512],
            **train,
        },
    }


@pytest.fixture(scope="module")
def world(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every case, killed once: folders of the cases' names with what the kill left."""
    root = tmp_path_factory.mktemp("killed")
    shutil.copytree(base_folder, root / "base")
    shutil.copytree(base_folder, root / "dropout")
    values = json.loads((root / "base/config.json").read_text())
    (root / "dropout/config.json").write_text(json.dumps(values | {"attention_dropout": 0.3}))
    (root / "corpus.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS * 20))
    cases = {f"{kind}-{moment}": (settings(**OPTIMIZERS[kind]), moment) for kind, moment in CASES}
    cases["refused"] = (settings(checkpoint_tokens=None), "after_step_3")
    cases["kept"] = (settings(**OPTIMIZERS["damage"]), "after_step_3")
    done = run_forked(KILLED, json.dumps(cases), folder=root)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [word for name in cases for word in (name, str(int(signal.SIGKILL)))], done
    return root


def config_in(world: Path, **options: Any) -> Config:
    return parse_config(settings(**options), where="train.yaml", folder=world)


@pytest.fixture(scope="module")
def uninterrupted(world: Path) -> dict[str, dict[str, bytes]]:
    """What a run without a kill leaves."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(expert_run, "refuse_own_vector", lambda _: None)  # as versions that began with it
        for kind, options in OPTIMIZERS.items():
            train(config_in(world, **options), world / "whole" / kind)
    return {kind: everything(world / "whole" / kind) for kind in OPTIMIZERS}


def everything(folder: Path) -> dict[str, bytes]:
    """Content of every file of the experts and their checkpoints; records without their times."""
    found = {}
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            content = file.read_bytes()
            if file.name == "train.json":
                record = json.loads(content)
                content = json.dumps({k: v for k, v in record.items() if "second" not in k}).encode()
            found[str(file.relative_to(folder))] = content
    return found


@pytest.mark.parametrize(("kind", "moment"), CASES, ids=[f"{kind}-{moment}" for kind, moment in CASES])
def test_killed_and_started_again(
    world: Path, uninterrupted: dict[str, dict[str, bytes]], kind: str, moment: str
) -> None:
    out = world / f"{kind}-{moment}"
    step = CASES[kind, moment]
    points = [path.parent.name for path in (out / ".cats.training").glob("*/point.json")]
    assert points == ([f"checkpoint-{step}"] if step else [])
    said: list[str] = []
    train(config_in(world, **OPTIMIZERS[kind]), out, log=said.append)
    goes_on = [f"cats: goes on after step {step} of 5"] if step else []
    assert said[0].startswith(f"cats: {world / 'corpus.jsonl'}: 120 documents, ")
    assert said[1:-1] == ["cats: trains on 640 tokens, 0.44 epochs", *goes_on, f"cats: wrote {out / 'cats'}"]
    assert everything(out) == uninterrupted[kind]
    assert sorted(path.name for path in out.iterdir()) == ["cats", "cats-checkpoints"]


def test_the_cases_differ(uninterrupted: dict[str, dict[str, bytes]]) -> None:
    """So that equality above says something: dropout, too, changes the weights."""
    assert len({files["cats/model.safetensors"] for files in uninterrupted.values()}) == len(OPTIMIZERS)


@pytest.mark.usefixtures("uninterrupted")
def test_no_run_begins_with_the_offset_that_trains_worse_experts(world: Path) -> None:
    """Those that began with it go on (above), and finished ones are taken as they are."""
    config = config_in(world, **OPTIMIZERS["own_vector"])
    remedy = r"Use `offset: paper`, or leave it out; experts and unfinished runs that have it stay and go on\."
    with pytest.raises(AftermixError, match=rf"train\.optimizer\.offset: `own_vector` trains worse .*{remedy}"):
        train(config, world / "begun")
    assert not list((world / "begun").glob("**/*.safetensors"))
    said: list[str] = []
    train(config, world / "whole/own_vector", log=said.append)
    assert said == [f"cats: reused {world / 'whole/own_vector/cats'}, trained before by the same recipe"]


def test_a_run_goes_on_with_the_noise_that_it_began_with(world: Path) -> None:
    """Another version or machine may find another scale; a run that began keeps its own."""
    out = world / "kept"
    (file,) = (out / ".cats.training").glob("*/point.json")
    point = json.loads(file.read_text())
    assert point["noise"]["damage"] == 0.02
    point["noise"]["scale"] = 0.125
    file.write_text(json.dumps(point))
    train(config_in(world, **OPTIMIZERS["damage"]), out)
    assert json.loads((out / "cats/train.json").read_text())["noise"]["scale"] == 0.125


def test_an_unfinished_run_of_another_recipe_is_refused(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, corpus = world / "refused", world / "corpus.jsonl"
    with pytest.raises(
        AftermixError,
        match=r"\.cats\.training: holds an unfinished run of another recipe \(learning_rate 0.001 there, 0.02 here; "
        r"seed 0 there, 1 here\)\. Name another output folder, take the recipe back, or remove this folder to begin",
    ):
        train(config_in(world, checkpoint_tokens=None, learning_rate=2e-2, seed=1), out)
    with monkeypatch.context() as patch:
        patch.setattr("aftermix.training.resuming.count_processes", lambda: 2)
        with pytest.raises(AftermixError, match=r"another recipe \(1 processes there, 2 here\)"):
            train(config_in(world, checkpoint_tokens=None), out)
    text = corpus.read_text()
    corpus.write_text(text + '{"text": "one more"}\n')
    with pytest.raises(AftermixError, match=r"unfinished run of another recipe \(other data\)"):
        train(config_in(world, checkpoint_tokens=None), out)
    corpus.write_text(text)
    said: list[str] = []
    train(config_in(world, save_steps=0, accumulation=1, checkpoint_tokens=None), out, log=said.append)
    assert said[2] == "cats: goes on after step 2 of 5"
    assert sorted(path.name for path in out.iterdir()) == ["cats"]


def test_an_interruption_says_the_command_that_goes_on(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, out = world / "train.yaml", world / "interrupted"
    file.write_text(yaml.safe_dump(settings(checkpoint_tokens=None)))
    advance = loop.StepRecorder.on_step_end

    def interrupt(self: loop.StepRecorder, *args: Any, **kwargs: Any) -> None:
        advance(self, *args, **kwargs)
        if len(self.losses) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop.StepRecorder, "on_step_end", interrupt)
        done = CliRunner().invoke(cli, ["train", str(file), "-o", str(out)])
    assert done.exit_code != 0
    goes_on = shlex.join(["aftermix", "train", str(file), "-o", str(out)])
    assert f"resume points are kept; go on with:\n  {goes_on}\n" in done.output
    done = CliRunner().invoke(cli, ["train", str(file), "-o", str(out)])
    assert "cats: goes on after step 2 of 5" in done.output
    assert done.stdout.splitlines()[-1] == f"cats: {out / 'cats'}"


def break_loss(patch: pytest.MonkeyPatch, step: int) -> None:
    """Have the loss of step `step` (from 1) be no number."""
    record = loop.StepRecorder.record
    broken = lambda self, loss: record(self, float("nan") if len(self.losses) == step - 1 else loss)  # noqa: E731
    patch.setattr(loop.StepRecorder, "record", broken)


def test_a_run_that_fails_keeps_its_points_and_checkpoints(
    world: Path, uninterrupted: dict[str, dict[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = world / "failed"
    with monkeypatch.context() as patch:
        break_loss(patch, 4)
        with pytest.raises(RunFailedError, match=r"train cats, step 4: the loss is nan") as caught:
            train(config_in(world), out)
    assert caught.value.exit_code == 1
    assert [path.parent.name for path in out.glob(".cats.training/*/point.json")] == ["checkpoint-2"]
    assert [path.name for path in (out / "cats-checkpoints").iterdir()] == ["tokens-000000000256"]
    said: list[str] = []
    train(config_in(world), out, log=said.append)
    assert "cats: goes on after step 2 of 5" in said
    assert everything(out) == uninterrupted["adamw"]


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """A disk on which no file grows beyond `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    ("size", "point"),
    [(50_000, None), (150_000, None), (0, 2)],
    ids=["weights", "optimizer", "second_point"],
)
def test_a_disk_that_is_full_is_one_line_and_costs_no_point(
    world: Path,
    uninterrupted: dict[str, dict[str, bytes]],
    monkeypatch: pytest.MonkeyPatch,
    size: int,
    point: int | None,
    tmp_path: Path,
) -> None:
    out, file = tmp_path / "out", world / "full.yaml"
    file.write_text(yaml.safe_dump(settings()))
    advance = loop.StepRecorder.on_step_end

    with monkeypatch.context() as patch, ExitStack() as stack:

        def fill_disk(self: loop.StepRecorder, *args: Any, **kwargs: Any) -> None:
            advance(self, *args, **kwargs)
            if len(self.losses) == (point or 0) + 2:
                stack.enter_context(largest_file(size))

        patch.setattr(loop.StepRecorder, "on_step_end", fill_disk)
        done = CliRunner().invoke(cli, ["train", str(file), "-o", str(out)])

    step = (point or 0) + 2
    assert isinstance(done.exception, RunFailedError)
    message = str(done.exception)
    assert message.startswith(f"{out / '.cats.training'}: the resume point of step {step} cannot be written (")
    goes_on = f"the run goes on after step {point}" if point else "no earlier point is there"
    assert message.endswith(f"). Free space and give the same command again; {goes_on}.")
    assert "\n" not in message
    points = [path.name for path in out.glob(".cats.training/*")]
    assert points == ([f"checkpoint-{point}"] if point else [])
    said: list[str] = []
    train(config_in(world), out, log=said.append)
    assert (f"cats: goes on after step {point} of 5" in said) == bool(point)
    assert everything(out) == uninterrupted["adamw"]


@pytest.mark.parametrize(("step", "what"), [(4, "cats-checkpoints/tokens-000000000512"), (5, "cats")])
def test_a_disk_that_is_full_when_a_model_is_written_costs_no_point(
    world: Path,
    uninterrupted: dict[str, dict[str, bytes]],
    monkeypatch: pytest.MonkeyPatch,
    step: int,
    what: str,
    tmp_path: Path,
) -> None:
    out = tmp_path / "out"
    advance = loop.StepRecorder.on_step_end

    with monkeypatch.context() as patch, ExitStack() as stack:

        def fill_disk(self: loop.StepRecorder, *args: Any, **kwargs: Any) -> None:
            if len(self.losses) == step:
                stack.enter_context(largest_file(1000))
            advance(self, *args, **kwargs)

        patch.setattr(loop.StepRecorder, "on_step_end", fill_disk)
        with pytest.raises(RunFailedError) as caught:
            train(config_in(world), out)

    assert str(caught.value) == (
        f"{out / what}: cannot be written (File too large). Make room there and give the same command again; "
        "experts, checkpoints and resume points stay."
    )
    point = 2 if step == 4 else 4
    assert [path.parent.name for path in out.glob(".cats.training/*/point.json")] == [f"checkpoint-{point}"]
    said: list[str] = []
    train(config_in(world), out, log=said.append)
    assert f"cats: goes on after step {point} of 5" in said
    assert everything(out) == uninterrupted["adamw"]


def test_a_recipe_that_names_no_rules_had_the_first_labels() -> None:
    told = ["conversations labelled by rules 1 there, by rules 2 here"]
    assert describe_differences({"seed": 0}, {"seed": 0, "labels": 2}) == told
    assert describe_differences({"seed": 0, "labels": 2}, {"seed": 0, "labels": 2}) == []
    assert describe_differences({"seed": 0}, {"seed": 0}) == []
