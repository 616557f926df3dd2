"""The `gcsearch` command: its subcommands, and errors as one line with an exit code."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from gcsearch import __version__
from gcsearch.cli import (
    confirm_command,
    dashboard_command,
    explain_command,
    export_command,
    latency_command,
    report_command,
    run_command,
    show_commands,
    train_command,
)
from gcsearch.errors import ConfigError, GcsearchError, UnknownNameError

__all__ = ["app", "main"]

WRONG_USAGE = (ConfigError, UnknownNameError)
"""What the user typed is at fault: exit 2. Anything else that was foreseen: exit 1."""

app = typer.Typer(
    name="gcsearch",
    help="Search which global-context blocks, where in a vision backbone, give the most accuracy "
    "for the least added latency.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

COMMANDS: dict[str, Callable[..., None]] = {
    "run": run_command.run,
    "sites": show_commands.sites,
    "backbones": show_commands.backbones,
    "status": show_commands.status,
    "front": show_commands.front,
    "confirm": confirm_command.confirm,
    "export": export_command.export,
    "train": train_command.train,
    "latency": latency_command.latency,
    "report": report_command.report,
    "explain": explain_command.explain,
    "dashboard": dashboard_command.dashboard,
}
for _name, _command in COMMANDS.items():
    app.command(_name)(_command)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"gcsearch {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    context.obj = {"debug": debug}


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its code.

    Args:
        arguments: Instead of the process's own.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    is_debug = "--debug" in arguments
    try:
        app(args=arguments, prog_name="gcsearch")
    except GcsearchError as error:
        if is_debug:
            raise
        sys.exit(_report(error))


def _report(error: GcsearchError) -> int:
    _say(f"error: {error}")
    return 2 if isinstance(error, WRONG_USAGE) else 1


def _say(text: Any) -> None:
    print(text, file=sys.stderr)
