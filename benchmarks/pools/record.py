"""Record pools of merges: make base and vectors, measure a merge after the other, write `NAME.safetensors`.

    OMP_NUM_THREADS=1 python -m benchmarks.pools.record demo [--folder runs/pools] [--merges 200]

Every measured merge is a file of its own in the folder: killed and begun again, it goes on with the next one. Fewer
`--merges` give a pool that a later run makes longer. The design depends on the seed and the number of vectors alone.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.measure import machine
from benchmarks.pools import FOLDER
from benchmarks.pools.design import list_design
from benchmarks.pools.recorder import KINDS, Arrays, MergeRecorder
from benchmarks.pools.worlds import POOLS
from benchmarks.tiny import parse_options
from safetensors.numpy import load_file, save

from aftermix.checkpoints.model_files import list_input_files
from aftermix.config import Config
from aftermix.errors import AftermixError
from aftermix.files import fingerprint, write_atomically, write_json

SEED = 0
TINY = {"pools": ["demo_ties", "demo_generated", "smollm2"], "merges": 3, "items": 3}


def record_pool(name: str, folder: Path, *, merges: int, items: int, tiny: bool) -> tuple[Arrays, dict[str, str]]:
    """Measure what is not measured yet, and return the arrays and the header of the pool."""
    config = set_items(POOLS[name].prepare(folder, tiny), items)
    recorder = MergeRecorder.open(config)
    design = list_design(len(config.vectors), merges, seed=SEED)
    journal = folder / name / "merges"
    journal.mkdir(parents=True, exist_ok=True)
    settle_identity(folder / name / "identity.json", describe_identity(recorder))

    for number, weights in enumerate(design):
        file = journal / f"{number:04d}.safetensors"
        if not file.exists():
            started = time.perf_counter()
            measured = recorder.measure(weights)
            seconds = time.perf_counter() - started
            write_atomically(file, save({**measured, "weights": weights, "seconds": np.array([seconds])}))
            print(f"{name} {number + 1}/{merges}: {seconds:.1f} s", flush=True)

    measured = [load_file(journal / f"{number:04d}.safetensors") for number in range(merges)]
    return assemble(recorder, measured), describe_pool(name, recorder, measured)


def set_items(config: Config, items: int) -> Config:
    """The configuration with `items` items of each task in its search split, which are the pool's."""
    assert config.evaluate is not None
    counts = {"search": items, "select": 1, "test": 1}
    values = config.evaluate.model_dump(exclude_unset=True) | {"items": counts, "threads": torch.get_num_threads()}
    return config.model_copy(update={"evaluate": type(config.evaluate).model_validate(values)})


def describe_identity(recorder: MergeRecorder) -> dict[str, Any]:
    """Everything that decides the answers to a merge: weights, method, items."""
    return {
        "models": sorted({fingerprint(file) for file in list_input_files(recorder.prepared.merger.pool)}),
        "merge": describe_method(recorder.config),
        "items": recorder.items,
    }


def describe_method(config: Config) -> dict[str, Any]:
    """The `merge:` section as it was written."""
    return config.merge.model_dump(mode="json", exclude_unset=True)


def settle_identity(file: Path, identity: dict[str, Any]) -> None:
    """Write it beside the first merge; later, refuse a folder whose merges are of other inputs."""
    if not file.exists():
        write_json(file, identity)
    found = json.loads(file.read_text(encoding="utf-8"))
    other = [key for key, value in identity.items() if found.get(key) != value]
    if other:
        raise SystemExit(f"{file.parent}: its merges are of other {', '.join(other)}; name another --folder.")


def assemble(recorder: MergeRecorder, measured: list[Arrays]) -> Arrays:
    """All merges in one array each; log-likelihoods in float16 around the median of each request over the merges."""
    arrays = recorder.describe_items() | {"weights": np.stack([each["weights"] for each in measured])}
    for task in recorder.items:
        values_MR = np.stack([each[f"{task}/loglikelihood"] for each in measured]).astype(np.float32)
        centre_R = np.median(values_MR, axis=0)
        score_MN = np.stack([each[f"{task}/score"] for each in measured])
        whole = np.isin(score_MN, (0, 1)).all()

        arrays[f"{task}/centre"] = centre_R
        arrays[f"{task}/loglikelihood"] = (values_MR - centre_R).astype(np.float16)
        arrays[f"{task}/score"] = score_MN.astype(np.uint8 if whole else np.float16)
    return arrays


def describe_pool(name: str, recorder: MergeRecorder, measured: list[Arrays]) -> dict[str, str]:
    """The header: what was recorded, how and when."""
    tasks = {
        task: {"kind": KINDS[asked.kind], "metric": asked.metric.partition(",")[0], "items": len(recorder.items[task])}
        for task, asked in recorder.requests.items()
    }
    facts: dict[str, Any] = {
        "name": name,
        "method": recorder.config.merge.method,
        "merge": json.dumps(describe_method(recorder.config)),
        "vectors": json.dumps(list(recorder.config.vectors)),
        "tasks": json.dumps(tasks),
        "positions": json.dumps(recorder.count_positions()),
        "seed": SEED,
        "seconds_a_merge": f"{np.median([each['seconds'][0] for each in measured]):.1f}",
        "script": "benchmarks/pools/record.py",
        "commit": find_commit(),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": machine(),
        "loglikelihood": "float16, minus centre (float32, median over the merges, by request)",
    }
    return {key: str(value) for key, value in facts.items()}


def find_commit() -> str:
    """The commit that is checked out here; `unknown` outside a repository."""
    asked = subprocess.run(["git", "rev-parse", "HEAD"], cwd=FOLDER, capture_output=True, text=True, check=False)
    return asked.stdout.strip() or "unknown"


def main() -> None:
    """Record the pools that were named, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pools", nargs="*", metavar="NAME", default=list(POOLS), help=f"of {', '.join(POOLS)}")
    parser.add_argument("--folder", type=Path, default=Path("runs/pools"), help="for models and measured merges")
    parser.add_argument("--output", type=Path, default=FOLDER, help="for the pools' files (default: beside this one)")
    parser.add_argument("--merges", type=int, help="as many merges (default: the pool's own number)")
    parser.add_argument("--items", type=int, help="items of each task (default: the pool's own number)")
    parser.add_argument("--threads", type=int, default=1)
    options = parse_options(parser, lambda folder: {"folder": folder / "pools", "output": folder / "pools", **TINY})
    unknown = [name for name in options.pools if name not in POOLS]
    if unknown:
        parser.error(f"no pool is called {', '.join(unknown)}; there are {', '.join(POOLS)}")

    torch.set_num_threads(options.threads)
    for name in options.pools:
        recipe = POOLS[name]
        sizes = {"merges": options.merges or recipe.merges, "items": options.items or recipe.items}
        try:
            arrays, facts = record_pool(name, options.folder, **sizes, tiny=options.tiny is not None)
        except AftermixError as error:
            raise SystemExit(str(error)) from error
        file = options.output / f"{name}.safetensors"
        write_atomically(file, save(arrays, facts))
        print(f"{file}: {sizes['merges']} merges, {file.stat().st_size / 1e6:.2f} MB", flush=True)


if __name__ == "__main__":
    main()
