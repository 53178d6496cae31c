"""The jobs as functions: search, mixture, train, evaluate. Each takes a pool, a configuration or a file, and keywords.

Keywords are keys of the file's sections (:mod:`aftermix.api.sections`). A job prints nothing (bars are
for notebooks, and for whoever asks), and leaves the process as it found it (:mod:`aftermix.api.manners`); `log` is told
what the command line would say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aftermix.api.manners import preserve_process
from aftermix.api.own_function import take_function
from aftermix.api.pool import Pool
from aftermix.api.sections import Ranges, extend_config, open_config
from aftermix.api.stored_run import Run, open_run
from aftermix.config import Config, Split
from aftermix.config.places import GivenWeight
from aftermix.extras import refuse_missing_extra
from aftermix.runs.input_records import CONFIG_FILE

if TYPE_CHECKING:
    from aftermix.api.shown_scores import MeasuredScores
    from aftermix.jobs.paired.command import ComparisonRecord
    from aftermix.jobs.paired.run_scores import HeldOut

Source = Pool | Config | str | Path
"""A pool, a configuration, or the path of a file."""
Log = Callable[[str], object]


def search(
    source: Source,
    *,
    output: str | Path,
    ranges: Ranges | None = None,
    resume: bool = False,
    start_from: str | Path | None = None,
    log: Log = lambda _: None,
    **options: Any,
) -> Run:
    """Search merge weights by measured score, in the run folder `output`, and open it: `aftermix search`. ::

        run = aftermix.search(pool, tasks=["quiz"], include_path="tasks", trials=12, output="runs/quiz")
        run.best.weights

    `options`: keys of `search:`, `evaluate:` and `merge:`, the first that has the key, and `compare`: models by name
    that the winner is compared with. `ranges`: of the merge weights, by vector. `resume` goes on with the run in
    `output`; `start_from` is `--from`, an earlier run whose scores are taken. `function` may be one of your own,
    with its `items` beside it. Interrupted, a search leaves a run that `resume=True` goes on with.

    Raises :class:`AftermixError` with nothing written, and :class:`.RunFailedError` once something is.
    """
    refuse_missing_extra("search", what="search")
    stated = "trials" in {**options, **(options.get("search") or {})}
    earlier = _as_path(start_from)
    with take_function(options) as named, _tell_how_to_go_on("search", Path(output), options):
        config = extend_config(_configure(source), named, sections=["search", "evaluate", "merge"], ranges=ranges)
        with preserve_process():
            from aftermix.jobs.search.command import search as job

            return open_run(job(config, Path(output), resume=resume, source=earlier, trials_stated=stated, log=log))


def mixture(
    source: Source,
    *,
    output: str | Path,
    resume: bool = False,
    start_from: str | Path | None = None,
    verify: int | None = None,
    verify_tokens: int | None = None,
    doremi: bool = False,
    verify_seeds: int = 0,
    log: Log = lambda _: None,
    **options: Any,
) -> Run:
    """Find the data ratios whose merge scores best, in the run folder `output`, and open it: `aftermix mixture`. ::

        run = aftermix.mixture(pool, tasks=["quiz"], include_path="tasks", points=8, output="runs/mixture")
        run.ratios

    `options`: keys of `mixture:`, `evaluate:`, `merge:` and `search:`, the first that has the key, and `compare`.
    `verify` mixtures are then trained for real (`--verify`), each on `verify_tokens` (`--tokens`; default as the
    experts), with `doremi` the ratios of DoReMi too, with `verify_seeds` that many models at the ratios of each method
    (`--seeds`). Raises as :func:`search`.
    """
    refuse_missing_extra("search", what="mixture")
    if verify is not None:
        refuse_missing_extra("train", what="mixture --verify")
    folder, from_run = Path(output), _as_path(start_from)
    given = {"verify": verify, "verify_tokens": verify_tokens, "doremi": doremi or None}
    given["verify_seeds"] = verify_seeds or None
    with take_function(options) as named, _tell_how_to_go_on("mixture", folder, options, **given):
        config = extend_config(_configure(source), named, sections=["mixture", "evaluate", "merge", "search"])
        begun: dict[str, Any] = {"resume": resume, "source": from_run, "log": log}
        with preserve_process():
            if verify is None:
                from aftermix.jobs.mixture.command import mixture as job

                job(config, folder, **begun)
            else:
                from aftermix.jobs.verify.command import run_and_verify

                run_and_verify(
                    config,
                    folder,
                    mixtures=verify,
                    tokens=verify_tokens,
                    doremi=doremi,
                    seeds=verify_seeds,
                    **begun,
                )
    return open_run(folder)


def train(source: Source, *, output: str | Path, **options: Any) -> dict[str, Path]:
    """Train one expert per dataset from the base, below `output`: name -> model folder. `aftermix train`. ::

        base = aftermix.Pool("models/base", {})
        data = {"code": {"data": "texts/code.jsonl", "tokens": 2_000}}
        aftermix.train(base, datasets=data, context=32, batch_size=4, output="experts/trained")["code"]

    `options`: keys of `train:`, `datasets` among them; finished experts and resume points in `output` are taken up.
    Raises :class:`AftermixError` for bad input, before anything is written.
    """
    refuse_missing_extra("train", what="train")
    config = extend_config(_configure(source), options, sections=["train"])
    try:
        with preserve_process():
            from aftermix.jobs.train.command import train as job

            return dict(job(config, Path(output)))
    except KeyboardInterrupt as stop:
        stop.add_note("Interrupted: finished experts and resume points are kept; the same call goes on.")
        raise


def evaluate(
    source: Source, *, weights: Mapping[str, GivenWeight] | None = None, split: Split = "test", **options: Any
) -> MeasuredScores:
    """Score the merge at `weights` (left out: those of the file; without vectors, the base): `aftermix evaluate`. ::

        scores = aftermix.evaluate(pool, weights={"ja": 0.4}, tasks=["quiz"], include_path="tasks")
        scores.tasks["quiz"].score, scores.tasks["quiz"].interval

    `options`: keys of `evaluate:`, `merge:` and `search:`, the first that has the key. The result has `objective`,
    `tasks`, and intervals. Raises :class:`AftermixError` on bad input.
    """
    refuse_missing_extra("search", what="evaluate")
    from aftermix.api.shown_scores import MeasuredScores

    with take_function(options) as named, preserve_process():
        from aftermix.jobs.evaluate.command import evaluate as job

        config = extend_config(_configure(source), named, sections=["evaluate", "merge", "search"], weights=weights)
        return MeasuredScores.model_validate(job(config, split=split).model_dump(exclude_unset=True))


def compare(
    a: Run | str | Path, b: Run | str | Path, *, cluster: str | None = None, split: HeldOut = "test"
) -> ComparisonRecord:
    """Hold the scores of `a` against those of `b`, document by document, with a paired test: `aftermix compare`. ::

        found = aftermix.compare("runs/first", "runs/second")
        found.tasks["quiz"].difference, found.tasks["quiz"].interval

    Each is a run (opened or its folder), whose winner counts, or a file or folder of lm-eval's samples. Documents of
    one value of the field `cluster` are drawn together; `split` is that of runs. Raises :class:`AftermixError` for what
    cannot be read, and where no document is of both.
    """
    from aftermix.api.commands.runs import compare_results

    ours, theirs = (side.path if isinstance(side, Run) else Path(side) for side in (a, b))
    return compare_results(ours, theirs, cluster=cluster, split=split)


@contextmanager
def _tell_how_to_go_on(function: str, run: Path, options: Mapping[str, Any], **given: object) -> Iterator[None]:
    """Have an interrupt say, when there is a run, what is kept in the folder `run` and the call that goes on.

    `given` is what that call needs besides the run's file; a function of one's own stands in no file.
    """
    try:
        yield
    except KeyboardInterrupt as stop:
        file = run.resolve() / CONFIG_FILE
        if file.is_file():
            needed = {"output": str(file.parent), "resume": True, **given}
            words = "".join(f", {name}={value!r}" for name, value in needed.items() if value is not None)
            has_own = callable(options.get("function"))
            call = " the same call and `resume=True`" if has_own else f"\n  aftermix.{function}({str(file)!r}{words})"
            stop.add_note(f"Interrupted: every finished trial is kept; go on with{call}")
        raise


def _configure(source: Source) -> Config:
    return source.config if isinstance(source, Pool) else open_config(source)


def _as_path(folder: str | Path | None) -> Path | None:
    return None if folder is None else Path(folder)
