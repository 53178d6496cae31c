"""The end of a command: exit code, message, and for work that had begun what is kept and how to go on."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from aftermix.errors import AftermixError, RunFailedError, printable


def join_command(*parts: object) -> str:
    """A command as a shell takes it, without the parts that are None."""
    return shlex.join(str(part) for part in parts if part is not None)


@contextmanager
def announce_resume(command: str, *, kept: str, output: Path, anew: str | None = None) -> Iterator[None]:
    """Say, when work in the folder `output` stops, what is `kept` there ("every trial") and the command that goes on.

    Where a stop would meet the same end again, that is the command of a new run, `anew`.
    """
    try:
        yield
    except KeyboardInterrupt:
        verb = "are" if kept.endswith("s") else "is"
        notice = f"{kept[0].upper()}{kept[1:]} {verb} kept; go on with:\n  {command}"
        click.echo(f"\nInterrupted. {notice if _holds_anything(output) else 'Nothing was written.'}", err=True)
        raise
    except RunFailedError as error:
        error.kept = error.kept or f"{kept}, in {output}"
        error.go_on = anew if anew and error.takes_new_run else command
        raise
    except Exception as error:
        if not isinstance(error, AftermixError) and _holds_anything(output):
            error.add_note(f"go on with: {command}")
        raise


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
        click.echo(f"aftermix: {printable(str(error.filename or 'a file'))}: {error.strerror}", err=True)
        return RunFailedError.exit_code
    return result if isinstance(result, int) else 0
