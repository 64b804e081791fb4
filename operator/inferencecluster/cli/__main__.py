"""`kubectl-ic`: on the PATH, `kubectl ic` finds it as a plugin."""

from __future__ import annotations

import typer

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


@application.callback()
def commands() -> None:
    """Keeps the command's name on the command line while there is one command only."""


def main() -> None:
    """Entry point of the script `kubectl-ic`."""
    application()


if __name__ == "__main__":
    main()
