"""The section on what each vector got: its table, its picture, and runs that have no such record."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from aftermix.errors import AftermixError
from aftermix.report.page import write_report
from aftermix.report.sections.shares import build_share_section, draw_shares, read_shares
from aftermix.runs.share_records import SharesRecord

SVG = "{http://www.w3.org/2000/svg}"


def part(elements: int, counts: Mapping[str, int], *, exclusive: bool) -> dict[str, Any]:
    shares = {name: count / elements for name, count in counts.items()}
    rest = {"rest": elements - sum(counts.values())} if exclusive else {}
    return {"elements": elements, "counts": dict(counts), "shares": shares, **rest}


def block_of(name: str) -> str | None:
    return name.partition(".self_attn")[0] if ".self_attn" in name else None


def record(*, blocks: int = 2, exclusive: bool = True, vectors: tuple[str, ...] = ("it", "ja")) -> dict[str, Any]:
    """Shares of a model with one matrix a block, and a head."""
    share = 0.4 if len(vectors) == 2 else 1 / len(vectors)
    tensor = part(1000, dict.fromkeys(vectors, int(1000 * share)), exclusive=exclusive)
    names = {f"model.layers.{block}.self_attn.q_proj.weight": "self_attn.q_proj" for block in range(blocks)}
    names["lm_head.weight"] = "lm_head"
    found = {
        "format": "aftermix shares",
        "version": 1,
        "method": "obim" if exclusive else "ties",
        "exclusive": exclusive,
        "vectors": {name: {"weight": 0.5, "ratio": share} for name in vectors},
        "total": part(
            (blocks + 1) * 1000, dict.fromkeys(vectors, (blocks + 1) * int(1000 * share)), exclusive=exclusive
        ),
        "layers": [{"block": f"model.layers.{b}", **tensor} for b in range(blocks)] + [{"block": None, **tensor}],
        "kinds": [
            {
                "kind": "self_attn.q_proj",
                **part(blocks * 1000, dict.fromkeys(vectors, blocks * int(1000 * share)), exclusive=exclusive),
            },
            {"kind": "lm_head", **tensor},
        ],
        "tensors": {
            name: {"block": block_of(name), "kind": kind, "ranked_by": dict.fromkeys(vectors, "saliency"), **tensor}
            for name, kind in names.items()
        },
        "unmoved": [],
    }
    if exclusive:
        found["tensors"]["model.layers.1.self_attn.q_proj.weight"]["ranked_by"]["it"] = "magnitude"
        found["fallback"] = {
            "without_statistics": [],
            "without_tokens": {"it": ["model.layers.1.self_attn.q_proj.weight"]},
        }
    return found


def test_the_table_has_every_kind_with_all_vectors_and_the_base() -> None:
    section = build_share_section(SharesRecord.model_validate(record(blocks=3)))
    assert section is not None
    assert [(row.name, row.positions, row.shares, row.ranked_by) for row in section.rows] == [
        ("all", "4,000", ("40.0 %", "40.0 %", "20.0 %"), "saliency 7, magnitude 1"),
        ("self_attn.q_proj", "3,000", ("40.0 %", "40.0 %", "20.0 %"), "saliency 5, magnitude 1"),
        ("lm_head", "1,000", ("40.0 %", "40.0 %", "20.0 %"), "saliency"),
    ]
    assert section.notes == (
        "it: no token reached 1 weight, ranked by magnitude: model.layers.1.self_attn.q_proj.weight.",
    )


def test_every_bar_says_what_it_is() -> None:
    root = ET.fromstring(str(draw_shares(SharesRecord.model_validate(record()))))  # noqa: S314 - our own drawing
    titles = [title.text for title in root.iter(f"{SVG}title")]
    assert len(titles) == 9  # two vectors and the base, in two blocks and outside of them
    assert titles[0] == "model.layers.0, it: 40.0 % (400 positions)"
    assert titles[-1] == "rest of the model, base: 20.0 % (200 positions)"
    texts = {text.text for text in root.iter(f"{SVG}text")}
    assert {"it", "ja", "base", "0", "1", "rest"} <= texts


def test_nothing_is_drawn_of_the_base_when_the_vectors_took_all() -> None:
    values = record(vectors=("it", "ja", "math", "code"))
    assert "base" not in str(draw_shares(SharesRecord.model_validate(values)))


@pytest.mark.parametrize("blocks", [1, 40, 130])
@pytest.mark.parametrize("exclusive", [True, False])
def test_many_layers_are_numbered_sparsely(blocks: int, exclusive: bool) -> None:
    values = record(blocks=max(blocks, 2), exclusive=exclusive)
    root = ET.fromstring(str(draw_shares(SharesRecord.model_validate(values))))  # noqa: S314 - our own drawing
    numbers = [text.text for text in root.iter(f"{SVG}text") if re.fullmatch(r"\d+|rest", text.text or "")]
    assert len(numbers) < 40


def test_a_method_that_shares_nothing_out_has_no_base_column() -> None:
    section = build_share_section(SharesRecord.model_validate(record(exclusive=False)))
    assert section is not None
    assert section.rows[0].shares == ("40.0 %", "40.0 %")
    assert not section.ranked
    assert "Two may keep the same one" in section.lead


def test_the_page_has_the_section_when_the_run_has_the_record(make_run: Callable[..., Path]) -> None:
    run = make_run(trials=6)
    assert "What each vector got" not in write_report(run).read_text(encoding="utf-8")
    (run / "model" / "shares.json").write_text(json.dumps(record(vectors=("<b>it</b>", "$ja$"))), encoding="utf-8")
    page = write_report(run).read_text(encoding="utf-8")
    assert '<a href="#shares">What each vector got</a>' in page
    assert "<b>it</b>" not in page
    assert "&lt;b&gt;it&lt;/b&gt;" in page
    assert page == write_report(run).read_text(encoding="utf-8")


def test_a_damaged_record_is_named(make_run: Callable[..., Path]) -> None:
    run = make_run(trials=6)
    values = record()
    values["total"]["counts"]["it"] = "many"
    (run / "model" / "shares.json").write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(AftermixError, match=r"shares\.json: total\.counts\.it: Input should be a valid integer"):
        read_shares(run)
