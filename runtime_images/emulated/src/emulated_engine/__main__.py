"""Command line of the emulated engine."""

from __future__ import annotations

import argparse
import gc
import logging
import os
import signal
import socket
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path

import uvloop
from prometheus_client import disable_created_metrics

from emulated_engine import __version__
from emulated_engine.configuration import load_configuration
from emulated_engine.errors import ConfigurationError
from emulated_engine.process import Listen, serve

EXIT_USAGE = 2
EXIT_CANNOT_LISTEN = 1


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """The flags."""
    parser = argparse.ArgumentParser(prog="emulated-engine", description="trtllm-serve without a GPU")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("serve", help="serve the OpenAI API")
    command.add_argument("--host", default="localhost", help="address to listen on")
    command.add_argument("--port", type=int, default=8000, help="0 takes a free port, which the log names")
    command.add_argument("--model", required=True, help="name of the model")
    command.add_argument("--config", type=Path, required=True, help="JSON file, see README")
    command.add_argument("--boot-seconds", type=float, help="replaces boot_seconds of the file")
    command.add_argument("--seed", type=int, help="replaces seed of the file")
    command.add_argument("--allow-faults", action="store_true", default=None, help="serve /faults")
    command.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="info")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until stopped. Like uvicorn, the process then ends by the signal that stopped it."""
    options = parse_arguments(sys.argv[1:] if arguments is None else arguments)
    logging.basicConfig(
        level=options.log_level.upper(), format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr
    )
    try:
        configuration = load_configuration(
            options.config,
            boot_seconds=options.boot_seconds,
            seed=options.seed,
            allow_faults=options.allow_faults,
        )
    except ConfigurationError as error:
        sys.stderr.write(f"emulated-engine: {error}\n")
        return EXIT_USAGE
    seed = configuration.seed
    if seed is None:
        # The Pod's name: replicas of one configuration boot at different times, a restarted one at its own.
        seed = zlib.crc32((os.environ.get("POD_NAME") or socket.gethostname()).encode())
    # The real engine has none: prometheus_client does not make them in multiprocess mode.
    disable_created_metrics()  # type: ignore[no-untyped-call]  # the library leaves it untyped
    gc.freeze()  # what is imported stays: it need not be looked at again
    try:
        caught = uvloop.run(
            serve(
                configuration,
                configuration.served_model_name or options.model,
                Listen(_address(options.host), options.port),
                seed,
            )
        )
    except OSError as error:
        sys.stderr.write(f"emulated-engine: cannot listen on {options.host}:{options.port}: {error}\n")
        return EXIT_CANNOT_LISTEN
    signal.signal(caught, signal.SIG_DFL)
    signal.raise_signal(caught)
    return 0  # process 1 of a container does not end by its own SIGTERM


def _address(host: str) -> str:
    return "127.0.0.1" if host == "localhost" else host


if __name__ == "__main__":
    sys.exit(main())
