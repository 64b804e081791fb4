"""kubectl for tests that need the CRDs and no operator."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from e2e.stack.manifests import (
    Manifest,
)


@dataclass(frozen=True, slots=True)
class Kubectl:
    """kubectl against the embedded Kubernetes, in a namespace of this run."""

    program: Path
    kubeconfig: Path
    namespace: str

    def run(self, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        command = [str(self.program), f"--kubeconfig={self.kubeconfig}", f"--namespace={self.namespace}"]
        return subprocess.run(
            [*command, *arguments], input=stdin, capture_output=True, text=True, check=False, timeout=120
        )

    def succeed(self, *arguments: str, stdin: str | None = None) -> str:
        result = self.run(*arguments, stdin=stdin)
        assert result.returncode == 0, result.stderr
        return result.stdout

    def create_dry(self, manifest: Manifest) -> Manifest:
        """The object as the API server would store it."""
        text = self.succeed("create", "--dry-run=server", "-o", "json", "-f", "-", stdin=json.dumps(manifest))
        stored: Manifest = json.loads(text)
        return stored

    def refusal(self, manifest: Manifest) -> str:
        """What the API server says against the object."""
        result = self.run("create", "--dry-run=server", "-f", "-", stdin=json.dumps(manifest))
        assert result.returncode != 0, "the object was accepted"
        return result.stderr
