"""`up`, `down`, `status`: the life of the one Kubernetes of this machine."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from e2e.localkube import builds, cgroups, configs, containerd, images, launch, network, pki, seed, teardown
from e2e.localkube.api import ApiClient, ApiError
from e2e.localkube.errors import LocalKubeError, MissingPrivilegesError, NotRunningError, StartError
from e2e.localkube.hashing import hash_files
from e2e.localkube.locks import exclusive
from e2e.localkube.paths import LOCK_FILE, PACKAGE, Cache, State, default_cache, default_state
from e2e.localkube.plan import COMPONENTS, NODE_IP, NODE_NAME, PRIVATE_DIRECTORIES
from e2e.localkube.privileges import missing_privileges
from e2e.localkube.progress import step

START_TIMEOUT_SECONDS = 120.0
"""Ten times and more what an idle machine needs (5 s); shared CI machines are that slow at times."""

POLL_SECONDS = 0.05
