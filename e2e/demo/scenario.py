"""What the demo plays: a trace compressed into minutes, and the InferenceCluster that serves it.

Compressed by a factor, an hour of arrivals comes `factor` times faster than recorded, so the replica's boot and
the stabilisation windows shrink by the same factor; the engines themselves run at their real speed. Only a share
of the requests is played: as many as two cores can carry as real HTTP beside a whole Kubernetes.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from e2e.demo.trace import Request, Trace

REQUESTS_PER_SECOND = 14.0
"""Mean rate of the played requests. Measured on two cores: each costs about 8 ms of Python over its five HTTP hops
(client, router twice, two engines), so this leaves most of a core to Kubernetes and to replicas that boot."""
STREAM_INTERVAL = 20
"""Tokens per streamed chunk (TensorRT-LLM's `stream_interval`): 200 output tokens are 10 chunks, not 200."""
REAL_BOOT_SECONDS = 120.0
"""A warm node's boot of a 70B engine: image present, weights from a volume, CUDA graphs (60-180 s reported)."""
REAL_DOWN_WINDOW_SECONDS = 300.0
"""The HPA's own default."""
REAL_INTERVAL_SECONDS = 15.0
PROFILE = "llama-3.1-70b-bf16/a100-tp4"
GPUS_PER_REPLICA = 4
BUDGET_GPUS = 64
TTFT_MILLISECONDS = 1000
ITL_MILLISECONDS = 35


@dataclass(frozen=True, slots=True)
class Scenario:
    """One run: what is played, how fast, and by which factor time was compressed."""

    name: str
    requests: tuple[Request, ...]
    seconds: float
    """Wall-clock length of the replay."""
    compression: float
    """Recorded seconds per replayed second."""
    share: float
    """Share of the trace's requests that is played."""

    @property
    def boot_seconds(self) -> int:
        """Boot delay of an engine after compression, whole seconds, at least 2."""
        return max(2, round(REAL_BOOT_SECONDS / self.compression))

    @property
    def down_window_seconds(self) -> int:
        """Stabilisation window for shrinking after compression."""
        return max(5, round(REAL_DOWN_WINDOW_SECONDS / self.compression))

    @property
    def interval_seconds(self) -> int:
        """Time between sizing decisions after compression."""
        return max(2, round(REAL_INTERVAL_SECONDS / self.compression))

    def describe(self) -> str:
        """What a person must know to read the numbers."""
        return (
            f"{self.name}: {len(self.requests):,} requests in {self.seconds / 60:.1f} min "
            f"(trace compressed {self.compression:.1f}x, {self.share:.0%} of its requests played, seeded sample; "
            f"boot {self.boot_seconds} s and shrink window {self.down_window_seconds} s stand for "
            f"{REAL_BOOT_SECONDS:.0f} s and {REAL_DOWN_WINDOW_SECONDS:.0f} s; engines run in real time, "
            f"{STREAM_INTERVAL} tokens a chunk)"
        )


def compress(trace: Trace, minutes: float, *, seed: int = 0) -> Scenario:
    """The whole trace in `minutes`, thinned to what this machine carries (`REQUESTS_PER_SECOND` on average)."""
    seconds = minutes * 60
    compression = trace.seconds / seconds
    share = min(1.0, REQUESTS_PER_SECOND * seconds / len(trace.requests))
    generator = random.Random(seed)
    played = tuple(
        Request(request.at / compression, request.prompt_tokens, request.output_tokens)
        for request in trace.requests
        if generator.random() < share
    )
    return Scenario(trace.name, played, seconds, compression, share)


def cluster_manifest(
    scenario: Scenario, *, name: str, namespace: str, engine_image: str
) -> dict[str, object]:
    """The InferenceCluster of the demo: Llama-3.1-70B on emulated A100s, four GPUs a replica."""

    def pool(minimum: int, maximum: int) -> dict[str, object]:
        return {
            "minReplicas": minimum,
            "maxReplicas": maximum,
            "gpusPerReplica": GPUS_PER_REPLICA,
            "parallelism": {"tensor": GPUS_PER_REPLICA},
            "performance": {"profile": PROFILE},
        }

    return {
        "apiVersion": "gpupools.dev/v1alpha1",
        "kind": "InferenceCluster",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "model": {"source": "meta-llama/Llama-3.1-70B-Instruct", "servedName": "llama-70b"},
            "engine": {
                "backend": "Emulated",
                "image": engine_image,
                "version": "1.3.0rc29",
                "emulated": {"bootSeconds": scenario.boot_seconds, "streamInterval": STREAM_INTERVAL},
            },
            "slo": {
                "percentile": 90,
                "ttftMilliseconds": TTFT_MILLISECONDS,
                "itlMilliseconds": ITL_MILLISECONDS,
            },
            "budget": {"gpus": BUDGET_GPUS},
            "pools": {"prefill": pool(1, 12), "decode": pool(1, 10), "mixed": pool(0, 4)},
            "scaling": {
                "mode": "Automatic",
                "intervalSeconds": scenario.interval_seconds,
                "expectedBootSeconds": scenario.boot_seconds,
                "behavior": {"scaleDown": {"stabilizationWindowSeconds": scenario.down_window_seconds}},
            },
        },
    }
