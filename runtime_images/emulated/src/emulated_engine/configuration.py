"""The configuration file: JSON (which is YAML too, and needs no parser beyond the standard library)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from types import UnionType
from typing import Any, Final, get_args, get_type_hints

from emulated_engine.errors import ConfigurationError
from emulated_engine.timing import DecodeModel, PrefillModel

ROLES: Final = ("prefill", "decode", "mixed")
POSITIVE_INTEGERS: Final = (
    "kv_capacity_tokens",
    "max_batch_size",
    "max_num_tokens",
    "stream_interval",
    "tokens_per_block",
    "gpus",
)
VERSION_PATTERN: Final = re.compile(r"^(\d+)\.(\d+)\.\d+")


@dataclass(frozen=True, slots=True)
class Configuration:
    """One engine. Keys of the file are the names of the fields; an unknown key is an error, as in TensorRT-LLM."""

    prefill: PrefillModel
    decode: DecodeModel
    kv_capacity_tokens: int
    """Tokens whose KV cache the engine holds."""
    max_batch_size: int = 256
    """Sequences that are prefilled, transferred or decoded at once; never more than `max_num_tokens`."""
    max_num_tokens: int = 8192
    """Tokens of one iteration: one per decoding sequence, the rest for prompts."""
    role: str = "mixed"
    """prefill, decode or mixed: every engine serves every request; the role only sets `enable_chunked_prefill`."""
    enable_chunked_prefill: bool | None = None
    """Split a prompt to fill an iteration; absent: not on prefill engines, whose prompts run whole when they fit."""
    version: str = "1.2.1"
    """The TensorRT-LLM release whose metrics and request fields are emulated."""
    served_model_name: str = ""
    """Name in `/v1/models` and in answers; empty: the one given on the command line."""
    stream_interval: int = 1
    """Output tokens per streamed chunk."""
    return_perf_metrics: bool = True
    """As in TensorRT-LLM: serves /prometheus/metrics, and from 1.3 on makes the statistics of iterations visible
    only when a request completes."""
    tokens_per_block: int = 32
    """Tokens of one KV block (TensorRT-LLM's default); only a unit of the statistics."""
    prefix_hit_share: float = 0.0
    """Share of each prompt that is found in the prefix cache: it is not computed, and `usage` reports it. 0 to 1."""
    kv_bytes_per_token: int = 163_840
    """Default: Llama-3.1-70B with FP8 KV, 2 * 80 layers * 8 heads * 128."""
    kv_bandwidth_bytes_per_second: float = 25e9
    """Default: 200 Gb/s, one InfiniBand HDR link."""
    kv_transfer_timeout_seconds: float = 60.0
    boot_seconds: float = 0.0
    """From the start of the process until the port accepts connections."""
    boot_jitter: float = 0.0
    """Share of `boot_seconds` by which the boot varies in both directions, 0 to 1."""
    step_jitter: float = 0.0
    """Share of an iteration's duration by which it varies in both directions, 0 to 1."""
    seed: int | None = None
    """Of both jitters; absent: taken from the host name, so that replicas differ and restarts repeat."""
    allow_faults: bool = False
    """Serve /faults."""
    gpus: int = 1
    """GPUs that the DCGM metrics show."""
    gpu_model_name: str = "Emulated GPU"

    def __post_init__(self) -> None:
        """Raises `ConfigurationError` for the first rule that does not hold."""
        for name in POSITIVE_INTEGERS:
            _require(name, getattr(self, name), getattr(self, name) >= 1, "must be at least 1")
        for name in ("kv_bytes_per_token", "boot_seconds"):
            _require(name, getattr(self, name), getattr(self, name) >= 0, "must not be negative")
        for name in ("kv_bandwidth_bytes_per_second", "kv_transfer_timeout_seconds"):
            _require(name, getattr(self, name), getattr(self, name) > 0, "must be positive")
        for name in ("boot_jitter", "step_jitter", "prefix_hit_share"):
            _require(name, getattr(self, name), 0 <= getattr(self, name) <= 1, "must be between 0 and 1")
        _require("role", self.role, self.role in ROLES, f"must be one of {', '.join(ROLES)}")
        _require(
            "version", self.version, VERSION_PATTERN.match(self.version) is not None, "must start with X.Y.Z"
        )
        self._check_models()

    def _check_models(self) -> None:
        for part, model in (("prefill", self.prefill), ("decode", self.decode)):
            for field in fields(model):
                value = getattr(model, field.name)
                _require(f"{part}.{field.name}", value, value >= 0, "must not be negative")
        decode_step = self.decode.base_seconds + self.decode.per_sequence_seconds
        _require("decode", self.decode, decode_step > 0, "a step must take time: set base_seconds")

    @property
    def release(self) -> tuple[int, int]:
        """Major and minor version."""
        match = VERSION_PATTERN.match(self.version)
        assert match is not None  # noqa: S101  -- checked in __post_init__
        return int(match[1]), int(match[2])

    @property
    def is_1_3_or_newer(self) -> bool:
        """The release has the `trtllm_*` metrics, the token queues and `disagg_request_id`."""
        return self.release >= (1, 3)

    @property
    def splits_prompts(self) -> bool:
        """`enable_chunked_prefill`, its default resolved."""
        if self.enable_chunked_prefill is None:
            return self.role != "prefill"
        return self.enable_chunked_prefill


def _require(field: str, value: object, holds: bool, rule: str) -> None:
    if not holds:
        raise ConfigurationError(field, value, rule)


def load_configuration(path: Path, **overrides: Any) -> Configuration:
    """Read `path`; `overrides` that are not None win. Raises `ConfigurationError`."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigurationError("--config", str(path), f"must be a readable JSON file ({error})") from error
    configuration = parse_configuration(document)
    given = {name: value for name, value in overrides.items() if value is not None}
    return replace(configuration, **given) if given else configuration


def parse_configuration(document: object) -> Configuration:
    """Check types and names, then build. Raises `ConfigurationError`."""
    if not isinstance(document, Mapping):
        raise ConfigurationError("configuration", document, "must be an object of settings")
    values = dict(document)
    for name, model in (("prefill", PrefillModel), ("decode", DecodeModel)):
        section = values.get(name)
        if not isinstance(section, Mapping):
            raise ConfigurationError(name, section, "must be an object of coefficients in seconds")
        _check_fields(model, section, prefix=f"{name}.")
        values[name] = model(**section)
    _check_fields(Configuration, values, prefix="")
    return Configuration(**values)


def _check_fields(model: type[Any], values: Mapping[str, Any], *, prefix: str) -> None:
    hints = get_type_hints(model)
    for name, value in values.items():
        if name not in hints:
            raise ConfigurationError(prefix + name, value, f"is unknown; known: {', '.join(sorted(hints))}")
        if not _fits(value, hints[name]):
            raise ConfigurationError(prefix + name, value, f"must be of type {_type_name(hints[name])}")
    for field in fields(model):
        if field.default is MISSING and field.name not in values:
            raise ConfigurationError(prefix + field.name, None, "is required")


def _fits(value: object, wanted: Any) -> bool:
    if isinstance(wanted, UnionType):
        return any(_fits(value, option) for option in get_args(wanted))
    if wanted is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if wanted is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, wanted)


def _type_name(wanted: Any) -> str:
    return str(wanted) if isinstance(wanted, UnionType) else str(wanted.__name__)
