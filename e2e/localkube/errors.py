"""The exceptions of this package.

::

    LocalKubeError
      MissingPrivilegesError   this machine cannot run localkube, or build images: carries every reason
      CommandError             a tool exited with an error: carries its command line and last output
      BuildError               a source, toolchain or artifact is not what the build needs
      StartError               a component did not become ready in time: carries the end of its log
      CleanupError             something of ours is still on the machine after `down`
      NotRunningError          the command needs a running Kubernetes
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence


class LocalKubeError(Exception):
    """Base of every error that this package raises on purpose."""


class MissingPrivilegesError(LocalKubeError):
    """This machine cannot do `purpose`; `reasons` holds one sentence each."""

    def __init__(self, reasons: Sequence[str], *, purpose: str = "run localkube") -> None:
        self.reasons = tuple(reasons)
        super().__init__(f"this machine cannot {purpose}:\n  - " + "\n  - ".join(self.reasons))


class CommandError(LocalKubeError):
    """A tool exited with `returncode`; `output` holds the end of what it printed."""

    def __init__(self, argv: Sequence[str], returncode: int, output: str) -> None:
        self.argv = tuple(argv)
        self.returncode = returncode
        self.output = output
        super().__init__(f"exit status {returncode} from: {shlex.join(self.argv)}\n{output.strip()[-4000:]}")


class BuildError(LocalKubeError):
    """A source, toolchain or artifact is not what the build needs."""


class StartError(LocalKubeError):
    """A component did not become ready; `log_tail` holds the last lines that it wrote."""

    def __init__(self, what: str, log_tail: str) -> None:
        self.what = what
        self.log_tail = log_tail
        super().__init__(f"{what}\n--- last lines of the log ---\n{log_tail.strip()}")


class CleanupError(LocalKubeError):
    """`leftovers` names everything of ours that is still on the machine after `down`."""

    def __init__(self, leftovers: Sequence[str]) -> None:
        self.leftovers = tuple(leftovers)
        super().__init__("still on this machine after cleanup:\n  - " + "\n  - ".join(self.leftovers))


class NotRunningError(LocalKubeError):
    """The command needs a running Kubernetes: run `python -m e2e.localkube up` first."""

    def __init__(self) -> None:
        super().__init__("localkube is not running: start it with `python -m e2e.localkube up`")
