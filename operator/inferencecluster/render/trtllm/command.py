"""How `trtllm-serve` is started."""

from __future__ import annotations

from typing import Final

from inferencecluster.api.names import ENGINE_PORT
from inferencecluster.render.trtllm.keys import SERVE_OPTIONS
from inferencecluster.render.trtllm.versions import EngineVersion

TELEMETRY_OFF: Final = ("TRTLLM_NO_USAGE_STATS", "1")
"""Says what `--no-telemetry` says, and unlike the option is harmless on releases that do not know it (PR 12384)."""


def serve_arguments(version: EngineVersion, *, model: str, served_name: str, config_path: str) -> list[str]:
    """Words of the command line, without options that `version` does not know.

    The model is positional. Where `--served_model_name` does not exist, answers carry the model's own name. Sizes and
    parallelism stand in the file at `config_path`, which wins over options.
    """
    options = {
        "--backend": "pytorch",
        # The default is localhost, which neither kubelet nor router reaches.
        "--host": "0.0.0.0",  # noqa: S104 - a Pod's only address; docs/security.md says how to close it
        "--port": str(ENGINE_PORT),
        "--extra_llm_api_options": config_path,
        "--served_model_name": served_name,
    }
    legal = [(name, value) for name, value in options.items() if version in SERVE_OPTIONS[name]]
    return ["trtllm-serve", model, *(word for option in legal for word in option)]
