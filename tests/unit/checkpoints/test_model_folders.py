"""Reading, aligning and writing model folders, and every way in which they are refused."""

from __future__ import annotations

import json
import pickle
import signal
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from aftermix.checkpoints.model_files import list_companion_remarks, writes_text
from aftermix.checkpoints.names import build_matcher, find_tied_head
from aftermix.checkpoints.pool import open_pool
from aftermix.checkpoints.reader import open_checkpoint
from aftermix.checkpoints.shards import TensorPiece, TensorSpec, plan_shards, stream_whole_tensors, write_shards
from aftermix.checkpoints.writer import write_checkpoint
from aftermix.config import Config, VectorConfig
from aftermix.errors import AftermixError, CheckpointError, ConfigError, ManyProblemsError
from aftermix.jobs.merge.command import merge
from support.forked import ForkedProcess
from support.own_world import make_encoders

Family = Mapping[str, Path]
Copy = Callable[[str], Path]


def pool_config(family: Family, **models: Path) -> Config:
    return Config(base=str(family["base"]), vectors={n: VectorConfig(model=str(p)) for n, p in models.items()})


def test_sharded_and_single_folders_read_alike(family: Family) -> None:
    assert len(open_checkpoint(family["a"]).files()) > 1
    for name in ("a", "b"):
        checkpoint = open_checkpoint(family[name])
        for file in checkpoint.files():
            for key, tensor in load_file(file).items():
                assert checkpoint.read(key).equal(tensor)
                assert checkpoint.info(key).shape == tuple(tensor.shape)
    assert list(checkpoint.tensors) == sorted(checkpoint.tensors)


def test_tied_embeddings_are_counted_once(family: Family, untied_family: Family) -> None:
    tied = open_pool(pool_config(family, a=family["a"]))
    assert tied.frame.alias == {"lm_head.weight": "model.embed_tokens.weight"}
    assert tied.frame.has("lm_head.weight")
    from transformers import AutoModelForCausalLM

    assert tied.parameters == AutoModelForCausalLM.from_pretrained(family["base"]).num_parameters()
    assert open_checkpoint(untied_family["base"]).alias == {}


def test_a_redundant_copy_of_a_tied_head_follows_its_embedding(copied: Copy, tmp_path: Path) -> None:
    base, expert = copied("base"), copied("b")
    tensors = load_file(base / "model.safetensors")
    save_file({**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"].clone()}, base / "model.safetensors")
    config = Config(base=str(base), vectors={"b": VectorConfig(model=str(expert))})
    assert open_pool(config).parameters == sum(t.numel() for t in tensors.values())
    found = load_file(merge(config, tmp_path / "out") / "model.safetensors")
    assert found["lm_head.weight"].equal(found["model.embed_tokens.weight"])
    assert not found["lm_head.weight"].equal(tensors["model.embed_tokens.weight"])


def test_an_untied_expert_of_a_tied_base_is_refused(copied: Copy, family: Family) -> None:
    expert = copied("b")
    tensors = load_file(expert / "model.safetensors")
    head = tensors["model.embed_tokens.weight"] + 1
    save_file({**tensors, "lm_head.weight": head}, expert / "model.safetensors")
    edit_json(expert / "config.json", tie_word_embeddings=False)
    with pytest.raises(AftermixError, match=r"lm_head\.weight: vector 'b' has a head of its own, the base ties it"):
        open_pool(pool_config(family, b=expert))


def test_every_mismatch_is_told_at_once(copied: Copy, family: Family) -> None:
    wide, short = copied("b"), copied("c")
    tensors = load_file(wide / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"] = torch.zeros(48, 64)
    save_file(tensors, wide / "model.safetensors")
    tensors = load_file(short / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file({**tensors, "extra.weight": torch.zeros(2)}, short / "model.safetensors")
    with pytest.raises(ManyProblemsError) as raised:
        open_pool(pool_config(family, b=wide, c=short))
    text = str(raised.value)
    assert (
        "model.layers.1.mlp.up_proj.weight: vector 'b' is (48, 64), base is (48, 32). Was it trained from this base?"
        in text
    )
    assert "model.norm.weight: vector 'c' has no such tensor, the base does" in text
    assert "extra.weight: vector 'c' has this tensor, the base does not" in text
    assert text.startswith("3 problems:")


def test_another_architecture_is_refused(copied: Copy, family: Family) -> None:
    expert = copied("b")
    edit_json(expert / "config.json", model_type="mistral", num_attention_heads=8)
    with pytest.raises(ManyProblemsError, match=r"vector 'b' has model_type = mistral, base has llama") as raised:
        open_pool(pool_config(family, b=expert))
    assert "vector 'b' has num_attention_heads = 8, base has 4" in str(raised.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_nan_and_inf_stop_a_merge_and_leave_nothing(value: float, copied: Copy, family: Family, tmp_path: Path) -> None:
    expert = copied("b")
    tensors = load_file(expert / "model.safetensors")
    tensors["model.norm.weight"][3] = value
    save_file(tensors, expert / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight: vector 'b' .* holds 1 NaN or Inf values"):
        merge(pool_config(family, b=expert), tmp_path / "deep" / "out")
    assert not list((tmp_path / "deep").iterdir())


def test_a_result_beyond_its_type_is_refused(copied: Copy, family: Family, tmp_path: Path) -> None:
    config = Config(
        base=str(family["base"]),
        vectors={"b": VectorConfig(model=str(family["b"]), weight=1e9)},
        merge={"method": "task_arithmetic", "dtype": "float16"},  # type: ignore[arg-type]
    )
    with pytest.raises(
        CheckpointError, match=r"the merge with weights .* stored as torch\.float16, holds \d+ NaN or Inf"
    ):
        merge(config, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def damaged(folder: Path, how: str) -> None:
    file = folder / "model.safetensors"
    if how == "truncated":
        file.write_bytes(file.read_bytes()[:-100])
    elif how == "pickle in safetensors' clothes":
        file.write_bytes(pickle.dumps({"a": 1}))
    elif how == "pickled":
        file.unlink()
        torch.save({"w": torch.zeros(1)}, folder / "pytorch_model.bin")
    elif how == "empty folder":
        file.unlink()
    elif how == "no config":
        (folder / "config.json").unlink()
    elif how == "broken config":
        (folder / "config.json").write_text("{")
    elif how == "adapter":
        file.unlink()
        (folder / "adapter_config.json").write_text("{}")
    elif how == "uint16":
        save_file({"w": torch.zeros(4, dtype=torch.uint16)}, file)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("truncated", r"model\.safetensors: is truncated or not a safetensors file .* Download or copy the file again"),
        ("pickle in safetensors' clothes", r"is a pickled file under a safetensors name"),
        ("pickled", r"expected safetensors, found pickled weights \(pytorch_model\.bin\).*convert it: python -c"),
        ("empty folder", r"expected model\.safetensors or model\.safetensors\.index\.json, found neither"),
        ("no config", r"config\.json: cannot be read as JSON"),
        ("broken config", r"config\.json: cannot be read as JSON"),
        ("adapter", r"is an adapter of type None, only LORA is read\. Fold it into its base"),
        ("uint16", r"w: expected one of F64, F32, .*, found U16\. Save the model in one of these types"),
    ],
)
def test_damaged_folders_are_refused_by_name(
    how: str, message: str, copied: Copy, family: Family, tmp_path: Path
) -> None:
    expert = copied("b")
    damaged(expert, how)
    with pytest.raises(AftermixError, match=message):
        merge(pool_config(family, b=expert), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("file", ["../base/model.safetensors", "/etc/passwd", "..", "sub/x.safetensors", ""])
def test_an_index_cannot_lead_out_of_its_folder(file: str, copied: Copy) -> None:
    expert = copied("a")
    index = json.loads((expert / "model.safetensors.index.json").read_text())
    index["weight_map"]["model.norm.weight"] = file
    (expert / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"places 'model\.norm\.weight' in .* not a plain file name"):
        open_checkpoint(expert)


def test_an_index_must_agree_with_its_files(copied: Copy) -> None:
    expert = copied("a")
    path = expert / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    crowded = max(set(index["weight_map"].values()), key=list(index["weight_map"].values()).count)
    first = next(name for name, file in index["weight_map"].items() if file == crowded)
    other = next(file for file in index["weight_map"].values() if file != index["weight_map"][first])
    path.write_text(json.dumps({"weight_map": {**index["weight_map"], first: other}}))
    with pytest.raises(CheckpointError, match=f"holds '{first}', which model.safetensors.index.json places elsewhere"):
        open_checkpoint(expert)
    path.write_text(json.dumps({"weight_map": {**index["weight_map"], "ghost": other}}))
    with pytest.raises(CheckpointError, match="names 1 tensors that no file holds, first 'ghost'"):
        open_checkpoint(expert)
    (expert / other).unlink()
    with pytest.raises(CheckpointError, match=f"names '{other}', which is not there"):
        open_checkpoint(expert)


def test_a_hub_name_that_is_not_cached_is_refused(family: Family) -> None:
    config = Config(base=str(family["base"]), vectors={"x": VectorConfig(model="nobody/nothing-of-the-kind")})
    with pytest.raises(AftermixError, match="is neither a folder here nor a repository that the hub"):
        open_pool(config)


def test_a_hub_name_is_found_in_the_offline_cache(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    repository = tmp_path / "models--someone--tiny"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.parent.mkdir(parents=True)
    snapshot.symlink_to(family["b"])
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    pool = open_pool(Config(base=str(family["base"]), vectors={"x": VectorConfig(model="someone/tiny")}))
    assert pool.experts["x"].label == "someone/tiny"


def test_shards_are_what_transformers_expects(tmp_path: Path) -> None:
    tensors = {f"t{i}": torch.full((i, 3), float(i), dtype=torch.bfloat16) for i in range(1, 6)}
    tensors["scalar"] = torch.tensor(2.5)
    tensors["empty"] = torch.zeros(0, 4, dtype=torch.int64)
    layout = [TensorSpec(name, tuple(t.shape), t.dtype) for name, t in tensors.items()]
    shards = plan_shards(layout, max_shard_bytes=40)
    assert [[spec.name for spec in shard] for shard in shards] == [
        ["t1", "t2", "t3"],
        ["t4"],
        ["t5", "scalar", "empty"],
    ]
    write_shards(tmp_path, stream_whole_tensors(tensors.items()), shards)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in tensors.values())
    for name, file in index["weight_map"].items():
        assert load_file(tmp_path / file)[name].equal(tensors[name])


def test_nothing_is_written_over_an_existing_folder_or_an_input(family: Family, tmp_path: Path, copied: Copy) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note.txt").write_text("mine")
    with pytest.raises(CheckpointError, match=r"full: exists and is not empty\. Name a new folder"):
        merge(pool_config(family, b=family["b"]), tmp_path / "full")
    expert = copied("b")
    for output in (expert, expert / "inside"):
        with pytest.raises(CheckpointError, match="lies in the input folder"):
            merge(pool_config(family, b=expert), output)


def test_an_unwritable_place_is_one_clear_error(family: Family, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"cannot be written \(.*\)\. Free space or choose another folder"):
        merge(pool_config(family, b=family["b"]), tmp_path / "file" / "out")


KILLED = """
import sys, torch
from pathlib import Path
from aftermix.checkpoints.shards import TensorPiece, TensorSpec
from aftermix.checkpoints.writer import write_checkpoint
layout = [TensorSpec(f"t{i}", (1000,), torch.float32) for i in range(2000)]
def tensors():
    for number, spec in enumerate(layout):
        if number == int(sys.argv[2]):
            print("now", flush=True)
            sys.stdin.read()
        yield TensorPiece(spec.name, 0, torch.zeros(1000))
write_checkpoint(Path(sys.argv[1]), tensors(), layout=layout, companions={"config.json": b"{}"}, max_shard_bytes=10**6)
"""


@pytest.mark.parametrize("at", [0, 700, 1999])
def test_a_killed_write_leaves_nothing_that_looks_like_a_model(at: int, tmp_path: Path) -> None:
    with ForkedProcess(KILLED, tmp_path / "model", at) as process:
        assert process.stdout.readline() == b"now\n"
        process.kill()
        assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "model").exists()
    assert not list(tmp_path.rglob("config.json"))
    layout = [TensorSpec("t", (1,), torch.float32)]
    write_checkpoint(
        tmp_path / "model",
        [TensorPiece("t", 0, torch.ones(1))],
        layout=layout,
        companions={"config.json": b"{}"},
        max_shard_bytes=10**6,
    )
    assert [path.name for path in tmp_path.iterdir()] == ["model"]  # the leftover is gone too


def test_patterns_say_what_is_wrong_with_them() -> None:
    with pytest.raises(ConfigError, match=r"merge\.exclude: 're' is no regular expression|'re:\(' is no regular"):
        build_matcher(["re:("], where="merge.exclude")
    with pytest.raises(ConfigError, match="an empty pattern would match every tensor"):
        build_matcher([" "], where="merge.exclude")


def test_ties_are_read_from_nested_configurations() -> None:
    names = ["language_model.model.embed_tokens.weight"]
    assert find_tied_head(names, {"text_config": {"tie_word_embeddings": True}}) == {
        "language_model.lm_head.weight": "language_model.model.embed_tokens.weight"
    }
    assert find_tied_head([*names, "lm_head.weight"], {"text_config": {"tie_word_embeddings": False}}) == {}


def edit_json(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_an_encoder_keeps_the_files_that_make_a_vector_of_its_states(tmp_path: Path) -> None:
    family = make_encoders(tmp_path, experts=("a",))
    base = family["base"]
    modules = [{"path": ""}, {"path": "1_Pooling"}, {"path": "../a"}, {"path": "2_Normalize"}]
    (base / "modules.json").write_text(json.dumps(modules))
    (base / "sentence_bert_config.json").write_text('{"max_seq_length": 256}')
    (base / "1_Pooling").mkdir()
    (base / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    out = merge(pool_config(family, a=family["a"]), tmp_path / "out")
    for name in ("modules.json", "sentence_bert_config.json", "1_Pooling/config.json"):
        assert (out / name).read_bytes() == (base / name).read_bytes()
    assert not (tmp_path / "a" / "README.md").exists()
    assert json.loads((out / "config.json").read_text())["architectures"] == ["BertModel"]
    assert 'model = BertModel.from_pretrained("out")' in (out / "README.md").read_text()


def test_an_encoder_is_not_missed_generation_settings_that_it_has_no_use_for(tmp_path: Path, family: Family) -> None:
    encoders = make_encoders(tmp_path, experts=("a",))
    remarks = list_companion_remarks(open_pool(pool_config(encoders)))
    assert not any("generation_config" in str(remark) for remark in remarks)
    assert writes_text({"architectures": ["LlamaForCausalLM"]})
    assert writes_text({})
    assert not writes_text({"architectures": ["BertModel"]})
