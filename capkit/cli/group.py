"""Commands whose errors and warnings take one line, and the text below their help."""

from __future__ import annotations

import contextlib
import errno
import warnings
from collections.abc import Iterator
from typing import Any

import click

__all__ = ["SOME_UNREADABLE", "Commands", "epilog"]

# Exit codes besides 0 and 1 (failed); 2 is click's, for invalid arguments.
SOME_UNREADABLE = 3
_INTERRUPTED = 130

_EXIT_CODES = (
    "Exit codes: 0 done; 1 failed; 2 invalid arguments; 3 done, but some files could not be read; "
    "130 interrupted."
)


def epilog(*examples: str) -> str:
    """Examples, each on a line of its own (the mark is click's), and the exit codes."""
    lines = "\n".join(f"  {example}" for example in examples)
    return f"\b\nExamples:\n{lines}\n\n{_EXIT_CODES}"


class Commands(click.Group):
    """Commands in the order in which they are used, whose errors are one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the commands, in the order in which they were defined."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; what goes wrong is one line and an exit code."""
        from capkit.exceptions import CapkitError

        with _warnings_of_one_line():
            try:
                return super().invoke(ctx)
            except KeyboardInterrupt as error:
                click.echo(f"Interrupted. {error}".rstrip(), err=True)
                ctx.exit(_INTERRUPTED)
            except (CapkitError, OSError, ValueError, ImportError) as error:
                closed_pipe = isinstance(error, OSError) and error.errno == errno.EPIPE
                if closed_pipe or ctx.params.get("traceback"):
                    raise
                raise click.ClickException(_one_line(error)) from None


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.strerror}: {error.filename}"
    return " ".join(str(error).split()) or type(error).__name__


@contextlib.contextmanager
def _warnings_of_one_line() -> Iterator[None]:
    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        click.echo(f"Warning: {' '.join(str(message).split())}", err=True)

    with warnings.catch_warnings():
        warnings.showwarning = show
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        yield
