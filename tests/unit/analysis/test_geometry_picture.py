"""The picture of a geometry and its tables: what is drawn and written, with one vector and with many."""

from __future__ import annotations

import io
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from aftermix.analysis.geometry import GeometryPart, VectorGeometry
from aftermix.analysis.geometry_picture import draw_geometry
from aftermix.analysis.geometry_tables import print_geometry


def geometry(*vectors: str, layers: int = 3) -> VectorGeometry:
    """Vectors that move every tensor but the first layer's norm, at right angles to each other."""
    count = len(vectors)
    names = ["model.embed_tokens.weight", "lm_head.weight"]
    names += [f"model.layers.{n}.{part}.weight" for n in range(layers) for part in ("mlp.up_proj", "input_layernorm")]

    def part(name: str, place: int) -> GeometryPart:
        size = 0.0 if name == "model.layers.0.input_layernorm.weight" else 1.0 + place
        base = 0.0 if name == "lm_head.weight" else 100.0
        return GeometryPart(10, base, np.eye(count) * size, np.full(count, 5 if size else 0), np.full(count, size / 2))

    return VectorGeometry(vectors, {name: part(name, place) for place, name in enumerate(names)})


def texts(svg: bytes) -> list[str]:
    root = ET.fromstring(svg)  # noqa: S314 - our own drawing
    return ["".join(element.itertext()).strip() for element in root.iter("{http://www.w3.org/2000/svg}text")]


@pytest.mark.parametrize("count", [1, 2, 6])
def test_names_numbers_and_labels_are_drawn(count: int) -> None:
    names = ["it", "ja$x$", "数学", "v3", "v4", "a-very-long-name-of-a-vector-that-is-cut"][:count]
    drawn = texts(draw_geometry(geometry(*names), kind="svg"))
    assert {"it", "outside layers", "0", "2", "mlp up", "norm", "embeddings", "head"} <= set(drawn)
    assert drawn.count("1.00") == (count if count > 1 else 0)
    assert drawn.count("0.00") == count * (count - 1)
    assert ("Cosine between vectors" in drawn) == (count > 1)
    assert all(name in drawn for name in names[:5])


def test_the_same_geometry_gives_the_same_drawing() -> None:
    assert draw_geometry(geometry("a", "b"), kind="svg") == draw_geometry(geometry("a", "b"), kind="svg")


def test_a_png_has_a_light_background_and_room_for_every_layer() -> None:
    shallow, deep = (Image.open(io.BytesIO(draw_geometry(geometry("a", layers=n), kind="png"))) for n in (3, 40))
    assert shallow.convert("RGB").getpixel((2, 2)) == (255, 255, 255)
    assert deep.height > shallow.height
    assert deep.width == shallow.width


def test_a_vector_that_moves_nothing_is_drawn() -> None:
    still = VectorGeometry(
        ("a",), {"w": GeometryPart(4, 1.0, np.zeros((1, 1)), np.zeros(1, dtype=np.int64), np.zeros(1))}
    )
    assert "a" in texts(draw_geometry(still, kind="svg"))


def shown(found: VectorGeometry) -> str:
    buffer = io.StringIO()
    print_geometry(found, base="BASE", console=Console(file=buffer, width=200))
    return buffer.getvalue()


def test_one_vector_is_told_with_every_measure() -> None:
    text = shown(geometry("it"))
    assert "Distribution vectors on BASE: 80 elements" in text
    assert "Cosine" not in text
    assert text.count("│ kind ") + text.count("┃ kind ") == 1
    row = next(line for line in text.splitlines() if line.startswith("│ embeddings"))
    assert [cell.strip() for cell in row.strip("│").split("│")] == ["embeddings", "1", "10.0 %", "50.0 %", "0.5"]
    head = next(line for line in text.splitlines() if line.startswith("│ head"))
    assert [cell.strip() for cell in head.strip("│").split("│")] == ["head", "1.414", "-", "50.0 %", "1"]
    assert "it does not move 1 tensor: model.layers.0.input_layernorm.weight" in text


def test_several_vectors_are_told_beside_each_other() -> None:
    text = shown(geometry("it", "ja"))
    assert "Cosine between vectors" in text
    row = next(line for line in text.splitlines() if line.startswith("│ embeddings"))
    assert [cell.strip() for cell in row.strip("│").split("│")] == ["embeddings", "10.0 %, 50.0 %", "10.0 %, 50.0 %"]
