"""What a run of the demo left: the cluster, its engines, the requests as sent, and the pools as they were seen."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import yaml
from e2e.demo import evidence
from e2e.demo.load import Answer, read_answers
from e2e.demo.monitor import Sample

from inferencecluster.api.inferencecluster import InferenceCluster, parse_cluster
from inferencecluster.api.recording import Entry
from inferencecluster.core.errors import SpecError
from inferencecluster.core.fleet import Lifecycle, PoolName, Replica


@dataclass(frozen=True, slots=True)
class Demo:
    """One run. Seconds count from the moment at which its clients began to send."""

    facts: evidence.RunFacts
    cluster: InferenceCluster
    engines: Mapping[PoolName, Mapping[str, Any]]
    """What the engines of each pool were told, as they read it."""
    answers: Sequence[Answer]
    """In the order of their sending."""
    samples: Sequence[Sample]
    """`at` counts as everything else here."""
    looks: Sequence[Entry]
    began_at: float
    """Unix time of second 0."""

    @property
    def seconds(self) -> float:
        """Until the last request was sent."""
        return max(answer.at + answer.late for answer in self.answers)

    @property
    def initial(self) -> Mapping[PoolName, int]:
        """Replicas that served when it began; empty where no look is older."""
        before = [entry for entry in self.looks if entry.observation.now <= self.began_at]
        if not before:
            return {}
        replicas = before[-1].observation.replicas
        return {name: sum(item.is_serving and item.home is name for item in replicas) for name in PoolName}

    def boots(self) -> list[float]:
        """Seconds from the creation of each replica to its readiness; Kubernetes tells both in whole seconds."""
        lives = self._lives()
        return [
            replica.ready_at - replica.created_at
            for replica in lives.values()
            if replica.ready_at is not None and replica.created_at > self.began_at
        ]

    def terminations(self) -> list[float]:
        """Seconds from the look that first saw a replica being deleted to the one that saw it gone."""
        since: dict[str, float] = {}
        found: list[float] = []
        for entry in self.looks:
            seen = entry.observation
            leaving = {item.uid for item in seen.replicas if item.lifecycle is Lifecycle.TERMINATING}
            found += [seen.now - began for uid, began in since.items() if uid not in leaving]
            since = {uid: since.get(uid, seen.now) for uid in leaving}
        return found

    def _lives(self) -> dict[str, Replica]:
        """Each replica as it was seen last while it was ready."""
        return {
            replica.uid: replica
            for entry in self.looks
            for replica in entry.observation.replicas
            if replica.lifecycle is Lifecycle.READY
        }


def read_demo(folder: Path) -> Demo:
    """The run in `folder`. Raises `SpecError` where it is not complete, or nothing that can be compared."""
    try:
        facts = evidence.read_run(folder)
        samples = evidence.read_samples(folder)
        looks = evidence.read_looks(folder)
        answers = sorted(read_answers(folder / evidence.REQUESTS_FILE), key=lambda answer: answer.sent_at)
        document = yaml.safe_load((folder / evidence.CLUSTER_FILE).read_text())
        engines = json.loads((folder / evidence.ENGINES_FILE).read_text())
    except (OSError, TypeError, ValueError) as error:
        raise _unusable(folder, f"it cannot be read ({error})") from error
    if facts.halved_budget:
        raise _unusable(folder, "the budget was halved half-way, which the simulator does not do")
    if not answers or not samples or not looks:
        raise _unusable(folder, "requests, samples or looks are empty")
    began_at = median(answer.sent_at - answer.late - answer.at for answer in answers)
    shift = facts.sampling_began_at - began_at
    return Demo(
        facts=facts,
        cluster=parse_cluster(document),
        engines={PoolName(name): settings for name, settings in engines.items()},
        answers=answers,
        samples=[evidence.moved(sample, shift) for sample in samples],
        looks=looks,
        began_at=began_at,
    )


def _unusable(folder: Path, rule: str) -> SpecError:
    return SpecError(
        field="DEMO", value=folder, rule=rule, advice="run `make demo` to its end, and give its folder"
    )
