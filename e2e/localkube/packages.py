"""The Debian packages that localkube runs on."""

from __future__ import annotations

import shutil

from e2e.localkube.errors import BuildError
from e2e.localkube.progress import step
from e2e.localkube.shell import run

PACKAGES = (
    "buildah",
    "busybox-static",
    "ca-certificates",
    "containerd",
    "containernetworking-plugins",
    "iproute2",
    "iptables",
    "mmdebstrap",
    "openssl",
    "python3-venv",
    "runc",
    "util-linux",
)
"""`containerd` brings `ctr`; `python3-venv` is for the pip of a Python that came without one."""

INSTALL_TIMEOUT_SECONDS = 1200.0


def missing() -> list[str]:
    """Packages of the list that dpkg does not call installed."""
    query = run(
        ["dpkg-query", "--show", "--showformat=${Package} ${db:Status-Status}\n", *PACKAGES], check=False
    )
    return missing_in(query)


def missing_in(query: str) -> list[str]:
    """The same, from the output of `dpkg-query` ("name status" lines)."""
    installed = {line.split()[0] for line in query.splitlines() if line.endswith(" installed")}
    return [name for name in PACKAGES if name not in installed]


def install() -> None:
    """Install what is missing with apt-get, as the machine configures it. Raises `BuildError`."""
    with step("apt-get install") as current:
        if shutil.which("apt-get") is None:
            raise BuildError("this is no Debian system (no apt-get): install by hand " + " ".join(PACKAGES))
        names = missing()
        if not names:
            current.cached()
            return
        current.note = " ".join(names)
        environment = {"DEBIAN_FRONTEND": "noninteractive"}
        run(["apt-get", "update"], env=environment, timeout_seconds=INSTALL_TIMEOUT_SECONDS)
        # The services that packages start (containerd) are of no use here and may not be startable.
        run(
            ["apt-get", "install", "--yes", "--no-install-recommends", *names],
            env=environment,
            timeout_seconds=INSTALL_TIMEOUT_SECONDS,
        )
