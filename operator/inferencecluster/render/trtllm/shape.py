"""From the custom resource to the shape of one pool's engines."""

from __future__ import annotations

from typing import Final

from inferencecluster.api.engine import Backend, Engine
from inferencecluster.api.translate import engine_version
from inferencecluster.core.errors import SpecError
from inferencecluster.core.missing import Missing
from inferencecluster.core.token_budget import iteration_tokens
from inferencecluster.render.context import PoolContext
from inferencecluster.render.trtllm.profiles import EngineShape
from inferencecluster.render.trtllm.versions import (
    VERSION_FIELD,
    EngineVersion,
    parse_version,
    require_supported,
)

EMULATED_VERSION: Final = "1.2.1"
"""Release that emulated engines imitate when the user names none: the newest stable one."""


def configured_version(engine: Engine) -> EngineVersion:
    """The release that decides which keys are legal. Raises `SpecError` when it is absent, malformed or unsupported."""
    if engine.backend is Backend.EMULATED:
        # The tag of an emulated engine's image is a release of this operator.
        text: str | Missing = engine.version or EMULATED_VERSION
    else:
        text = engine_version(engine)
    if isinstance(text, Missing):
        raise SpecError(
            field=VERSION_FIELD,
            value="absent",
            rule="the tag of spec.engine.image does not start with a release number either",
            advice="set it to the TensorRT-LLM release inside the image, such as 1.2.1",
        )
    try:
        version = parse_version(text)
        require_supported(version)
    except SpecError as error:
        if engine.version is not None:
            raise
        raise SpecError(
            field="spec.engine.image",
            value=engine.image,
            rule=f"its tag says TensorRT-LLM {text}, and {error.rule}",
            advice=error.advice,
        ) from error
    return version


def engine_shape(context: PoolContext) -> EngineShape:
    """Shape of the pool's engines. Raises `SpecError` for a release that cannot be configured."""
    engine = context.cluster.spec.engine
    pool = context.pool_spec
    return EngineShape(
        version=configured_version(engine),
        pool=context.shape.tuned_for,
        tensor=pool.tensor_parallelism,
        pipeline=pool.pipeline_stages,
        max_batch_size=context.performance.max_batch_size,
        max_num_tokens=iteration_tokens(
            context.shape.iterates_like, context.performance, itl_seconds=context.itl_seconds
        ),
        transfer_backend=engine.kv_transfer.backend.value,
        transfer_timeout_seconds=engine.kv_transfer.timeout_seconds,
    )
