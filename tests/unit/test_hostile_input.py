"""Files that are wrong on purpose: a few inputs for each fuzz target, and every finding of the long runs by name."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from aftermix.api.commands.texts import describe_diagnosis
from aftermix.checkpoints.hub import locate
from aftermix.checkpoints.names import build_matcher
from aftermix.checkpoints.open_model import open_model
from aftermix.checkpoints.reader import open_checkpoint
from aftermix.checkpoints.safe_files import find_outward_links
from aftermix.config import Config, VectorConfig, parse_config
from aftermix.errors import AftermixError, CheckpointError, ConfigError, ManyProblemsError, Problem
from aftermix.jobs.doctor.diagnosis import ConfigDiagnosis
from aftermix.jobs.merge.command import merge
from aftermix.mergekit.reading import load_recipe
from aftermix.yaml_file import parse_yaml, read_yaml
from fuzz.oracle import Violation, check
from fuzz.place import place
from fuzz.targets import TARGETS

Family = Mapping[str, Path]
Copy = Callable[[str], Path]
INDEX = "model.safetensors.index.json"


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_a_reader_takes_or_refuses_any_input(name: str) -> None:
    target = TARGETS[name]
    for seed in target.seeds:
        target.one_input(seed)

    @given(st.binary(max_size=120))
    @settings(max_examples=60, database=None, suppress_health_check=list(HealthCheck))
    def any_input(data: bytes) -> None:
        target.one_input(data)

    any_input()


def test_the_oracle_sees_what_it_is_there_for(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.write_text("secret")
    (inside / "link").symlink_to(outside)

    def refused(text: str) -> Callable[[], None]:
        def read() -> None:
            raise ConfigError("f", text, "")

        return read

    for misdeed, told in (
        (lambda: outside.read_text(), "open '.*outside'"),
        (lambda: (inside / "link").read_text(), "open '.*outside'"),
        (lambda: (inside / "new").write_text(""), "open for writing '.*new'"),
        (lambda: os.listdir(tmp_path), "os.listdir"),
        (lambda: outside.unlink(), "os.remove"),
        (lambda: os.system("true"), "os.system"),  # noqa: S605
        (lambda: [][1], "IndexError"),
        (refused("x" * 3000 + "y"), None),
    ):
        if told is None:
            assert isinstance(check(misdeed, readable=[inside]), ConfigError)
            continue
        with pytest.raises(Violation, match=told):
            check(misdeed, readable=[inside])


def in_an_index(folder: Path, file: str) -> None:
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"]["model.norm.weight"] = file
    (folder / INDEX).write_text(json.dumps(index))


def test_an_index_names_files_of_its_folder_only(copied: Copy, family: Family, tmp_path: Path) -> None:
    expert = copied("a")
    (expert / "folder.safetensors").mkdir()
    os.mkfifo(expert / "pipe.safetensors")
    (expert / "device.safetensors").symlink_to("/dev/zero")
    (expert / "loop.safetensors").symlink_to("loop.safetensors")
    for file in ("folder.safetensors", "pipe.safetensors", "device.safetensors", "loop.safetensors", "x" * 300, "a\0b"):
        in_an_index(expert, file)
        with pytest.raises(CheckpointError, match=r"names '.*', which is not there\. Download the missing file"):
            open_checkpoint(expert)
    for file in ("../base/model.safetensors", f"{family['base']}/model.safetensors", "./model.safetensors", "a/.."):
        in_an_index(expert, file)
        with pytest.raises(CheckpointError, match="which is not a plain file name in the folder"):
            open_checkpoint(expert)


def test_weights_may_be_links_to_anywhere(copied: Copy, tmp_path: Path) -> None:
    expert = copied("a")
    expected = {file.name: load_file(file) for file in open_checkpoint(expert).files()}
    (tmp_path / "blobs").mkdir()
    for number, name in enumerate(expected):
        blob = tmp_path / "blobs" / f"{number:064x}"
        (expert / name).rename(blob)
        (expert / name).symlink_to(blob)
    model = open_model(str(expert))
    for name, tensors in expected.items():
        for key, tensor in tensors.items():
            info = model.info(key)
            assert info.file.name == name
            assert model.read_block(key, (0, info.elements)).equal(tensor.reshape(-1))


def test_other_files_must_not_be_links_out_of_the_folder(copied: Copy, family: Family, tmp_path: Path) -> None:
    expert = copied("b")
    (tmp_path / "private.txt").write_text("secret")
    (expert / "merges.txt").symlink_to(tmp_path / "private.txt")
    (expert / "tokenizer.json").unlink()
    (expert / "tokenizer.json").symlink_to("/etc/hostname")
    (expert / "vocab.json").symlink_to("tokenizer_config.json")  # stays
    (expert / "notes.md").symlink_to(tmp_path / "private.txt")  # is not read
    config = Config(base=str(family["base"]), vectors={"b": VectorConfig(model=str(expert), role="instruction")})
    with pytest.raises(ManyProblemsError, match=r"2 problems:") as raised:
        merge(config, tmp_path / "out")
    assert f"merges.txt: is a link that leads out of the folder, to {tmp_path}/private.txt" in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_links_of_the_hubs_cache_stay_with_the_model(copied: Copy, tmp_path: Path) -> None:
    repository = tmp_path / "models--someone--tiny"
    snapshot, blobs = repository / "snapshots" / ("0" * 40), repository / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, file in enumerate(sorted(copied("b").iterdir())):
        file.rename(blobs / f"{number:040x}")
        (snapshot / file.name).symlink_to(f"../../blobs/{number:040x}")
    assert find_outward_links(snapshot) == []
    assert open_model(str(snapshot)).config["model_type"] == "llama"
    (snapshot / "config.json").unlink()
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "other").write_text("{}")
    (snapshot / "config.json").symlink_to("../../../blobs/other")
    assert [Path(problem.where).name for problem in find_outward_links(snapshot)] == ["config.json"]


@pytest.mark.parametrize("name", ["config.json", INDEX])
@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_a_pipe_a_device_or_a_folder_is_not_waited_for(name: str, kind: str, copied: Copy) -> None:
    expert = copied("a")
    (expert / name).unlink()
    if kind == "pipe":
        os.mkfifo(expert / name)
    elif kind == "device":
        (expert / name).symlink_to("/dev/zero")
    else:
        (expert / name).mkdir()
    with pytest.raises(AftermixError, match=r"found a folder, pipe or device|leads out of the folder, to /dev/zero"):
        open_model(str(expert))


def header(folder: Path, **entries: object) -> None:
    text = json.dumps(entries).encode()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)


@pytest.mark.parametrize("shape", [[0, 2**63], [0, 2**62, 2**62], [2**60, 0]])
def test_an_empty_tensor_of_endless_rows_is_refused(shape: list[int], copied: Copy) -> None:
    expert = copied("b")
    header(expert, w={"dtype": "F32", "shape": shape, "data_offsets": [0, 0]})
    with pytest.raises(CheckpointError, match=r"model\.safetensors: w: has the shape \(.*\), beyond any memory"):
        open_checkpoint(expert)


def test_deep_json_is_refused_before_it_is_compared(copied: Copy) -> None:
    expert = copied("b")
    for depth, message in ((100, "is nested deeper than 64"), (100_000, "cannot be read as JSON")):
        (expert / "config.json").write_text('{"rope_scaling": ' + "[" * depth + "]" * depth + "}")
        with pytest.raises(CheckpointError, match=message):
            open_checkpoint(expert)


def test_a_tokenizer_of_another_build_is_no_fault(copied: Copy, family: Family) -> None:
    expert = copied("b")
    (expert / "tokenizer.json").write_text('{"model": []}')
    config = Config(base=str(family["base"]), vectors={"b": VectorConfig(model=str(expert), role="instruction")})
    check(lambda: merge(config, expert / ".." / "out"), readable=[expert, *family.values()], writable=expert.parent)


def test_messages_do_not_steer_the_terminal() -> None:
    problem = Problem("\ud800", "a\nb\x1b[2J\u202e\x00" + "x" * 5000, "Do.")
    text = str(problem)
    assert text.startswith("\\ud800: a\\nb\\x1b[2J\\u202e\\x00xxx")
    assert "... (5009 characters). Do." in text
    text.encode()
    many = ManyProblemsError([problem] * 500)
    assert str(many).startswith("500 problems:\n  1. ")
    assert str(many).endswith("\n  ...")
    lines = list(describe_diagnosis(ConfigDiagnosis(facts=["tied: \x1b[2J is \ud800"])))
    assert lines[0] == "  tied: \\x1b[2J is \\ud800"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: !!timestamp x", "could not determine a constructor"),
        ("a: !!binary eA==", "could not determine a constructor"),
        ("a: !!set {b, c}", "could not determine a constructor"),
        ("a: !!int ''", "is not valid YAML"),
        ("a: !!bool x", "is not valid YAML"),
        ("a: !!float ''", "is not valid YAML"),
        ("a: !!int [1]", "is not valid YAML"),
        (f"a: {'9' * 101}", "a number of 101 characters"),
        (f"a: 0x{'f' * 5000}", "a number of 5002 characters"),
        (f"a: !!int {'1:' * 5000}1", "a number of 10001 characters"),
        ("a: \x07", "is not valid YAML .*special characters are not allowed"),
    ],
)
def test_scalars_that_broke_the_yaml_reader(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_yaml(text, where="f.yaml")


def test_times_and_dates_are_texts() -> None:
    values = parse_yaml("{a: 1:30, b: 2001-01-01, c: 0x1f, d: 1_000, e: .5, f: -.inf, g: 017, h: 1:1.5}", where="f")
    assert values == {
        "a": "1:30",
        "b": "2001-01-01",
        "c": 31,
        "d": 1000,
        "e": 0.5,
        "f": -float("inf"),
        "g": 15,
        "h": "1:1.5",
    }


def test_many_keys_are_counted_in_one_pass() -> None:
    text = "a:\n" + "".join(f"  k{number}: 1\n" for number in range(20_000)) + "  k7: 1\n"
    with pytest.raises(ConfigError, match="key 'k7' appears twice"):
        parse_yaml(text, where="f.yaml")


@pytest.mark.parametrize("method", ["{a: 1}", "[ties]", "1", "arcee_fusion"])
def test_a_method_of_mergekit_that_is_no_name(method: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(f"merge_method: {method}")
    with pytest.raises(
        ConfigError, match=r"recipe\.yaml: merge_method: '.*' does not give here what it gives in mergekit"
    ):
        load_recipe(tmp_path / "recipe.yaml")


def test_layers_are_counted_in_files_of_the_model_only(copied: Copy, tmp_path: Path) -> None:
    expert = copied("b")
    recipe = f"merge_method: linear\nslices: [{{sources: [{{model: {json.dumps(str(expert))}, layer_range: [0, 2]}}]}}]"
    (tmp_path / "recipe.yaml").write_text(recipe)
    for content in ('{"text_config": [1]}', "[]", "{}"):
        (expert / "config.json").write_text(content)
        with pytest.raises(ManyProblemsError, match=r"does not say how many layers|has no readable config\.json"):
            load_recipe(tmp_path / "recipe.yaml")
    (expert / "config.json").unlink()
    os.mkfifo(expert / "config.json")
    with pytest.raises(
        ManyProblemsError, match=r"has no readable config\.json \(expected a file, found a folder, pipe"
    ):
        load_recipe(tmp_path / "recipe.yaml")


def test_an_endless_file_is_read_up_to_the_limit() -> None:
    with pytest.raises(ConfigError, match=r"/dev/zero: expected at most 1048576 bytes, found 1048577"):
        read_yaml(Path("/dev/zero"))


@pytest.mark.parametrize("model", ["~nobody-of-that-name/x", "a" * 5000, "x/" + "b" * 300 + "/c", "a\x00b", "a/b\n"])
def test_names_that_are_no_path(model: str) -> None:
    config = parse_config(
        {"base": model, "evaluate": {"tasks": ["a"], "include_path": model}}, where="f", folder=Path()
    )
    assert config.base is not None
    with pytest.raises(CheckpointError, match="there is no such folder|is neither a folder here nor a repository"):
        locate(config.base)


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("re:(", "is no regular expression"),
        ("re:a{99999999999}", "more than 999 repetitions"),
        ("re:" + "(" * 20 + ")" * 20, "groups nested deeper than 12"),
        ("re:" + "a" * 1001, "longer than 1000 characters"),
    ],
)
def test_patterns_that_are_not_run(expression: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_matcher([expression], where="merge.exclude")


def test_a_pattern_that_would_run_for_years_is_stopped() -> None:
    excluded = build_matcher(["re:^(a|aa)+$"], where="merge.exclude")
    assert excluded("aaaa")
    with pytest.raises(ConfigError, match=r"merge\.exclude: 're:\^\(a\|aa\)\+\$' takes too long to search for in 'aaa"):
        excluded("a" * 100 + "!")


TOKENS = [
    "a",
    "b",
    r"\.",
    ".",
    "*",
    "+",
    "?",
    "(",
    ")",
    "(?!b)",
    "|",
    "[ab]",
    "[^.]",
    "^",
    "$",
    r"\d",
    "{2}",
    "*?",
    r"\b",
]


@given(st.lists(st.sampled_from(TOKENS), max_size=8), st.text(alphabet="ab.1", max_size=8))
@settings(max_examples=300)
def test_a_pattern_finds_what_pythons_own_would(tokens: list[str], name: str) -> None:
    expression = "".join(tokens) or "a"
    try:
        expected = re.search(expression, name) is not None
    except re.error:
        with pytest.raises(ConfigError, match="is no regular expression"):
            build_matcher([f"re:{expression}"], where="f")
    else:
        assert build_matcher([f"re:{expression}"], where="f")(name) == expected


def test_too_many_values_are_refused_while_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aftermix.yaml_file.MAX_NODES", 10)
    with pytest.raises(ConfigError, match=r"f, line 9: more than 10 values\. Shorten the file"):
        parse_yaml("a:\n" + "- 1\n" * 1000, where="f")


def test_the_place_of_the_fuzzer_is_cleared_for_every_input() -> None:
    before = place().names()
    place().fill({"a": b""})
    place().fill({})
    assert place().names() <= before | {str(place().folder)}


def test_layers_that_a_gguf_file_only_announces_are_not_made(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama")
    writer.add_block_count(4_000_000_000)
    writer.add_tensor("token_embd.weight", np.zeros((6, 4), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(CheckpointError, match=r"x\.gguf: announces 4000000000 layers and holds 1 tensors"):
        open_model(str(tmp_path / "x.gguf"))
