"""What each TensorRT-LLM release understands: keys of its LLM-API file, nested keys, options of `trtllm-serve`.

The engines refuse unknown keys at start (pydantic, `extra="forbid"`), minutes after the Pod was created; this table
refuses them before anything is created. It knows names and releases, not types and defaults.

Facts read in github.com/NVIDIA/TensorRT-LLM: `tensorrt_llm/schemas/trtllm-serve-config.schema.json` of 1.4.0rc0,
`tests/unittest/api_stability/references/{llm,trtllm_serve_cli}.yaml` and `tensorrt_llm/llmapi/llm_args.py` of the
1.2 line. The release of a key is known to the line (1.2, 1.3), to the candidate only where one is named below.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from inferencecluster.render.trtllm.versions import EngineVersion, Span

_V1_3: Final = EngineVersion(1, 3, 0, candidate=0)
_V1_4: Final = EngineVersion(1, 4, 0, candidate=0)

ALWAYS: Final = Span()
_SINCE_1_3: Final = Span(since=_V1_3)
_UNTIL_1_2: Final = Span(before=_V1_3)
_SINCE_1_4: Final = Span(since=_V1_4)


def _since_1_3_candidate(candidate: int) -> Span:
    return Span(since=EngineVersion(1, 3, 0, candidate=candidate))


def _names(*groups: tuple[Span, str]) -> Mapping[str, Span]:
    """Name to releases, out of groups of names that share their releases."""
    return MappingProxyType({name: span for span, names in groups for name in names.split()})


TOP_LEVEL: Final = _names(
    (
        ALWAYS,
        """
        allreduce_strategy attention_dp_config attn_backend backend batch_wait_max_tokens_ratio
        batch_wait_timeout_iters batch_wait_timeout_ms cache_transceiver_config checkpoint_format
        context_parallel_size cp_config cuda_graph_config decoding_config disable_overlap_scheduler
        disagg_cluster dtype enable_attention_dp enable_autotuner enable_chunked_prefill
        enable_iter_perf_stats enable_iter_req_stats enable_layerwise_nvtx_marker enable_lm_head_tp_in_adp
        enable_lora enable_min_latency force_dynamic_quantization garbage_collection_gen0_threshold
        gather_generation_logits gpus_per_node guided_decoding_backend iter_stats_max_iterations
        kv_cache_config kv_connector_config load_format lora_config max_batch_size max_beam_width
        max_input_len max_num_tokens max_seq_len mm_encoder_only model moe_cluster_parallel_size
        moe_config moe_expert_parallel_size moe_tensor_parallel_size num_postprocess_workers
        orchestrator_type peft_cache_config perf_metrics_max_requests pipeline_parallel_size
        postprocess_tokenizer_dir print_iter_log ray_worker_extension_cls reasoning_parser
        request_stats_max_iterations return_perf_metrics revision scheduler_config skip_tokenizer_init
        sparse_attention_config speculative_config stream_interval tensor_parallel_size tokenizer
        tokenizer_mode tokenizer_revision torch_compile_config trust_remote_code
        """,
    ),
    (
        _SINCE_1_3,
        """
        checkpoint_io_policy custom_tokenizer disable_mm_encoder dwdp_config
        enable_early_first_token_response enable_encoder_decoder_mixed_cuda_graph enable_energy_metrics
        enable_in_graph_sampling enable_low_latency_host_dispatch enable_mla_skip_correction
        enable_resource_governor enable_return_routed_experts enable_speculative_beam_history_d2h
        enable_tokenization_cache encode_only encoder_cuda_graph_config encoder_max_batch_size
        encoder_max_num_tokens env_overrides generation_config gms_config hf_revision
        kv_cache_compression_config layer_wise_benchmarks_config max_stats_len
        mla_skip_correction_threshold model_kwargs multimodal_config mx_config num_serve_frontends
        nvfp4_gemm_config otlp_traces_endpoint per_request_spec_decode_stats post_processor_hook
        pp_partition prefill_capture_num_tokens prefill_cuda_graph_backend prometheus_metrics_config
        ray_placement_config ray_worker_nsight_options reorder_policy_config sampler_force_async_worker
        sleep_config telemetry_config use_cute_dsl_bf16_bmm use_cute_dsl_bf16_gemm
        use_cute_dsl_blockscaling_bmm use_cute_dsl_blockscaling_mm use_fine_grained_sync
        """,
    ),
    (_since_1_3_candidate(20), "allow_request_chat_template"),
    (_since_1_3_candidate(24), "internal_request_auth_key"),
    (_SINCE_1_4, "iter_perf_stats_interval perf_metrics_output_dir"),
    (_UNTIL_1_2, "build_config checkpoint_loader fail_fast_on_attention_window_too_large sampler_type"),
)
"""Keys of the file that `trtllm-serve --extra_llm_api_options` reads."""

SECTIONS: Final[Mapping[str, Mapping[str, Span]]] = MappingProxyType(
    {
        "attention_dp_config": _names(
            (ALWAYS, "batching_wait_iters enable_balance timeout_iters"),
            (
                _SINCE_1_3,
                """
                enable_kv_cache_aware_routing kv_cache_routing_account_for_in_transfer
                kv_cache_routing_cold_start_warmup kv_cache_routing_conversation_affinity
                kv_cache_routing_fair_share_multiplier kv_cache_routing_load_balance_weight
                kv_cache_routing_match_rate_threshold kv_cache_routing_max_sessions
                kv_cache_routing_new_conv_placement
                """,
            ),
        ),
        "cache_transceiver_config": _names(
            (
                ALWAYS,
                "backend kv_transfer_sender_future_timeout_ms kv_transfer_timeout_ms max_tokens_in_buffer",
            ),
            (_SINCE_1_3, "transceiver_runtime"),
            (
                _since_1_3_candidate(20),
                "enable_pipelined_transfer kv_cache_bounce_size_mb kv_transfer_poll_interval_ms",
            ),
            (_SINCE_1_4, "agent_bounce_buffer_enable agent_bounce_params"),
        ),
        "cp_config": _names(
            (ALWAYS, "cp_type fifo_version tokens_per_block use_nccl_for_alltoall"),
            (_UNTIL_1_2, "block_size cp_anchor_size"),
        ),
        "cuda_graph_config": _names(
            (ALWAYS, "batch_sizes enable_padding max_batch_size"),
            (_since_1_3_candidate(20), "max_num_token max_seq_len mode num_tokens seq_lens"),
        ),
        "kv_cache_config": _names(
            (
                ALWAYS,
                """
                attention_dp_events_gather_period_ms copy_on_partial_reuse cross_kv_cache_fraction dtype
                enable_block_reuse enable_partial_reuse event_buffer_max_size free_gpu_memory_fraction
                host_cache_size mamba_ssm_cache_dtype max_attention_window max_gpu_total_bytes max_tokens
                secondary_offload_min_priority sink_token_length tokens_per_block use_kv_cache_manager_v2
                use_uvm
                """,
            ),
            (
                _SINCE_1_3,
                """
                avg_seq_len block_reuse_config disk_cache_path disk_cache_size disk_prefetch_num_reqs
                enable_kv_pool_rebalance enable_swa_scratch_reuse fp8_context_mla_kv_len_cap
                iteration_stats_interval kv_cache_event_hash_algo kv_events_config mamba_ssm_philox_rounds
                mamba_ssm_stochastic_rounding mamba_state_config max_util_for_resume pool_ratio
                """,
            ),
            (_UNTIL_1_2, "onboard_blocks"),
        ),
        "kv_connector_config": _names(
            (ALWAYS, "connector_module connector_scheduler_class connector_worker_class"),
            (_SINCE_1_3, "connector server_url"),
        ),
        "lora_config": _names(
            (
                ALWAYS,
                """
                lora_ckpt_source lora_dir lora_target_modules max_cpu_loras max_lora_rank max_loras
                swap_gate_up_proj_lora_b_weight trtllm_modules_to_hf_modules
                """,
            ),
            (_SINCE_1_3, "cuda_graph_specialize_lora overlap_lora_and_base"),
        ),
        "moe_config": _names(
            (
                ALWAYS,
                "backend disable_finalize_fusion load_balancer max_num_tokens use_low_precision_moe_combine",
            )
        ),
        "nvfp4_gemm_config": _names((ALWAYS, "allowed_backends")),
        "prometheus_metrics_config": _names(
            (
                ALWAYS,
                """
                e2e_request_latency_buckets request_decode_time_buckets request_inference_time_buckets
                request_prefill_time_buckets request_queue_time_buckets time_per_output_token_buckets
                time_to_first_token_buckets
                """,
            )
        ),
        "scheduler_config": _names(
            (ALWAYS, "capacity_scheduler_policy context_chunking_policy dynamic_batch_config"),
            (_since_1_3_candidate(7), "use_python_scheduler"),
            (_since_1_3_candidate(20), "enable_prefix_aware_scheduling waiting_queue_policy"),
        ),
        "torch_compile_config": _names(
            (
                ALWAYS,
                """
                capture_num_tokens enable_fullgraph enable_inductor enable_piecewise_cuda_graph
                enable_userbuffers max_num_streams
                """,
            )
        ),
    }
)
"""Nested keys. Sections without an entry (unions such as speculative_config, free maps) are passed on unread."""

_NO_SWITCH: Final = "the engine always has this section"
NEVER_NULL: Final[Mapping[str, str]] = MappingProxyType(
    {
        "cache_transceiver_config": "an engine without it refuses every request that is split into phases",
        "kv_cache_config": _NO_SWITCH,
        "moe_config": _NO_SWITCH,
        "nvfp4_gemm_config": _NO_SWITCH,
        "scheduler_config": _NO_SWITCH,
    }
)
"""Sections that null cannot switch off, and why; null in any other section means "off"."""

SERVE_OPTIONS: Final = _names(
    # `--config` says the same, but came late in 1.2.
    (ALWAYS, "--backend --extra_llm_api_options --host --port"),
    (_since_1_3_candidate(7), "--served_model_name"),
)
"""Options of `trtllm-serve` that the operator passes where they exist."""


@dataclass(frozen=True, slots=True)
class Ownership:
    """A key that users must not set in `spec.engine.config`, and where its value comes from."""

    rule: str
    advice: str


_FIXED: Final = "remove the key"

OWNED: Final[Mapping[str, Ownership]] = MappingProxyType(
    {
        "model": Ownership("the weights are named once for all engines", "set spec.model.source"),
        "backend": Ownership("phases are split on the PyTorch backend only", _FIXED),
        "tensor_parallel_size": Ownership(
            "each pool has its own parallelism", "set spec.pools.<pool>.parallelism.tensor"
        ),
        "pipeline_parallel_size": Ownership(
            "each pool has its own parallelism", "set spec.pools.<pool>.parallelism.pipeline"
        ),
        "context_parallel_size": Ownership(
            "the GPUs of a replica are tensor x pipeline parallelism", "set spec.pools.<pool>.parallelism"
        ),
        "gpus_per_node": Ownership(
            "all GPUs of a replica are on one node", "set spec.pools.<pool>.gpusPerReplica"
        ),
        "max_batch_size": Ownership(
            "sizing and routing count on the batch of the pool's performance model",
            "set spec.pools.<pool>.performance.coefficients.maxBatchSize",
        ),
        "max_beam_width": Ownership("a KV cache can only be handed over with a beam width of 1", _FIXED),
        "disable_overlap_scheduler": Ownership(
            "it decides whether an engine accepts prefill work, and so differs between the pools", _FIXED
        ),
        "cache_transceiver_config.backend": Ownership(
            "both ends of a transfer must use one transport", "set spec.engine.kvTransfer.backend"
        ),
        "cache_transceiver_config.kv_transfer_timeout_ms": Ownership(
            "router, engines and the end of a Pod count on one timeout",
            "set spec.engine.kvTransfer.timeoutSeconds",
        ),
        "disagg_cluster": Ownership("engines are found through the Kubernetes API", _FIXED),
        "internal_request_auth_key": Ownership(
            "everybody who can read the object could read the key, and the router does not sign requests",
            _FIXED,
        ),
        "build_config": Ownership("it belongs to the TensorRT backend and repeats other keys", _FIXED),
    }
)


def known(names: Mapping[str, Span], version: EngineVersion) -> tuple[str, ...]:
    """Names that `version` understands, in alphabetical order."""
    return tuple(sorted(name for name, span in names.items() if version in span))
