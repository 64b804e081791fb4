"""What the operator recorded (chart value `recording.enabled`), fetched from the Pod of its leader."""

from __future__ import annotations

from e2e.stack.install import RELEASE, SYSTEM_NAMESPACE
from e2e.stack.target import Target

RECORDING_VALUES = {"recording": {"enabled": True}}
"""For `install_operator`."""
RECORD_FILE = "/tmp/looks.jsonl"


def read_recording(target: Target) -> list[str]:
    """Every line that the leader holds, the oldest first: also those of earlier clusters. Raises `StackError`."""
    lease = target.get("lease", RELEASE, "--namespace", SYSTEM_NAMESPACE)
    # The identity is the Pod's name and a suffix that tells its processes apart.
    leader = str(lease["spec"]["holderIdentity"]).partition("_")[0]
    text = target.control(
        *("exec", leader, "--namespace", SYSTEM_NAMESPACE, "--"),
        *("sh", "-c", f"[ ! -e {RECORD_FILE}.1 ] || cat {RECORD_FILE}.1; cat {RECORD_FILE}"),
    )
    # What stands behind the last line break is a line that the operator was just writing.
    return text.split("\n")[:-1]
