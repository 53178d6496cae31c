"""Statistics written, read back, and refused for other models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from aftermix.checkpoints.model import Model
from aftermix.checkpoints.open_model import open_model
from aftermix.errors import AftermixError, CheckpointError, ManyProblemsError
from aftermix.saliency.naming import ChannelStatistic
from aftermix.saliency.storage import (
    DataNote,
    StatisticsNote,
    list_uncovered,
    note_weights,
    read_statistics,
    save_statistics,
)

UP, HEAD = "model.layers.0.mlp.up_proj.weight", "model.embed_tokens.weight"
EXPERTS = "experts.down_proj"
DATA = DataNote(source="a.jsonl", sha256="0", samples_sha256="1", texts=9, samples=2, context=64, tokens=7)


@pytest.fixture
def model(family: dict[str, Path]) -> Model:
    return open_model(str(family["a"]))


@pytest.fixture
def folder(tmp_path: Path, model: Model) -> Path:
    """Statistics of vector `a`: two weights with tokens and one without."""
    statistics = {
        HEAD: ChannelStatistic(torch.arange(32.0), (7,), 1),
        UP: ChannelStatistic(torch.full((32,), 0.5), (7,), 1),
        "model.layers.1.mlp.up_proj.weight": ChannelStatistic(torch.zeros(32), (0,), 1),
    }
    note = StatisticsNote(
        format="aftermix statistics",
        version=1,
        vector="a",
        model=model.label,
        data=DATA,
        options={},
        uncovered=list_uncovered(statistics),
        alias=model.alias,
        weights=note_weights(statistics, model),
        versions={},
    )
    save_statistics(tmp_path, note, statistics)
    return tmp_path


def edited(folder: Path, change: object) -> None:
    path = folder / "a.json"
    note = json.loads(path.read_text())
    change(note)  # type: ignore[operator]
    path.write_text(json.dumps(note))


def test_what_is_written_is_read(folder: Path, model: Model) -> None:
    statistics = read_statistics(folder, "a")
    found = statistics.mean_square(UP)
    assert found is not None
    assert (found.dtype, found.tolist()) == (torch.float32, [0.5] * 32)
    assert (statistics.axis(UP), statistics.tokens(UP)) == (1, (7,))
    assert statistics.note.data == DATA
    statistics.refuse_other(model)


def test_a_tied_weight_has_its_statistics_under_both_names(folder: Path) -> None:
    statistics = read_statistics(folder, "a")
    head = statistics.mean_square("lm_head.weight")
    assert head is not None
    assert torch.equal(head, torch.arange(32.0))
    assert statistics.axis("lm_head.weight") == 1


def test_what_saw_no_token_or_is_no_linear_weight_has_none(folder: Path) -> None:
    statistics = read_statistics(folder, "a")
    assert statistics.mean_square("model.layers.1.mlp.up_proj.weight") is None
    assert statistics.mean_square("model.norm.weight") is None
    assert statistics.factor("model.norm.weight") is None
    assert statistics.uncovered == ("model.layers.1.mlp.up_proj.weight",)
    with pytest.raises(KeyError):
        statistics.axis("model.norm.weight")


def test_experts_within_one_tensor_are_named_one_by_one() -> None:
    statistic = ChannelStatistic(torch.zeros(3, 2), (4, 0, 0), 1)
    assert list_uncovered({EXPERTS: statistic}) == ("experts.down_proj[1]", "experts.down_proj[2]")


@pytest.mark.parametrize(
    ("shape", "axis", "values", "expected"),
    [
        ((5, 3), 1, (3,), (1, 3)),
        ((3, 5), 0, (3,), (3, 1)),
        ((2, 5, 3), 2, (2, 3), (2, 1, 3)),
        ((2, 3, 5), 1, (2, 3), (2, 3, 1)),
    ],
)
def test_the_factor_multiplies_the_stored_tensor(
    tmp_path: Path,
    shape: tuple[int, ...],
    axis: int,
    values: tuple[int, ...],
    expected: tuple[int, ...],
) -> None:
    save_file({"w": torch.ones(shape)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    model = open_model(str(tmp_path))
    statistics = {"w": ChannelStatistic(torch.ones(values), (1,) * (values[0] if len(values) > 1 else 1), axis)}
    note = StatisticsNote(
        format="aftermix statistics",
        version=1,
        vector="v",
        model="m",
        data=DATA,
        options={},
        uncovered=(),
        alias={},
        weights=note_weights(statistics, model),
        versions={},
    )
    save_statistics(tmp_path, note, statistics)
    factor = read_statistics(tmp_path, "v").factor("w")
    assert factor is not None
    assert factor.shape == expected


def test_statistics_of_another_model_are_refused(folder: Path, family: dict[str, Path]) -> None:
    other = open_model(str(family["b"]))
    with pytest.raises(ManyProblemsError) as raised:
        read_statistics(folder, "a").refuse_other(other)
    message = f"statistics of vector 'a' ({family['a']}) are of another model than {family['b']}: its values differ"
    assert message in str(raised.value)
    assert "Make the statistics again with `aftermix calibrate`." in str(raised.value)


def test_statistics_of_another_shape_are_refused(folder: Path, model: Model) -> None:
    edited(folder, lambda note: note["weights"][UP].update(shape=[49, 32]))
    with pytest.raises(ManyProblemsError, match=r"are of a model with \(49, 32\), .* has \(48, 32\)"):
        read_statistics(folder, "a").refuse_other(model)


def test_statistics_of_a_weight_that_is_not_there_are_refused(folder: Path, model: Model) -> None:
    edited(folder, lambda note: note["weights"].update(other=note["weights"][UP]))
    save_file(load_file(folder / "a.safetensors") | {"other": torch.zeros(32)}, folder / "a.safetensors")
    with pytest.raises(ManyProblemsError, match="other: statistics .* are of a model with this weight, .* has none"):
        read_statistics(folder, "a").refuse_other(model)


def test_missing_statistics_are_refused(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no such folder of statistics. Make them with"):
        read_statistics(folder / "none", "a")
    with pytest.raises(CheckpointError, match="holds no statistics of vector 'b', but of: a. Set `vectors.b.calib"):
        read_statistics(folder, "b")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda note: note.update(version=2), "does not describe statistics that this version reads"),
        (lambda note: note["weights"][UP].update(axis=2), "an axis beyond a shape"),
        (lambda note: note["weights"][UP].update(axis=0), r"expected \(48,\) torch.float32, found \(32,\) torch.float"),
        (lambda note: note["weights"].pop(UP), "expected nothing, found"),
        (
            lambda note: note["weights"].update(x=note["weights"][UP]),
            r"x: expected \(32,\) .*, found nothing",
        ),
    ],
)
def test_a_note_that_does_not_fit_its_values_is_refused(folder: Path, change: object, message: str) -> None:
    edited(folder, change)
    with pytest.raises(AftermixError, match=message):
        read_statistics(folder, "a")


def test_damaged_values_are_refused(folder: Path) -> None:
    path = folder / "a.safetensors"
    values = load_file(path)
    save_file(values | {UP: torch.full((32,), float("nan"))}, path)
    with pytest.raises(ManyProblemsError, match="holds values that are no mean squares"):
        read_statistics(folder, "a")
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_statistics(folder, "a")
