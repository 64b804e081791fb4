"""What each pool's engines are tuned for before the user's own keys apply.

Starting points are NVIDIA's published sizing rules for disaggregated serving (aiconfigurator 0.12.0,
`generator/rule_plugin/trtllm.rule`); where a value differs, the reason stands beside it. Which phases a replica
serves is the router's decision of each moment, so every engine has a cache transceiver and takes whole requests.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from inferencecluster.core.fleet import PoolName
from inferencecluster.core.profiles import KV_MEMORY_FRACTION
from inferencecluster.render.trtllm.versions import EngineVersion, Span

TRANSFER_BUFFER_TOKENS: Final = 8192
"""Tokens of the preallocated transfer buffer, as in NVIDIA's recipes; longer prompts are transferred in pieces."""
POSTPROCESS_WORKERS: Final = 4
"""Processes that turn tokens into text; at some hundred streams one Python process no longer keeps up (NVIDIA's recipes)."""

_BLOCK_REUSE_SAFE: Final = Span(since=EngineVersion(1, 3, 0, candidate=0))
"""Up to 1.2 a block may be evicted before it was sent, and the decode side waits for ever (issues 12540, 12542)."""

CONTEXT_ONLY_POOLS: Final = frozenset({PoolName.PREFILL, PoolName.MIXED})
"""Pools whose engines accept `context_only` requests. With the overlap scheduler on, an engine refuses them
("Context only requests are not supported in pytorch backend when overlap is enabled", `executor/base_worker.py`),
and decode engines keep it on, because it hides the host's share of every step."""


@dataclass(frozen=True, slots=True)
class EngineShape:
    """What one pool's engines have in common and the user does not write as LLM-API keys."""

    version: EngineVersion
    pool: PoolName
    tensor: int
    pipeline: int
    max_batch_size: int
    """Of the pool's performance model; the router admits as many sequences."""
    max_num_tokens: int
    """Tokens of one iteration (`core.token_budget`)."""
    transfer_backend: str
    transfer_timeout_seconds: int


def profile(shape: EngineShape) -> MappingProxyType[str, Any]:
    """Keys and values of the LLM-API file before the user's own keys."""
    sends_cache = shape.pool in CONTEXT_ONLY_POOLS
    graphs = None
    if shape.pool is not PoolName.PREFILL:
        graphs = {"enable_padding": True, "max_batch_size": shape.max_batch_size}
    settings: dict[str, Any] = {
        "backend": "pytorch",
        "tensor_parallel_size": shape.tensor,
        "pipeline_parallel_size": shape.pipeline,
        "max_batch_size": shape.max_batch_size,
        "max_num_tokens": shape.max_num_tokens,
        "disable_overlap_scheduler": sends_cache,
        # Prefill steps have varying shapes, which graphs do not fit; capturing them would only delay the boot.
        "cuda_graph_config": graphs,
        # Prompts above max_num_tokens would be refused without it.
        "enable_chunked_prefill": True,
        "kv_cache_config": {
            # The KV capacity that routers are told rests on this share; NVIDIA gives prefill engines less.
            "free_gpu_memory_fraction": KV_MEMORY_FRACTION,
            "enable_block_reuse": not sends_cache or shape.version in _BLOCK_REUSE_SAFE,
            "dtype": "auto",
        },
        "cache_transceiver_config": {
            "backend": shape.transfer_backend,
            "max_tokens_in_buffer": TRANSFER_BUFFER_TOKENS,
            "kv_transfer_timeout_ms": shape.transfer_timeout_seconds * 1000,
        },
        "enable_iter_perf_stats": True,
        "return_perf_metrics": True,
        "print_iter_log": False,
    }
    if shape.pool is not PoolName.PREFILL:
        settings["num_postprocess_workers"] = POSTPROCESS_WORKERS
    return MappingProxyType(settings)
