"""`kubectl-ic`: on the PATH, `kubectl ic` finds it as a plugin."""

from __future__ import annotations

import typer

from inferencecluster.cli.render import render

application = typer.Typer(
    name="kubectl-ic",
    help="Look into InferenceClusters: what they would run, and why they have the size they have.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
application.command()(render)


@application.callback()
def commands() -> None:
    """Keeps the command's name on the command line while there is one command only."""


def main() -> None:
    """Entry point of the script `kubectl-ic`."""
    application()


if __name__ == "__main__":
    main()
