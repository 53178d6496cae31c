"""The end of a command: exit code, message, and for work that had begun what is kept and how to go on."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from aftermix.errors import AftermixError, OccupiedRunError, RunFailedError, printable


def join_command(*parts: object) -> str:
    """A command as a shell takes it, without the parts that are None."""
    return shlex.join(str(part) for part in parts if part is not None)


def list_options(given: Mapping[str, object]) -> list[object]:
    """Options with their values, of those that were given.

    >>> list_options({"--trials": 40, "--tokens": None})
    ['--trials', 40]
    """
    return [part for name, value in given.items() if value is not None for part in (name, value)]


@contextmanager
def announce_resume(
    command: str,
    *,
    kept: str,
    output: Path,
    anew: str | None = None,
    anew_without: str | None = None,
    has_begun: bool = False,
) -> Iterator[None]:
    """Say, when work in the folder `output` stops, what is `kept` there ("every trial") and the command that goes on.

    Where a stop would meet the same end again, that is the command of a new run, `anew`; `anew_without` the scores of
    this one, where they are of no use. With `has_begun`, something was written before: a refusal is a stop, too. A run
    that is there already, of the same file, is refused with that command.
    """
    try:
        yield
    except OccupiedRunError as error:
        raise error.name_command(command) from error
    except KeyboardInterrupt:
        verb = "are" if kept.endswith("s") else "is"
        notice = f"{kept[0].upper()}{kept[1:]} {verb} kept; go on with:\n  {command}"
        click.echo(f"\nInterrupted. {notice if _holds_anything(output) else 'Nothing was written.'}", err=True)
        raise
    except Exception as error:
        stop = _find_stop(error, output, kept=f"{kept}, in {output}", has_begun=has_begun)
        if stop is not None:
            stop.kept = stop.kept or f"{kept}, in {output}"
            new_run = anew if stop.scores_serve else anew_without
            stop.go_on = new_run if new_run and stop.takes_new_run else command
        elif not isinstance(error, AftermixError) and _holds_anything(output):
            error.add_note(f"go on with: {command}")

        if stop is None or stop is error:
            raise
        raise stop from error


def _find_stop(error: Exception, output: Path, *, kept: str, has_begun: bool) -> RunFailedError | None:
    """The stop that `error` is, or stands for; None for a refusal, and for what no user can mend."""
    if isinstance(error, RunFailedError):
        return error
    if isinstance(error, AftermixError):
        return RunFailedError.from_refusal(error, kept=kept) if has_begun else None
    if isinstance(error, OSError) and error.strerror is not None and _holds_anything(output):
        return RunFailedError(str(error.filename or output), error.strerror, "Mend that, then go on.", kept=kept)
    return None


def _holds_anything(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def run_guarded(run: Callable[[], Any]) -> int:
    """Exit code of the command `run`; what a user can mend is told in one message on standard error."""
    try:
        result = run()
    except RunFailedError as error:
        click.echo(f"aftermix: {error}", err=True)
        for label, text in (("kept", error.kept), ("go on with", error.go_on)):
            if text is not None:
                click.echo(f"{label}: {printable(text)}", err=True)
        return error.exit_code
    except AftermixError as error:
        click.echo(f"aftermix: {error}", err=True)
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("aftermix: interrupted", err=True)
        return 130
    except OSError as error:
        # A full disk, a file that vanished: nothing that a traceback would explain.
        if error.strerror is None:
            raise
        place = f"{printable(str(error.filename))}: " if error.filename else ""
        click.echo(f"aftermix: {place}{error.strerror}", err=True)
        # What a command writes appears complete or not at all; only its own lines may have come out before.
        return RunFailedError.exit_code if isinstance(error, BrokenPipeError) else AftermixError.exit_code
    return result if isinstance(result, int) else 0
