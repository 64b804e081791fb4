"""`GET /state` of a router: the fresh signals and the fence confirmations the operator reads every few seconds."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field

HOLDING_PARAMETER: Final = "holding"
"""Of the query: answer as soon as a request is held, or after so many seconds."""
MAX_HOLDING_SECONDS: Final = 60
"""Longest such wait; proxies and connection tracking drop what is silent for longer."""

Count = Annotated[int, Field(ge=0, lt=2**128)]
"""Bounded so that sums of counts fit a float; squares of tokens need more than 64 bits."""


class _Wire(BaseModel):
    """Unknown fields are ignored on read, so that operator and router may be of neighbouring versions."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class ReplicaState(_Wire):
    """What this router holds on one replica."""

    name: str
    uid: str
    fenced: bool
    """This router sends nothing new to it (fence annotation or termination seen)."""
    fenced_at: str | None = None
    """Text of the fence annotation that this router acts on, which tells one fence from the next of the same replica;
    empty without one. None from a router that does not tell."""
    ready: bool
    in_flight: Count
    kv_transfers: Count
    pending_prefill_tokens: Count
    decoding_sequences: Count
    resident_kv_tokens: Count
    borrowed: bool
    """Doing mixed work although its home is prefill or decode."""


class Totals(_Wire):
    """Monotonic counters since `started_at`."""

    requests: Count
    prompt_tokens: Count
    prompt_tokens_squared: Count
    completed: Count
    completed_output_tokens: Count
    failed: Count
    refused: Count
    prefilled_prompt_tokens: Count = 0
    """Of prompts whose prefill ended; 0 from a router that does not tell."""
    cached_prompt_tokens: Count = 0
    """Of those, what engines reported as found in their prefix cache."""


class RouterState(_Wire):
    """One router process. `instance` changes with every start, so that a restart never yields a negative rate."""

    instance: str
    started_at: float
    now: float
    held_requests: Count
    held_tokens: Count
    head_age_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    mixed_requests: Count
    synced: bool
    """The Pod watch is up to date; an unsynced router confirms no fence."""
    totals: Totals
    replicas: tuple[ReplicaState, ...]
