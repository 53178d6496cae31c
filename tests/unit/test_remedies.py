"""Remedies can be followed as they are written: keys of the file, commands and options that a message names exist."""

from __future__ import annotations

import ast
import inspect
import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
import yaml
from pydantic import BaseModel

import aftermix
from aftermix.cli import cli
from aftermix.config import Config
from aftermix.merging.methods import METHODS
from conftest import VOCABULARY, run_cli

SOURCE = Path(aftermix.__file__).parent
HOLE = "HOLE"
"""In the place of what a message fills in."""
FOREIGN = {
    "the model's own files": "architectures eos_token init_lora_weights rescale_every tie_word_embeddings vocab_size "
    "use_dora lora_alpha rank_pattern trainable_token_indices modules_to_save",
    "lm-eval's tasks": "dataset_kwargs doc_to_choice doc_to_target doc_to_text filter generation_kwargs "
    "aggregate_metric_list aggregation higher_is_better metric process_docs process_results test_split value "
    "max_gen_toks metric_list until "
    "repeats output_type validation_split",
    "accelerate's file": "distributed_type fsdp_version fsdp_cpu_ram_efficient_loading mixed_precision",
    "mergekit's recipes": "base_model models models out_dtype parameters slices t tokenizer_source normalize",
    "records of data": "messages prompt completion role content tools type function name arguments text weight train "
    "tool_calls tool_call_id label thinking reasoning_content",
    "a node of the mixture's tree": "name",
}
"""Names that stand in another program's files, by what they are of: no schema of ours has them."""
OTHER_OPTIONS = {
    "mixture/exports/megatron.py": "--append-eod --data-args-path --data-path --json-keys --output-prefix "
    "--seq-length --train-samples",
    "mixture/exports/trainers/ms_swift.py": "--model",
    "checkpoints/formats/gguf.py": "--merge",
    "report/notebook/run_charts.py": "--jp-layout-color --vscode-editor-background",
    "workers/ray_actors.py": "--head",
    "mergekit/writing.py": "--random-seed --lora-merge-cache",
}


def read_text(node: ast.AST) -> str | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(str(v.value) if isinstance(v, ast.Constant) else HOLE for v in node.values)
    return None


def list_messages() -> Iterator[tuple[str, str]]:
    """Every string of the source but docstrings and what stands within another, with its place."""
    for path in sorted(SOURCE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        left_out = {
            id(statement.value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
            for statement in node.body
            if isinstance(statement, ast.Expr)
        }
        left_out |= {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
        for node in ast.walk(tree):
            text = read_text(node)
            if text is not None and id(node) not in left_out:
                yield str(path.relative_to(SOURCE)), text


MESSAGES = list(list_messages())
QUOTED = sorted({(place, quoted) for place, text in MESSAGES for quoted in re.findall(r"`([^`\n]+)`", text)})


def list_sections(model: type[BaseModel], seen: set[type[BaseModel]]) -> set[type[BaseModel]]:
    """The model and all that its fields are made of."""
    if model in seen:
        return seen
    seen.add(model)
    waiting = [field.annotation for field in model.model_fields.values()]
    while waiting:
        annotation: Any = waiting.pop()
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            list_sections(annotation, seen)
        waiting.extend(get_args(annotation))
    return seen


SECTIONS = list_sections(Config, set())
KEYS = {field.alias or name for section in SECTIONS for name, field in section.model_fields.items()}
OPTIONS_OF_METHODS = {
    option for method in METHODS.values() for rule in method.functions for option in inspect.signature(rule).parameters
}
READ_BY_HAND = {"each"}
"""Keys of `search.over`, which the job reads."""
KNOWN = KEYS | READ_BY_HAND | OPTIONS_OF_METHODS | {word for words in FOREIGN.values() for word in words.split()}


def find_child(model: type[BaseModel], key: str) -> Any:
    """Annotation of `key`, or None."""
    fields = {field.alias or name: field.annotation for name, field in model.model_fields.items()}
    return fields.get(key)


def list_models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in list_models(part)]


def follow_path(parts: list[str]) -> bool:
    """Say if the dotted path leads somewhere from the top of a file; the key of a mapping may be anything."""
    models: list[type[BaseModel]] = [Config]
    for part in parts:
        annotations = [find_child(model, part) for model in models]
        found = [annotation for annotation in annotations if annotation is not None]
        if found:
            models = [model for annotation in found for model in list_models(annotation)]
        elif part != HOLE:
            return False
    return True


@pytest.mark.parametrize(("place", "quoted"), [entry for entry in QUOTED if entry[1].startswith("aftermix ")])
def test_commands_that_a_message_names_exist_with_their_options(place: str, quoted: str) -> None:
    _, name, *rest = shlex.split(quoted)
    if name == HOLE:
        return
    command = cli.commands[name]
    options = {option for parameter in command.params for option in parameter.opts}
    assert {part for part in rest if part.startswith("-")} <= options, place
    # What a command cannot do without is named, or nothing but the command is.
    if rest:
        needed = [p for p in command.params if p.required and p.param_type_name == "option"]
        assert all(set(parameter.opts) & set(rest) for parameter in needed), place


def test_options_that_a_message_names_are_those_of_a_command() -> None:
    ours = {option for command in cli.commands.values() for p in command.params for option in p.opts} | {"--help"}
    for place, text in MESSAGES:
        named = set(re.findall(r"(?<![\w`-])(--[a-z][a-z-]*)", text))
        assert named <= ours | set(OTHER_OPTIONS.get(place, "").split()), (place, text)


PATH = rf"(?:[a-z_]+|{HOLE})(?:\.(?:[a-z_]+|{HOLE}))+"
PATHS = [(place, quoted.split(":")[0]) for place, quoted in QUOTED if re.fullmatch(rf"{PATH}(: \w+)?", quoted)]
SECTION_NAMES = {field.alias or name for name, field in Config.model_fields.items()}


@pytest.mark.parametrize(("place", "quoted"), [entry for entry in PATHS if entry[1].split(".")[0] in SECTION_NAMES])
def test_dotted_keys_that_a_message_names_lead_somewhere(place: str, quoted: str) -> None:
    assert follow_path(quoted.split(".")), place


def list_keys(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield str(key)
            yield from list_keys(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from list_keys(inner)


def is_yaml(quoted: str) -> bool:
    return re.match(r"[\[{]|\w+:( |$)", quoted) is not None and "..." not in quoted


@pytest.mark.parametrize(("place", "quoted"), [entry for entry in QUOTED if is_yaml(entry[1])])
def test_lines_of_yaml_that_a_message_names_can_stand_in_a_file(place: str, quoted: str) -> None:
    written = quoted.replace("!function ", "")  # lm-eval's own tag
    value = yaml.safe_load(written.replace("{{", "{").replace("}}", "}") if HOLE in quoted else written)
    if isinstance(value, dict) and len(value) == 1 and next(iter(value)) in SECTION_NAMES:
        section = next(iter(value))
        inner = value[section]
        if isinstance(inner, dict):
            models = list_models(find_child(Config, section))
            for key in inner:
                assert any(find_child(model, key) is not None for model in models) or key in OPTIONS_OF_METHODS, place
            return
    assert set(list_keys(value)) - {HOLE} <= KNOWN, place


def test_values_of_settled_choices_are_among_them() -> None:
    """`schedule: wsd`, `format: chat`: a word that a message gives as a value is one that some section takes."""
    choices: dict[str, set[Any]] = {}
    for section in SECTIONS:
        for name, field in section.model_fields.items():
            words = {word for word in collect_words(field.annotation) if isinstance(word, str)}
            choices.setdefault(field.alias or name, set()).update(words or {None})
    for place, quoted in QUOTED:
        match = re.fullmatch(r"([a-z_]+): ([a-z_0-9]+)", quoted)
        if match is None or match[2] in (HOLE, "true", "false", "null") or match[2].isdigit():
            continue
        taken = choices.get(match[1], {None})
        assert None in taken or match[2] in taken, (place, quoted)


def collect_words(annotation: Any) -> Iterator[Any]:
    for part in get_args(annotation):
        if isinstance(part, str):
            yield part
        yield from collect_words(part)


def save_expert_of_more_tokens(family: dict[str, Path], folder: Path) -> Path:
    """Expert b with a row and a token more than the base, as after `add_tokens`."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(family["b"], folder)
    weights = load_file(folder / "model.safetensors")
    for name, tensor in weights.items():
        if tensor.shape[0] == VOCABULARY:
            weights[name] = torch.cat([tensor, tensor[:1]])
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    for file, change in (("config.json", {"vocab_size": VOCABULARY + 1}), ("tokenizer.json", {})):
        content = json.loads((folder / file).read_text(encoding="utf-8")) | change
        if file == "tokenizer.json":
            content["model"]["vocab"]["newest"] = VOCABULARY
        (folder / file).write_text(json.dumps(content), encoding="utf-8")
    return folder


@pytest.mark.parametrize("command", ["inspect", "analyze", "diff"])
def test_without_a_file_no_key_of_a_file_is_named_for_other_tokens(
    command: str, family: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expert = save_expert_of_more_tokens(family, tmp_path / "expert")
    output = ("-o", tmp_path / "vector") if command == "diff" else ()
    assert run_cli(command, expert, "--base", family["base"], *output) == 2
    told = capsys.readouterr().err
    assert "Add to `merge`" not in told
    assert "in a file that says `merge: {vocabulary: base}`" in told or "Name a file instead, with base, vector" in told
    assert not (tmp_path / "vector").exists()

    # As it says:
    file = tmp_path / "file.yaml"
    values = {"base": str(family["base"]), "vectors": {"e": {"model": str(expert)}}, "merge": {"vocabulary": "base"}}
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    assert run_cli(*(("merge", file, "-o", tmp_path / "out") if command == "diff" else (command, file))) == 0


def test_calibration_text_names_no_key_of_training_data(
    family: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "chat.jsonl"
    data.write_text(json.dumps({"messages": [{"role": "user", "content": "a"}], "words": "the sum is even"}) + "\n")
    vector: dict[str, Any] = {"model": str(family["b"]), "calibration": {"data": str(data)}}
    file = tmp_path / "file.yaml"
    file.write_text(yaml.safe_dump({"base": str(family["base"]), "vectors": {"v": vector}}), encoding="utf-8")
    assert run_cli("calibrate", file, "-o", tmp_path / "out") == 2
    remedy = "Set `vectors.v.calibration.format: chat` for conversations, or `vectors.v.calibration.text_field` to the"
    assert remedy in capsys.readouterr().err

    (tmp_path / "hub").mkdir()
    for split in ("validation", "test"):
        shutil.copy(data, tmp_path / "hub" / f"{split}.jsonl")
    vector["calibration"] = {"data": str(tmp_path / "hub"), "text_field": "words"}
    file.write_text(yaml.safe_dump({"base": str(family["base"]), "vectors": {"v": vector}}), encoding="utf-8")
    assert run_cli("calibrate", file, "-o", tmp_path / "out") == 2
    assert "`vectors.v.calibration.split:" in capsys.readouterr().err

    vector["calibration"]["split"] = "test"
    file.write_text(yaml.safe_dump({"base": str(family["base"]), "vectors": {"v": vector}}), encoding="utf-8")
    assert run_cli("calibrate", file, "-o", tmp_path / "out") == 0
