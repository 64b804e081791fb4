"""`inferencecluster-operator`: the operator's process."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Sequence
from typing import Final

import uvloop
from prometheus_client import disable_created_metrics

from inferencecluster.adapters.environment import argument_parser
from inferencecluster.controller.logs import configure_logging
from inferencecluster.controller.process import run_process
from inferencecluster.controller.settings import VARIABLES, read_settings
from inferencecluster.core.errors import OperatorError, SpecError

DESCRIPTION: Final = "Sizes prefill, decode and mixed pools of TensorRT-LLM engines from live demand."

_logger = logging.getLogger("inferencecluster")


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the settings, run, and exit: 0 after SIGTERM, 1 when leadership was lost, 2 for wrong settings.

    `arguments` are those of the command line where absent; `--help` is the only one.
    """
    argument_parser("inferencecluster-operator", DESCRIPTION, VARIABLES).parse_args(arguments)
    try:
        settings = read_settings(os.environ)
    except SpecError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)
    configure_logging(settings.log_level)
    # A second series beside every counter, which nobody reads.
    disable_created_metrics()  # type: ignore[no-untyped-call]  # the library leaves it untyped
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run_process(settings, on_leadership_lost=_end_now))
    except asyncio.CancelledError:
        _logger.info("ended by a signal")
    except OperatorError as error:
        _logger.critical("the operator cannot run", extra={"error": str(error)})
        sys.exit(1)


def _end_now() -> None:
    """A leader that lost its lease must not finish a write that is under way: no clean-up."""
    os._exit(1)


if __name__ == "__main__":
    main()
