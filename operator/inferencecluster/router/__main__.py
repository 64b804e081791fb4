"""Command line of the router: `python -m inferencecluster.router`.

In a Pod it needs IC_CLUSTER and IC_NAMESPACE only; `--static-fleet FILE` runs it without Kubernetes.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import uvloop

from inferencecluster.adapters.clock import SystemClock
from inferencecluster.adapters.credentials import load_credentials
from inferencecluster.adapters.environment import argument_parser
from inferencecluster.adapters.kube import ApiClient
from inferencecluster.core.errors import OperatorError, SpecError
from inferencecluster.router.configuration import VARIABLES, Configuration, read_configuration
from inferencecluster.router.kubernetes_sources import KubernetesFleet, KubernetesSettings
from inferencecluster.router.logs import configure_logging
from inferencecluster.router.process import RouterProcess, Sources, run
from inferencecluster.router.static_sources import StaticSource

EXIT_USAGE: Final = 2
EXIT_CANNOT_SERVE: Final = 1


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """The flags."""
    parser = argument_parser(
        "inferencecluster-router", "OpenAI API in, TensorRT-LLM's disaggregated protocol out.", VARIABLES
    )
    parser.add_argument(
        "--host",
        default="0.0.0.0",  # noqa: S104 - a Pod has one address, and clients need it
        help="address to listen on (:: for IPv6)",
    )
    parser.add_argument(
        "--static-fleet", type=Path, metavar="FILE", help="engines and settings from a JSON file"
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until stopped; the exit status."""
    options = parse_arguments(sys.argv[1:] if arguments is None else arguments)
    try:
        configuration = read_configuration(os.environ)
        configure_logging(configuration.log_level)
        uvloop.run(_serve(configuration, options))
    except SpecError as error:
        sys.stderr.write(f"inferencecluster-router: {error}\n")
        return EXIT_USAGE
    except (OperatorError, OSError) as error:
        sys.stderr.write(f"inferencecluster-router: {error}\n")
        return EXIT_CANNOT_SERVE
    return 0


async def _serve(configuration: Configuration, options: argparse.Namespace) -> None:
    async with _sources(configuration, options.static_fleet) as sources:
        process = RouterProcess(configuration, sources, SystemClock(), stopwatch=time.monotonic)
        await run(process, host=options.host)


@asynccontextmanager
async def _sources(configuration: Configuration, static_fleet: Path | None) -> AsyncIterator[Sources]:
    if static_fleet is not None:
        source = StaticSource(static_fleet)
        yield Sources(source.fleet, source.settings)
        return
    for name, value in (("IC_CLUSTER", configuration.cluster), ("IC_NAMESPACE", configuration.namespace)):
        if not value:
            raise SpecError(
                field=name,
                value="empty",
                rule="a router serves one InferenceCluster",
                advice="set it, or use --static-fleet",
            )
    async with ApiClient(await load_credentials()) as client:
        names = {"cluster": configuration.cluster, "namespace": configuration.namespace}
        yield Sources(KubernetesFleet(client, **names), KubernetesSettings(client, **names))


if __name__ == "__main__":
    sys.exit(main())
