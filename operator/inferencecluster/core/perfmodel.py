"""How long an engine takes: prefill and decode step times, KV capacity, and the batch an ITL target allows.

    prefill:  t(L)      = a + b*L + c*L**2            L = uncached prompt tokens of one request
    step:     t(B, S)   = a + b*B + c*S               B = sequences in the batch, S = sum of their context tokens

Both shapes and the fitted coefficients are the TensorRT-LLM fits of aiconfigurator 0.12.0 (mean absolute
percentage error 0.8-5.4 %); unlike splitwise-sim's predictor a decode step depends on batch *and* context.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PrefillModel:
    """Seconds to prefill one prompt alone: `base + per_token*L + per_token_squared*L**2`."""

    base_seconds: float
    per_token_seconds: float
    per_token_squared_seconds: float

    def seconds(self, prompt_tokens: float) -> float:
        """Seconds to prefill `prompt_tokens` uncached tokens of one request (>= 0)."""
        return (
            self.base_seconds
            + self.per_token_seconds * prompt_tokens
            + self.per_token_squared_seconds * prompt_tokens * prompt_tokens
        )

    def work(self, *, requests: float, tokens: float, tokens_squared: float) -> float:
        """Seconds of prefill in a flow of requests from its moments: count, sum of L and sum of L**2.

        Exact for any mix of lengths, because the model is a polynomial of degree two. Per-second rates in,
        busy replicas out.
        """
        return (
            self.base_seconds * requests
            + self.per_token_seconds * tokens
            + self.per_token_squared_seconds * tokens_squared
        )


@dataclass(frozen=True, slots=True)
class DecodeModel:
    """Seconds of one decode iteration: `base + per_sequence*B + per_context_token*S`."""

    base_seconds: float
    per_sequence_seconds: float
    per_context_token_seconds: float

    def step_seconds(self, sequences: float, context_tokens: float) -> float:
        """Seconds of one iteration over `sequences` whose contexts sum to `context_tokens`."""
        return (
            self.base_seconds
            + self.per_sequence_seconds * sequences
            + self.per_context_token_seconds * context_tokens
        )

    def sequence_seconds(self, context_tokens: float) -> float:
        """What one sequence with so much context adds to an iteration."""
        return self.per_sequence_seconds + self.per_context_token_seconds * context_tokens


@dataclass(frozen=True, slots=True)
class PerformanceModel:
    """One replica of one model on one hardware shape."""

    prefill: PrefillModel
    decode: DecodeModel
    kv_capacity_tokens: int
    max_batch_size: int = 256
    """Largest decode batch the engine is configured for (TensorRT-LLM `max_batch_size` of the decode profile)."""

    def max_batch(self, *, itl_seconds: float, mean_context_tokens: float) -> float:
        """Sequences one replica can decode at once inside `itl_seconds` per token, KV memory included.

        min(max_batch_size, KV capacity / context, (ITL - a) / (b + c*context)); 0 when a single step is
        already slower than the target. Not rounded: the caller divides a flow by it.
        """
        context = max(mean_context_tokens, 1.0)
        by_latency = (itl_seconds - self.decode.base_seconds) / self.decode.sequence_seconds(context)
        by_memory = self.kv_capacity_tokens / context
        return max(0.0, min(float(self.max_batch_size), by_memory, by_latency))
