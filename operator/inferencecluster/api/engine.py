"""`spec.model` and `spec.engine`: what every replica serves and with which software."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Final

from pydantic import ConfigDict, Field

from inferencecluster.api.scalars import Image, ObjectName, Quantity, SecretKey
from inferencecluster.api.schema import (
    DEFAULTED,
    PRESERVE_UNKNOWN,
    ApiModel,
    Rule,
    list_map,
    rules,
)

IMAGE_TAG_WITH_VERSION: Final = (
    r":v?(?P<version>[0-9]+\.[0-9]+\.[0-9]+[a-z0-9.]*)(-[a-zA-Z0-9._-]*)?(@sha256:[0-9a-f]{64})?$"
)
"""RE2 and Python alike: the image's tag starts with a release number, such as `release:1.3.0rc29-arm64`."""


class Backend(StrEnum):
    """Software of the replicas."""

    TENSORRT_LLM = "TensorRTLLM"
    EMULATED = "Emulated"


class KvTransferBackend(StrEnum):
    """Transports that let replicas join and leave while others serve (MPI needs a fixed world)."""

    NIXL = "NIXL"
    UCX = "UCX"


class SecretKeyRef(ApiModel):
    """One key of a Secret in the object's namespace. The operator never reads it; the kubelet does."""

    name: ObjectName
    """Name of the Secret."""
    key: Annotated[SecretKey, DEFAULTED] = "token"
    """Key inside the Secret."""


class LocalObjectReference(ApiModel):
    """core/v1 `LocalObjectReference`."""

    name: ObjectName
    """Name of the object, in the namespace of the InferenceCluster."""


class Model(ApiModel):
    """The weights."""

    source: Annotated[str, Field(min_length=1, max_length=512, pattern=r"^[A-Za-z0-9/][A-Za-z0-9._/-]*$")]
    """Hugging Face repository (organisation/name), or absolute path inside the engine's container."""
    served_name: (
        Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]*$")] | None
    ) = None
    """Name that clients put into `model`; absent means the source."""
    token_secret_ref: SecretKeyRef | None = None
    """Access token for a gated repository, given to the engines as HF_TOKEN."""


class KvTransfer(ApiModel):
    """How the KV cache travels from a prefill to a decode replica."""

    backend: Annotated[KvTransferBackend, DEFAULTED] = KvTransferBackend.NIXL
    """Transport of the engine's cache transceiver; the same on both sides."""
    timeout_seconds: Annotated[int, Field(ge=1, le=3600), DEFAULTED] = 60
    """A transfer that takes longer is given up. Networks without RDMA may need 600."""


class EnvVar(ApiModel):
    """A literal environment variable of the engine container."""

    name: Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
    """Name of the variable."""
    value: Annotated[str, Field(max_length=4096)] = ""
    """Its value. Not for secrets: everybody who can read the object can read it."""


class ModelCache(ApiModel):
    """Where replicas keep downloaded weights and compiled kernels."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            Rule(
                rule="!(has(self.persistentVolumeClaim) && has(self.sizeLimit))",
                message="sizeLimit bounds the node-local cache, which persistentVolumeClaim replaces: remove one of the two",
                path=".sizeLimit",
            )
        )
    )

    persistent_volume_claim: ObjectName | None = None
    """Existing claim, shared by all replicas (ReadWriteMany when they run on several nodes); absent means a node-local cache per replica."""
    size_limit: Quantity | None = None
    """Largest size of the node-local cache, such as 200Gi."""


class Emulation(ApiModel):
    """How an emulated engine behaves. Its speed comes from the pool's performance."""

    boot_seconds: Annotated[int, Field(ge=0, le=3600), DEFAULTED] = 0
    """Time from the start of the container to readiness."""
    jitter_percent: Annotated[int, Field(ge=0, le=100), DEFAULTED] = 0
    """Random spread of each step's duration and of the boot, in per cent of it."""
    stream_interval: Annotated[int, Field(ge=1, le=1000), DEFAULTED] = 1
    """Output tokens per streamed chunk, as TensorRT-LLM's own stream_interval."""
    prefix_hit_percent: Annotated[int, Field(ge=0, le=100)] = 0
    """Part of each prompt that is found in the prefix cache: not computed, and reported in usage. Absent means 0."""


class Engine(ApiModel):
    """The engine software, equal in all pools: prefill and decode replicas of one revision understand each other."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            Rule(
                rule=(
                    "self.backend != 'TensorRTLLM' || has(self.version) || "
                    rf"self.image.matches(r'{IMAGE_TAG_WITH_VERSION}')"
                ),
                message="version cannot be read from the tag of image: "
                "set version to the TensorRT-LLM release inside the image, such as 1.2.1",
                path=".version",
            ),
            Rule(
                rule="self.backend == 'Emulated' || !has(self.emulated)",
                message="emulated applies to backend Emulated only: remove emulated, or change backend",
                path=".emulated",
            ),
        )
    )

    backend: Annotated[Backend, DEFAULTED] = Backend.TENSORRT_LLM
    """TensorRTLLM, or Emulated: engines that hold their GPUs but answer with the timing of a performance model."""
    image: Image
    """Container image of the engine."""
    version: Annotated[str, Field(max_length=64, pattern=r"^[0-9]+\.[0-9]+\.[0-9]+[a-z0-9.]*$")] | None = None
    """TensorRT-LLM release inside the image, which decides the legal configuration keys; absent means read from the image's tag."""
    config: Annotated[dict[str, Any], Field(max_length=256), PRESERVE_UNKNOWN] = Field(default_factory=dict)
    """Extra keys of the TensorRT-LLM LLM API, merged last into every replica's configuration and checked against the version."""
    kv_transfer: Annotated[KvTransfer, DEFAULTED] = KvTransfer()
    """KV-cache transfer between replicas."""
    env: Annotated[tuple[EnvVar, ...], Field(max_length=64), list_map("name")] = ()
    """Literal environment variables of the engine container, such as UCX_NET_DEVICES."""
    model_cache: ModelCache | None = None
    """Cache of weights and kernels; absent means a node-local cache without a limit."""
    emulated: Emulation | None = None
    """Behaviour of emulated engines; only with backend Emulated."""
    priority_class_name: ObjectName | None = None
    """PriorityClass of the replicas."""
    service_account_name: ObjectName | None = None
    """Existing ServiceAccount of the replicas, in this namespace; absent means the namespace's default. Its token is never mounted."""
    image_pull_secrets: Annotated[
        tuple[LocalObjectReference, ...], Field(max_length=8), list_map("name")
    ] = ()
    """Secrets with registry credentials for the engine image."""
