"""A user's own evaluation before a job begins: named by file and hash, and its tasks written into the configuration."""

from __future__ import annotations

from pathlib import Path

from aftermix import progress
from aftermix.checkpoints.model_files import find_tokenizer_folder
from aftermix.checkpoints.pool import open_pool
from aftermix.config import Config, TaskConfig
from aftermix.errors import printable


def settle_tasks(config: Config, *, resumed: Path | None = None) -> Config:
    """`config` whose own evaluation names all of its tasks, as `config.yaml` records them; any other as it is.

    The function is named with the hash of its file before this is run. That of a run which goes on, `resumed`, must be
    the same: :class:`SearchError` otherwise. A function without `items()`, whose tasks no file names, is called once
    with the base for them. Raises :class:`EvaluationError` for what is wrong with the function.
    """
    evaluate = config.evaluate
    if evaluate is None or evaluate.function is None:
        return config
    from aftermix.evaluation.own.function import identify_function
    from aftermix.evaluation.own.suite import OwnSuite
    from aftermix.evaluation.suites.contract import FunctionIdentity
    from aftermix.jobs.search.score_lock import refuse_other_function

    name, files = identify_function(evaluate.function)
    if resumed is not None:
        refuse_other_function(resumed, FunctionIdentity(name, files), partly=True)
    hashes = ", ".join(f"{file} {digest[:19]}" for file, digest in files.items())
    progress.say(printable(f"evaluation by {name} ({hashes})"))

    suite = OwnSuite.build(evaluate)
    names = list(suite.tasks)
    if not names:
        pool = open_pool(config)
        engine = suite.open_engine(pool.frame, tokenizer_folder=find_tokenizer_folder(pool), config=evaluate)
        names = suite.find_tasks(engine)
        engine.close()
    tasks = tuple(TaskConfig(task=task) for task in names)
    return config.model_copy(update={"evaluate": evaluate.model_copy(update={"tasks": tasks})})
