"""Doctor is green only where the next command would begin, and tells each fault on one line."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from aftermix.config import load_config
from aftermix.errors import AftermixError
from aftermix.jobs.doctor.command import doctor
from aftermix.jobs.doctor.diagnosis import ConfigDiagnosis
from aftermix.jobs.plan.command import plan
from conftest import run_cli

Family = Mapping[str, Path]


def write(folder: Path, values: Mapping[str, Any]) -> Path:
    path = folder / "file.yaml"
    path.write_text(json.dumps(values))
    return path


def examine(folder: Path, values: Mapping[str, Any]) -> ConfigDiagnosis:
    return doctor(load_config(write(folder, values)))


def list_problems(folder: Path, values: Mapping[str, Any]) -> list[str]:
    return [str(problem) for problem in examine(folder, values).problems]


@pytest.fixture
def search_file(family: Family, tasks: Path) -> dict[str, Any]:
    return {
        "base": str(family["base"]),
        "vectors": {"a": {"model": str(family["a"])}, "b": {"model": str(family["b"])}},
        "evaluate": {"tasks": ["colours"], "include_path": str(tasks), "items": {"search": 20, "select": 10}},
    }


@pytest.fixture
def training_file(family: Family, tmp_path: Path) -> dict[str, Any]:
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps({"text": f"the sum is {number}"}) + "\n" for number in range(30)))
    return {"base": str(family["base"]), "train": {"context": 16, "datasets": {"x": str(data)}}}


def test_a_sound_file_of_each_job_has_no_problem(
    search_file: dict[str, Any], training_file: dict[str, Any], family: Family, tmp_path: Path
) -> None:
    merge = {"base": str(family["base"]), "vectors": {"a": {"model": str(family["a"])}}}
    for values in (merge, search_file, {**search_file, "mixture": {}}, training_file):
        assert list_problems(tmp_path, values) == []


@pytest.mark.parametrize("job", ["search", "mixture", "train", "evaluate"])
def test_a_missing_base_is_told(
    job: str, search_file: dict[str, Any], training_file: dict[str, Any], tmp_path: Path
) -> None:
    values = dict(training_file if job == "train" else search_file)
    del values["base"]
    if job == "mixture":
        values["mixture"] = {}
    if job == "evaluate":
        del values["vectors"]
    assert "base: missing from the YAML file. Add `base:`; see docs/configuration.md." in list_problems(
        tmp_path, values
    )


def test_a_mixture_excludes_nothing_by_default(search_file: dict[str, Any], tmp_path: Path) -> None:
    search = examine(tmp_path, search_file)
    assert any(fact.startswith("exclude 'kind:embeddings'") for fact in search.facts)
    mixture = examine(tmp_path, {**search_file, "mixture": {}})
    assert not [fact for fact in mixture.facts if fact.startswith("exclude")]
    named = examine(tmp_path, {**search_file, "mixture": {}, "merge": {"exclude": ["mlp"]}})
    assert "exclude 'mlp': 6 tensors keep the base's values" in named.facts


def test_faults_of_the_file_and_of_what_it_names_are_told_in_one_round(
    search_file: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    search_file["vectors"]["b"] = {"model": "./nowhere", "wieght": 0.5}
    search_file["evaluate"]["tasks"] = ["colors"]
    assert run_cli("doctor", write(tmp_path, search_file)) == 2
    out = capsys.readouterr().out
    assert "3 problems:" in out
    assert "1. file.yaml: vectors.b.wieght: is not a known key. " in out
    assert "Did you mean `weight`?" in out
    assert "there is no such folder" in out
    assert "there is no task 'colors'" in out


def test_a_section_that_is_wrong_is_not_told_as_missing(
    search_file: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    search_file["evaluate"]["tasks"] = []
    assert run_cli("doctor", write(tmp_path, search_file)) == 2
    out = capsys.readouterr().out
    assert "1 problem:" in out
    assert "evaluate.tasks" in out


def test_an_expert_of_another_size_is_one_line(search_file: dict[str, Any], tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    settings = LlamaConfig(
        vocab_size=320,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=5,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(settings).save_pretrained(tmp_path / "large")
    search_file["vectors"]["b"] = {"model": str(tmp_path / "large")}
    (told,) = list_problems(tmp_path, search_file)
    assert told == (
        "config.json: vector 'b' has hidden_size = 64, base has 32; vector 'b' has num_hidden_layers = 5, base has 2; "
        "vector 'b' has head_dim = 16, base has 8; its tensors differ accordingly, "
        "first 'model.layers.2.input_layernorm.weight'. "
        "Was it trained from this base?"
    )


def test_many_tensors_of_other_shapes_are_one_line(
    search_file: dict[str, Any], copied: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = copied("b")
    weights = load_file(folder / "model.safetensors")
    wider = {
        name: tensor if "embed" in name else tensor.repeat(2, *[1] * (tensor.dim() - 1))
        for name, tensor in weights.items()
    }
    save_file(wider, folder / "model.safetensors", metadata={"format": "pt"})
    search_file["vectors"]["b"] = {"model": str(folder)}
    told = list_problems(tmp_path, search_file)
    assert len(told) == 1
    assert "more tensors have other shapes. Was it trained from this base?" in told[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"datasets": {"x": {"data": "DATA", "text_field": "body"}}}, "line 1: has no field 'body'; its fields: text"),
        ({"datasets": {"x": {"data": "DATA", "format": "chat"}}}, "line 1: has no field 'messages'; its fields: text"),
        (
            {"context": 100_000},
            "train.context: a context of 100000 is beyond the model's 64 positions. Use at most 64.",
        ),
        ({"freeze": ["nothing"]}, "train.freeze: 'nothing' matches no parameter"),
        ({"device": "npu"}, "train.device: cannot train on 'npu'"),
        ({"sources": {"y": {"data": "nowhere"}}}, "train.sources.y: "),
    ],
)
def test_what_a_training_would_refuse_is_told(
    change: dict[str, Any], message: str, training_file: dict[str, Any], tmp_path: Path
) -> None:
    data = training_file["train"]["datasets"]["x"]
    training_file["train"].update(json.loads(json.dumps(change).replace("DATA", data)))
    told = list_problems(tmp_path, training_file)
    assert len(told) == 1
    assert message in told[0]


def test_a_small_set_is_told_with_its_split_and_what_its_test_items_can_tell(
    search_file: dict[str, Any], tmp_path: Path
) -> None:
    search_file["evaluate"]["items"] = {}
    diagnosis = examine(tmp_path, search_file)
    assert "task 'colours': search 20, select 20, test 20" in diagnosis.facts
    told = "test items tell differences of 19.6 points and more: half a paired 95 % interval"
    assert f"{told}, if two merges answer 20% of the items unlike" in diagnosis.facts
    notes = [str(note) for note in diagnosis.notes]
    small = "only 60 items, fewer than the default counts need: search 20, select 20, test 20"
    assert f"task 'colours': {small}. Expect wider intervals." in notes


def test_columns_that_a_training_ignores_are_none_of_its_faults(training_file: dict[str, Any], tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text(json.dumps({"prompt": "the sum", "completion": "is 1", "source": "web"}) + "\n")
    dataset = {"data": str(pairs), "format": "completion", "ignore_columns": ["source"]}
    training_file["train"]["datasets"] = {"x": dataset}
    assert list_problems(tmp_path, training_file) == []
    del dataset["ignore_columns"]
    (told,) = list_problems(tmp_path, training_file)
    assert "line 1: holds text in 'source', which is not read beside 'prompt' and 'completion'" in told


@pytest.mark.skipif(importlib.util.find_spec("peft") is not None, reason="peft is installed")
def test_a_package_that_is_not_installed_is_told(training_file: dict[str, Any], tmp_path: Path) -> None:
    training_file["train"]["lora"] = {"rank": 4}
    assert list_problems(tmp_path, training_file) == [
        "train.lora: peft is not installed. Run `pip install 'aftermix[lora]'`."
    ]


def add_task(folder: Path, tasks: Path, change: Callable[[str], str]) -> Path:
    """A folder with `colours`, and `own`: the same task as `change` makes it."""
    shutil.copytree(tasks, folder)
    text = (folder / "colours.yaml").read_text().replace("task: colours", "task: own")
    (folder / "own.yaml").write_text(change(text))
    return folder


def test_prompts_that_will_be_cut_are_noted_and_planned(
    search_file: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    search_file["evaluate"]["max_length"] = 20
    notes = [str(note) for note in examine(tmp_path, search_file).notes]
    told = "task 'colours': prompts that lose their beginning, being longer than the model's 20 tokens: search "
    assert [note for note in notes if note.startswith(told)]
    assert run_cli("plan", write(tmp_path, search_file)) == 0
    assert "Cut prompts     colours: search " in capsys.readouterr().out
    del search_file["vectors"]
    assert run_cli("evaluate", write(tmp_path, search_file), "--json") == 0
    assert json.loads(capsys.readouterr().out)["tasks"]["colours"]["cut_prompts"] > 0


def test_prompts_that_cannot_be_asked_are_told(search_file: dict[str, Any], tasks: Path, tmp_path: Path) -> None:
    generation = "output_type: generate_until\ngeneration_kwargs: {until: ['.'], max_gen_toks: 64, do_sample: false}"

    def change(text: str) -> str:
        text = text.replace("output_type: multiple_choice", generation).partition("metric_list")[0]
        return text.replace('doc_to_choice: "{{choices}}"\n', "") + "metric_list:\n  - metric: exact_match\n"

    search_file["evaluate"] |= {"include_path": str(add_task(tmp_path / "tasks", tasks, change)), "tasks": ["own"]}
    assert list_problems(tmp_path, search_file) == [
        "task 'own': generates up to 64 tokens, but the model's length is 64. "
        "Lower the task's `max_gen_toks`, or raise `evaluate.max_length`."
    ]


def test_scores_of_unlike_scales_in_one_mean_are_noted(
    search_file: dict[str, Any], tasks: Path, tmp_path: Path
) -> None:
    folder = add_task(tmp_path / "tasks", tasks, lambda text: text + "process_results: !function own.score\n")
    (folder / "own.py").write_text("def score(doc, results):\n    return {'acc': 100.0}\n")
    search_file["evaluate"] |= {"include_path": str(folder), "tasks": ["own", "colours"]}
    notes = [str(note) for note in examine(tmp_path, search_file).notes]
    assert [note for note in notes if "'own' scores up to 100, 'colours' up to 1. In one mean the larger" in note]
    search_file["search"] = {"objective": [{"tasks": {"own": 1}}, {"tasks": {"colours": 1}}]}
    assert not [str(note) for note in examine(tmp_path, search_file).notes if "scores up to" in str(note)]


def test_a_budget_is_held_against_two_trials_and_the_first_design(search_file: dict[str, Any], tmp_path: Path) -> None:
    search_file["search"] = {"budget_tokens": 10, "top": 1}
    refused = examine(tmp_path, search_file).problems
    assert [problem.where for problem in refused] == ["search.budget_tokens"]
    assert "which 2 trials take" in refused[0].found
    with pytest.raises(AftermixError) as error:
        plan(load_config(write(tmp_path, search_file)))
    assert list(error.value.problems) == refused

    # The number of the refusal is right: a token less is refused, and two trials end within the least design.
    least = int(refused[0].found.split("at least ")[1].split(", which")[0].replace(",", ""))
    search_file["search"]["budget_tokens"] = least - 1
    assert [problem.where for problem in examine(tmp_path, search_file).problems] == ["search.budget_tokens"]
    search_file["search"]["budget_tokens"] = least
    short = examine(tmp_path, search_file)
    assert short.problems == []
    (note,) = [note for note in short.notes if note.where == "search.budget_tokens"]
    assert f"is {least:,}, which 2 trials take; the first design alone has 4, and takes " in note.found

    enough = int(note.found.split("and takes ")[1].split(" with")[0].replace(",", ""))
    for changed in ({"budget_tokens": enough}, {"startup": 2}, {"strategy": "random"}, {"trials": 2}):
        held = {**search_file, "search": {**search_file["search"], **changed}}
        assert [note for note in examine(tmp_path, held).notes if note.where == "search.budget_tokens"] == []


def test_places_of_workers_are_told_and_planned(search_file: dict[str, Any], tmp_path: Path) -> None:
    search_file["evaluate"] |= {"workers": 3, "device": "cpu", "threads": 1}
    search_file["search"] = {"batch": 4, "trials": 8}
    told = "3 processes of this machine, 1 CPU thread each, on the CPU"
    assert f"workers: {told}" in examine(tmp_path, search_file).facts
    needs = plan(load_config(write(tmp_path, search_file)))
    assert (needs.workers, needs.at_once) == (told, {"search": 2.0, "select": 3.0, "test": 3.0})
    alone = needs.tokens["test"] / (needs.tokens_per_s or 0.0) + needs.combine_s * needs.measurements["test"]
    assert needs.seconds["test"] == pytest.approx(alone / 3)
    search_file["evaluate"] |= {"device": "cuda:1"}
    assert list_problems(tmp_path, search_file)[-1].startswith("evaluate.device: expected auto, cpu or cuda")
