"""Emulated engines: the timing of a performance model behind TensorRT-LLM's protocol, without a GPU."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Final

from inferencecluster.api.engine import Emulation
from inferencecluster.api.hardware import kv_bytes_per_token, link_bytes_per_second
from inferencecluster.api.names import EMULATED_ENGINE, ENGINE_PORT
from inferencecluster.render.context import PoolContext
from inferencecluster.render.engineparts import CONFIG_DIRECTORY, EngineParts, ProbeTiming
from inferencecluster.render.manifest import Manifest
from inferencecluster.render.security import (
    RESTRICTED_CONTAINER,
    RESTRICTED_POD,
    read_only,
)
from inferencecluster.render.trtllm.config import engine_config
from inferencecluster.render.trtllm.shape import engine_shape

CONFIG_FILE: Final = "config.json"

_REQUESTS: Final = {"cpu": "5m", "memory": "48Mi"}
"""A sleeping asyncio process; hundreds must fit on one test node."""
_PROBES: Final = ProbeTiming(
    # Boots may take one second, and tests wait for them.
    startup_period_seconds=1,
    readiness_period_seconds=5,
    liveness_period_seconds=10,
    liveness_timeout_seconds=5,
    liveness_failures=6,
)


def emulated_engine(context: PoolContext) -> EngineParts:
    """The emulated engine of one pool.

    `engine.config` is checked as for the real engine, so that a trial run finds its mistakes. Raises `SpecError`.
    """
    engine = context.cluster.spec.engine
    served_name = context.cluster.spec.model.served_name or context.cluster.spec.model.source
    return EngineParts(
        image=engine.image,
        command=(EMULATED_ENGINE,),
        arguments=(
            *("serve", "--host", "0.0.0.0", "--port", str(ENGINE_PORT)),  # noqa: S104 - a Pod's only address
            *("--model", served_name, "--config", f"{CONFIG_DIRECTORY}/{CONFIG_FILE}"),
        ),
        config_file=CONFIG_FILE,
        config_text=json.dumps(_configuration(context, served_name), indent=2, sort_keys=True) + "\n",
        environment={},
        requests=_REQUESTS,
        probes=_PROBES,
        pod_security=RESTRICTED_POD,
        container_security=read_only(RESTRICTED_CONTAINER),
        volumes=(("tmp", "/tmp", {"emptyDir": {}}),),  # noqa: S108 - where Python's tempfile writes
    )


def _configuration(context: PoolContext, served_name: str) -> Manifest:
    """Keys of the emulated engine's file; absent ones have its own defaults.

    What decides times is what `kubectl-ic simulate` takes (`cli.simulate_inputs`), so that both serve a trace alike.
    """
    engine, pool = context.cluster.spec.engine, context.pool_spec
    emulation = engine.emulated or Emulation()
    performance = context.performance
    shape = engine_shape(context)
    settings = engine_config(shape, engine.config)
    jitter, hits = emulation.jitter_percent / 100, emulation.prefix_hit_percent / 100
    source = context.cluster.spec.model.source
    return {
        "served_model_name": served_name,
        "role": context.shape.tuned_for.value,
        "version": str(shape.version),
        "prefill": asdict(performance.prefill),
        "decode": asdict(performance.decode),
        "kv_capacity_tokens": performance.kv_capacity_tokens,
        "max_batch_size": performance.max_batch_size,
        "max_num_tokens": settings["max_num_tokens"],
        "enable_chunked_prefill": settings["enable_chunked_prefill"],
        "return_perf_metrics": settings["return_perf_metrics"],
        "stream_interval": emulation.stream_interval,
        "boot_seconds": float(emulation.boot_seconds),
        "boot_jitter": jitter,
        "step_jitter": jitter,
        "kv_bytes_per_token": kv_bytes_per_token(source, pool) or 0,
        "kv_bandwidth_bytes_per_second": link_bytes_per_second(source, pool),
        "kv_transfer_timeout_seconds": float(engine.kv_transfer.timeout_seconds),
        "gpus": pool.gpus_per_replica,
        "allow_faults": context.platform.emulated_faults,
        # Not at its default: engines of an older image refuse keys that they do not know.
        **({"prefix_hit_share": hits} if hits else {}),
    }
