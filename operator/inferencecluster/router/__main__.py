"""Command line of the router: `python -m inferencecluster.router`.

In a Pod it needs IC_CLUSTER and IC_NAMESPACE only; `--static-fleet` runs it without Kubernetes.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import uvloop

from inferencecluster.adapters.clock import SystemClock
from inferencecluster.adapters.credentials import load_credentials
from inferencecluster.adapters.kube import HttpKubeClient
from inferencecluster.core.errors import OperatorError, SpecError
from inferencecluster.router.configuration import Configuration, read_configuration
from inferencecluster.router.kubernetes_sources import KubernetesFleet, KubernetesSettings
from inferencecluster.router.logs import configure_logging
from inferencecluster.router.process import RouterProcess, Sources, run
from inferencecluster.router.static_sources import StaticSource

EXIT_USAGE: Final = 2
EXIT_CANNOT_SERVE: Final = 1
