"""`kubectl-ic`: on the PATH, `kubectl ic` finds it as a plugin."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated

import typer

from inferencecluster.cli.live_commands import explain_command, top_command
from inferencecluster.cli.plan import plan_command
from inferencecluster.cli.render import render
from inferencecluster.cli.replay import replay_command
from inferencecluster.cli.simulate import simulate_command

application = typer.Typer(
    name="kubectl-ic",
    help="Plan InferenceClusters and look into them: which to take, what they would run, and why they have their size.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
application.command()(render)
application.command("plan")(plan_command)
application.command("simulate")(simulate_command)
application.command("replay")(replay_command)
application.command("explain")(explain_command)
application.command("top")(top_command)


def _tell_version(asked: bool) -> None:
    if asked:
        typer.echo(f"kubectl-ic {version('inferencecluster-operator')}")
        raise typer.Exit


@application.callback()
def commands(
    *,
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and end.", is_eager=True, callback=_tell_version),
    ] = False,
) -> None:
    """Options in front of the command."""


def main() -> None:
    """Entry point of the script `kubectl-ic`."""
    application()


if __name__ == "__main__":
    main()
