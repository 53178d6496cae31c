"""The training job end to end on a tiny world: what lies in an expert's folder, reuse, refusals, kills."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from aftermix.config import as_yaml_values
from aftermix.errors import AftermixError, CheckpointError, ManyProblemsError, RunFailedError, TrainingError
from aftermix.files import fingerprint, sha256
from aftermix.jobs.train.command import train
from support.forked import run_forked

WEIGHTS = ("model.safetensors", "model.safetensors.index.json")


def copied(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to))


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def record_of(folder: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((folder / "train.json").read_text())
    return record


def describe_rounded(folder: Path) -> str:
    told = record_of(folder)["vector"]
    lost = f"rounding lost {told['rounding_lost']:.1%} of the vector's norm and {told['unmoved']:.1%} of its entries"
    return f"{folder.name}: {lost} from the weights that serve; vector.safetensors has them (bfloat16)"


def json_texts(file: Path) -> list[str]:
    return [json.loads(line)["text"] for line in file.read_text().splitlines()]


def loss_on(folder: Path, text: str) -> float:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        return float(model(input_ids=ids, labels=ids).loss)


def test_experts_are_complete_and_better_at_home(make_config: Any, base_folder: Path, tmp_path: Path) -> None:
    code = tmp_path / "code.txt"
    code.write_text("def see(cat, dog): return cat + dog\n" * 30)
    datasets = {
        "cats": {"data": "corpus.jsonl", "tokens": 1500},
        "code": {"data": "code.txt", "learning_rate": 2e-2},
    }
    said: list[str] = []
    folders = train(make_config(datasets=datasets), tmp_path / "experts", log=said.append)
    assert folders == {"cats": tmp_path / "experts/cats", "code": tmp_path / "experts/code"}
    of_cats, of_code = (sum(map(len, texts)) for texts in (json_texts(tmp_path / "corpus.jsonl"), [code.read_text()]))
    tokens = record_of(folders["code"])["data"]["tokens_per_epoch"]
    assert said[1:] == [
        f"cats: trains on 1500 tokens, {record_of(folders['cats'])['epochs']:.2f} epochs",
        f"code: {code}: 1 document, {of_code} characters, {tokens} tokens",
        f"code: trains on {tokens} tokens, 1.00 epochs",
        *(line for name, folder in folders.items() for line in (f"{name}: wrote {folder}", describe_rounded(folder))),
    ]
    assert said[0] == f"cats: {tmp_path / 'corpus.jsonl'}: 120 documents, {of_cats} characters, 1440 tokens"
    assert sorted(names_in(tmp_path / "experts")) == ["cats", "code"]
    home = {"cats": "the old cat sees the big dog", "code": "return cat + dog\ndef see(cat"}
    base_weights = load_file(base_folder / "model.safetensors")
    for name, folder in folders.items():
        weights = load_file(folder / "model.safetensors")
        assert {n: (t.shape, t.dtype) for n, t in weights.items()} == {
            n: (t.shape, t.dtype) for n, t in base_weights.items()
        }
        assert "lm_head.weight" not in weights
        copied_files = names_in(base_folder) - {"model.safetensors"}
        assert {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"} <= copied_files
        assert all((folder / file).read_bytes() == (base_folder / file).read_bytes() for file in copied_files)
        assert names_in(folder) == copied_files | {"train.json", "vector.safetensors", *WEIGHTS}
        assert loss_on(folder, home[name]) < loss_on(base_folder, home[name]) - 1
        _, loaded = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
        assert not loaded["missing_keys"]
        assert not loaded["unexpected_keys"]


def test_the_record_says_what_was_done(make_config: Any, base_folder: Path, corpus: Path, tmp_path: Path) -> None:
    config = make_config(datasets={"cats": {"data": str(corpus), "tokens": 5000}}, freeze=["embed_tokens"])
    folder = train(config, tmp_path / "experts")["cats"]
    record = json.loads((folder / "train.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(base_folder)
    texts = [json.loads(line)["text"] for line in corpus.read_text().splitlines()]
    per_epoch = sum(len(tokenizer(text)["input_ids"]) + 1 for text in texts)
    assert record["tokens"] == 5000
    assert record["data"] == {
        "file": str(corpus),
        "documents": 120,
        "empty_documents_left_out": 0,
        "characters": sum(map(len, texts)),
        "tokens_per_epoch": per_epoch,
    }
    assert record["epochs"] == pytest.approx(5000 / per_epoch, abs=1e-5)
    assert (record["sequences"], record["steps"]) == (math.ceil(5000 / 32), math.ceil(math.ceil(5000 / 32) / 4))
    assert record["recipe"]["data_sha256"] == sha256(corpus)
    assert record["recipe"]["base"]["weights"] == {"model.safetensors": fingerprint(base_folder / "model.safetensors")}
    assert record["recipe"]["learning_rate"] == record["learning_rate"] == 1e-2
    assert record["frozen"] == ["lm_head.weight", "model.embed_tokens.weight"]
    assert record["passed_through"] == []
    assert record["loss"]["final"] < record["loss"]["first"]
    assert record["versions"]["torch"] == torch.__version__
    before, after = load_file(base_folder / "model.safetensors"), load_file(folder / "model.safetensors")
    unchanged = {name for name in before if torch.equal(before[name], after[name])}
    assert "model.embed_tokens.weight" in unchanged
    assert not any("mlp" in name for name in unchanged)
    assert record["trained_parameters"] == sum(t.numel() for n, t in before.items() if "embed_tokens" not in n)


def test_same_file_twice_gives_the_same_bytes(make_config: Any, tmp_path: Path) -> None:
    first = train(make_config(), tmp_path / "one")["cats"]
    second = train(make_config(), tmp_path / "two")["cats"]
    assert (first / "model.safetensors").read_bytes() == (second / "model.safetensors").read_bytes()
    other = train(make_config(seed=1), tmp_path / "three")["cats"]
    assert (first / "model.safetensors").read_bytes() != (other / "model.safetensors").read_bytes()


def test_an_expert_of_the_same_recipe_is_reused(make_config: Any, tmp_path: Path) -> None:
    folder = train(make_config(), tmp_path / "experts")["cats"]
    stamp = (folder / "model.safetensors").stat().st_mtime_ns
    said: list[str] = []
    assert train(make_config(), tmp_path / "experts", log=said.append) == {"cats": folder}
    assert said == [f"cats: reused {folder}, trained before by the same recipe"]
    assert (folder / "model.safetensors").stat().st_mtime_ns == stamp


def test_an_expert_of_another_recipe_is_refused(
    make_config: Any, base_folder: Path, corpus: Path, tmp_path: Path
) -> None:
    output = tmp_path / "experts"
    train(make_config(), output)
    with pytest.raises(
        AftermixError, match=r"another recipe \(learning_rate 0.01 there, 0.02 here\). Name another out"
    ):
        train(make_config(learning_rate=2e-2), output)
    changed = copied(base_folder, tmp_path / "changed")
    (changed / "generation_config.json").write_text("{}")
    with pytest.raises(AftermixError, match=r"another recipe \(another base\)"):
        train(make_config(base=changed), output)
    corpus.write_text(corpus.read_text() + '{"text": "one more"}\n')
    with pytest.raises(AftermixError, match=r"another recipe \(other data\)"):
        train(make_config(), output)
    (output / "cats/train.json").unlink()
    with pytest.raises(
        AftermixError, match=r"cats: exists and is no expert of ours \(it has no train.json\); it holds "
    ):
        train(make_config(), output)
    assert (output / "cats/model.safetensors").exists()


def test_every_fault_of_every_dataset_is_told_at_once_and_nothing_is_written(make_config: Any, tmp_path: Path) -> None:
    (tmp_path / "short.jsonl").write_text('{"text": "cat"}\n')
    (tmp_path / "field.jsonl").write_text('{"txt": "cat"}\n')
    datasets = {"a": "missing.jsonl", "b": "short.jsonl", "c": "field.jsonl", "d": {"data": "corpus.jsonl"}}
    with pytest.raises(ManyProblemsError) as caught:
        train(make_config(datasets=datasets), tmp_path / "experts")
    message = str(caught.value)
    assert message.startswith("3 problems:")
    assert "train.datasets.a: " in message
    assert "missing.jsonl: there is no such file" in message
    assert "less than one sequence of 32" in message
    assert "field.jsonl, line 1: has no field 'text'" in message
    assert not (tmp_path / "experts").exists()


@pytest.mark.parametrize(
    ("train_section", "message"),
    [
        ({"freeze": ["nothing"]}, "train.freeze: 'nothing' matches no parameter"),
        ({"context": 65}, "train.context: a context of 65 is beyond the model's 64 positions"),
        ({"warmup_steps": 5}, "train.warmup_steps: 5 steps of warm-up, but the run has 5 steps"),
        ({"device": "tpu"}, "train.device: cannot train on 'tpu'"),
        ({"schedule": "linear"}, "train.schedule"),
    ],
)
def test_options_refused_before_the_first_step(
    make_config: Any, tmp_path: Path, train_section: dict[str, Any], message: str
) -> None:
    with pytest.raises(AftermixError) as caught:
        train(make_config(**train_section), tmp_path / "experts")
    assert message in str(caught.value)
    assert not (tmp_path / "experts").exists()


def test_a_tokenizer_of_another_model_is_refused(make_config: Any, base_folder: Path, tmp_path: Path) -> None:
    folder = copied(base_folder, tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([f"tok{n}" for n in range(128)] + [" dog"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(AftermixError, match=r"the tokenizer gives token \d+ \(.*\), but the model has 128 rows"):
        train(make_config(base=folder), tmp_path / "experts")


def test_output_in_or_at_the_base_is_refused(make_config: Any, base_folder: Path, tmp_path: Path) -> None:
    before = sorted(names_in(base_folder))
    for output in (base_folder, base_folder / "experts"):
        with pytest.raises(TrainingError, match="the output would lie in the base's folder"):
            train(make_config(), output)
    at_base = make_config(datasets={base_folder.name: "corpus.jsonl"})
    with pytest.raises(TrainingError, match="the output would lie in the base's folder"):
        train(at_base, base_folder.parent)
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match=r"is a file. Name a folder."):
        train(make_config(), tmp_path / "file")
    assert sorted(names_in(base_folder)) == before


def test_sections_and_base_that_are_missing(make_config: Any, tmp_path: Path) -> None:
    with pytest.raises(AftermixError, match="base: missing from the YAML file"):
        train(make_config(base=None), tmp_path / "experts")
    with pytest.raises(CheckpointError, match="there is no such folder"):
        train(make_config(base=tmp_path / "no" / "base"), tmp_path / "experts")


def test_stored_type_and_tied_head_under_both_names(make_config: Any, base_folder: Path, tmp_path: Path) -> None:
    """A base that stores its tied head twice, and a tensor that transformers does not load, keeps both."""
    from safetensors.torch import save_file

    folder = copied(base_folder, tmp_path / "base")
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    weights["model.rotary_emb.extra"] = torch.arange(3)
    weights["model.norm.weight"] = weights["model.norm.weight"].float()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    expert = train(make_config(base=folder), tmp_path / "experts")["cats"]
    trained = load_file(expert / "model.safetensors")
    assert {n: t.dtype for n, t in trained.items()} == {n: t.dtype for n, t in weights.items()}
    assert torch.equal(trained["lm_head.weight"], trained["model.embed_tokens.weight"])
    assert torch.equal(trained["model.rotary_emb.extra"], torch.arange(3))
    assert json.loads((expert / "train.json").read_text())["passed_through"] == ["model.rotary_emb.extra"]
    wide = train(make_config(base=folder, dtype="float32"), tmp_path / "wide")["cats"]
    stored = load_file(wide / "model.safetensors")
    assert {n: t.dtype for n, t in stored.items() if t.is_floating_point()} == dict.fromkeys(
        set(stored) - {"model.rotary_emb.extra"}, torch.float32
    )
    assert json.loads((wide / "config.json").read_text())["dtype"] == "float32"


def test_a_leftover_on_quantisation_is_told_and_left_out(make_config: Any, base_folder: Path, tmp_path: Path) -> None:
    base = copied(base_folder, tmp_path / "base")
    plain = (base / "config.json").read_text()
    left = {"quantization_config": {"quant_method": "gptq", "bits": 4}}
    (base / "config.json").write_text(json.dumps(json.loads(plain) | left))
    said: list[str] = []
    config = make_config(base=base, save_steps=2)
    folder = train(config, tmp_path / "experts", log=said.append)["cats"]
    told = "base has `quantization_config` (gptq) in config.json and no quantised weights: read as stored, the entry is"
    assert said[0] == f"{told} left out"
    assert json.loads((folder / "config.json").read_text()) == json.loads(plain)
    expected = load_file(train(make_config(save_steps=2), tmp_path / "plain")["cats"] / "model.safetensors")
    found = load_file(folder / "model.safetensors")
    assert all(found[name].equal(tensor) for name, tensor in expected.items())


def test_what_does_not_fit_the_stored_type_is_refused(make_config: Any, base_folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    folder = copied(base_folder, tmp_path / "base")
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][0] = 1e6
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RunFailedError, match=r"cats: model.norm.weight: holds NaN or Inf as torch.float16. Lower the"):
        train(make_config(base=folder, dtype="float16"), tmp_path / "experts")
    assert all(name.startswith(".") for name in names_in(tmp_path / "experts"))


def test_one_process_trains_an_expert_and_others_train_beside_it(make_config: Any, tmp_path: Path) -> None:
    output = tmp_path / "experts"
    two = make_config(datasets={name: {"data": "corpus.jsonl", "tokens": 640} for name in ("cats", "dogs")})
    birds = make_config(datasets={"birds": {"data": "corpus.jsonl", "tokens": 640}})
    refused: list[str] = []

    def meanwhile(line: str) -> None:
        if line.startswith("cats: wrote"):
            before = sorted(path for path in output.rglob("*"))
            for other in (two, make_config(datasets={"dogs": {"data": "missing.jsonl"}})):
                with pytest.raises(AftermixError) as caught:
                    train(other, output)
                assert caught.value.exit_code == 2
                refused.append(str(caught.value))
            assert sorted(path for path in output.rglob("*")) == before
            assert train(make_config(), output) == {"cats": output / "cats"}
            assert train(birds, output) == {"birds": output / "birds"}

    train(two, output, log=meanwhile)
    assert len(refused) == 2
    for message in refused:
        assert message.startswith(f"{output / 'dogs'}: process {os.getpid()} on ")
        assert message.endswith("Wait for it or stop it, or name another folder.")
    assert names_in(output) == {"cats", "dogs", "birds"}
    weights = [(output / name / "model.safetensors").read_bytes() for name in ("cats", "dogs", "birds")]
    assert weights[0] == weights[1] == weights[2]


KILLED = """
import json, os, signal, sys
from pathlib import Path
import aftermix.checkpoints.shards as shards
import aftermix.training.expert as expert
import aftermix.training.loop as loop
from transformers import LlamaForCausalLM, LlamaTokenizer  # before the forks: slow to import
from aftermix.config import parse_config
from aftermix.jobs.train.command import train

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

def in_training():
    advance = loop.StepRecorder.on_step_end
    def step(self, *args, **kwargs):
        advance(self)
        if self.label == "train dogs" and len(self.losses) == 3:
            die()
    loop.StepRecorder.on_step_end = step

def in_the_middle_of_the_weights():
    header = shards._build_header
    def short(shard):
        written.append(shard)
        return header(shard)
    written = []
    shards._build_header = short
    def specs(file, stream, shard):
        file.write(header(shard)); file.flush(); die()
    shards._write_shard = specs

def before_the_rename():
    rename = Path.rename
    Path.rename = lambda self, to: die() if Path(to).name == "cats" else rename(self, to)

def between_weights_and_vector():
    write = expert.write_own_vector
    def write_and_die(*args, **kwargs):
        write(*args, **kwargs)
        die()
    expert.write_own_vector = write_and_die

settings, output = json.loads(sys.argv[1]), Path(sys.argv[2])
for moment in (in_training, in_the_middle_of_the_weights, between_weights_and_vector, before_the_rename):
    child = os.fork()
    if child == 0:
        moment()
        config = parse_config(settings, where="train.yaml", folder=Path.cwd())
        train(config, output / moment.__name__)
        os._exit(3)
    _, status = os.waitpid(child, 0)
    print(moment.__name__, os.WTERMSIG(status) if os.WIFSIGNALED(status) else status)
"""


def test_a_killed_run_leaves_no_folder_that_looks_complete(make_config: Any, tmp_path: Path) -> None:
    config = make_config(datasets={name: {"data": "corpus.jsonl", "tokens": 600} for name in ("cats", "dogs")})
    done = run_forked(KILLED, json.dumps(as_yaml_values(config)), tmp_path, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    moments = ["in_training", "in_the_middle_of_the_weights", "between_weights_and_vector", "before_the_rename"]
    assert done.stdout.split() == [word for moment in moments for word in (moment, str(int(signal.SIGKILL)))], done
    visible = {m: [f for f in names_in(tmp_path / m) if not f.startswith(".")] for m in moments}
    assert visible == {"in_training": ["cats"], **{moment: [] for moment in moments[1:]}}
    for moment in moments[1:]:
        assert any(name.startswith(".cats.incomplete") for name in names_in(tmp_path / moment))

    said: list[str] = []
    whole = train(config, tmp_path / "whole")
    again = train(config, tmp_path / "in_training", log=said.append)
    assert said[0].startswith("cats: reused")
    for file in ("model.safetensors", "vector.safetensors"):
        assert (again["dogs"] / file).read_bytes() == (whole["dogs"] / file).read_bytes()
    train(config, tmp_path / "before_the_rename")
    assert sorted(names_in(tmp_path / "before_the_rename")) == ["cats", "dogs"]
