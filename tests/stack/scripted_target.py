"""A Kubernetes that answers by a script, and what it may hold."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from e2e.stack.install import OWNER, OWNER_LABEL, RELEASE, SYSTEM_NAMESPACE
from e2e.stack.target import Target

NAMESPACE = "inferencecluster-demo"
EMPTY: Mapping[str, str] = MappingProxyType({})
Manifest = dict[str, Any]
OURS = {OWNER_LABEL: OWNER}
OUR_RELEASE = {"meta.helm.sh/release-name": RELEASE, "meta.helm.sh/release-namespace": SYSTEM_NAMESPACE}


@dataclass(frozen=True)
class ScriptedTarget(Target):
    """Answers by the beginning of the command; what is in no script is not there."""

    answers: dict[str, str | Exception] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)

    def run(self, tool: Path, *arguments: str, stdin: str | None = None, timeout: float = 120) -> str:
        command = " ".join((tool.name, *arguments))
        self.calls.append(command)
        for start, answer in self.answers.items():
            if command.startswith(start):
                if isinstance(answer, Exception):
                    raise answer
                return answer
        return ""


def scripted(answers: dict[str, Any]) -> ScriptedTarget:
    return ScriptedTarget(
        kubeconfig=Path("kubeconfig"),
        kubectl=Path("kubectl"),
        helm=Path("helm"),
        images={},
        audit_log=None,
        registry="registry.example/team",
        answers={
            command: answer if isinstance(answer, str | Exception) else json.dumps(answer)
            for command, answer in answers.items()
        },
    )


def named(
    name: str, *, labels: Mapping[str, str] = EMPTY, annotations: Mapping[str, str] = EMPTY
) -> Manifest:
    return {"metadata": {"name": name, "labels": dict(labels), "annotations": dict(annotations)}}
