"""What a run leaves in its folder, so that others can look at it again: `benches.agreement` and `kubectl-ic replay`.

cluster.yaml     the InferenceCluster as it was applied
arrivals.csv     the requests as planned, in the form of a trace; TIMESTAMP in seconds of the replay
requests.jsonl   how each request ended (`load.Answer`)
engines.json     what the engines of each pool were told, by pool
samples.jsonl    pools, GPUs and queue once a second (`monitor.Sample`)
looks.jsonl      every look of the operator at the cluster since it was created (`kubectl-ic replay`)
run.json         lengths and factors of the replay, and when it began
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from e2e.demo.monitor import PoolSample, Sample
from e2e.demo.scenario import Scenario
from e2e.demo.trace import COLUMNS
from e2e.stack.target import Target
from inferencecluster.api.names import COMPONENT_ENGINE, LABEL_CLUSTER, LABEL_COMPONENT, LABEL_POOL
from inferencecluster.api.recording import Begin, Entry, from_line
from inferencecluster.core.missing import Missing
from inferencecluster.render.emulated import CONFIG_FILE

CLUSTER_FILE = "cluster.yaml"
ARRIVALS_FILE = "arrivals.csv"
REQUESTS_FILE = "requests.jsonl"
ENGINES_FILE = "engines.json"
SAMPLES_FILE = "samples.jsonl"
LOOKS_FILE = "looks.jsonl"
RUN_FILE = "run.json"


@dataclass(frozen=True, slots=True)
class RunFacts:
    """run.json."""

    name: str
    """Of the trace."""
    seconds: float
    compression: float
    share: float
    sampling_began_at: float
    """Unix time of second 0 of the samples."""
    halved_budget: bool


def write_plan(folder: Path, scenario: Scenario, manifest: Mapping[str, Any]) -> None:
    """What will be played: cluster and arrivals."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CLUSTER_FILE).write_text(yaml.safe_dump(dict(manifest), sort_keys=False))
    with (folder / ARRIVALS_FILE).open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(COLUMNS)
        rows.writerows(
            (f"{request.at:.6f}", request.prompt_tokens, request.output_tokens)
            for request in scenario.requests
        )


def write_engines(folder: Path, target: Target, *, cluster: str, namespace: str) -> None:
    """What the engines were told, from their ConfigMaps. Raises `StackError`."""
    selector = f"{LABEL_CLUSTER}={cluster},{LABEL_COMPONENT}={COMPONENT_ENGINE}"
    found = target.get("configmaps", "--namespace", namespace, "--selector", selector)["items"]
    engines = {
        item["metadata"]["labels"][LABEL_POOL]: json.loads(item["data"][CONFIG_FILE]) for item in found
    }
    (folder / ENGINES_FILE).write_text(json.dumps(engines, indent=2, sort_keys=True) + "\n")


def write_run(folder: Path, facts: RunFacts, samples: Iterable[Sample]) -> None:
    """What was seen of the pools."""
    (folder / RUN_FILE).write_text(json.dumps(asdict(facts), indent=2) + "\n")
    with (folder / SAMPLES_FILE).open("w") as file:
        file.writelines(json.dumps(asdict(sample)) + "\n" for sample in samples)


def read_run(folder: Path) -> RunFacts:
    """The inverse. Raises `OSError`."""
    return RunFacts(**json.loads((folder / RUN_FILE).read_text()))


def read_samples(folder: Path) -> list[Sample]:
    """The inverse. Raises `OSError`."""
    return [_sample(json.loads(line)) for line in (folder / SAMPLES_FILE).read_text().splitlines()]


def _sample(document: dict[str, Any]) -> Sample:
    pools = {name: PoolSample(**pool) for name, pool in document["pools"].items()}
    return Sample(**{**document, "pools": pools, "conditions": tuple(document["conditions"])})


def write_looks(folder: Path, lines: Sequence[str], *, cluster: str) -> None:
    """Of a recording, the lines of one cluster (`namespace/name`) since it was last created. Raises `SpecError`."""
    mine: list[str] = []
    for number, line in enumerate(lines, start=1):
        entry = from_line(line, source=f"recording, line {number}")
        if entry.cluster == cluster:
            if _is_first_of_its_cluster(entry):
                mine.clear()
            mine.append(line + "\n")
    (folder / LOOKS_FILE).write_text("".join(mine))


def _is_first_of_its_cluster(entry: Entry) -> bool:
    """The operator knew nothing, and no status told it anything: an earlier cluster of the name is gone."""
    return (
        entry.begin is Begin.PROCESS and not isinstance(entry.memory, Missing) and not entry.memory.published
    )


def read_looks(folder: Path) -> list[Entry]:
    """The looks of a run. Raises `OSError`, `SpecError`."""
    lines = (folder / LOOKS_FILE).read_text().splitlines()
    return [
        from_line(line, source=f"{LOOKS_FILE}, line {number}") for number, line in enumerate(lines, start=1)
    ]


def moved(sample: Sample, seconds: float) -> Sample:
    """The same sample on a clock that is `seconds` ahead."""
    return replace(sample, at=sample.at + seconds)
