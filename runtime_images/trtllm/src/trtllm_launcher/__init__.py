"""Starts trtllm-serve in a container and stops it in the order that loses no request and no KV cache."""

from __future__ import annotations

from typing import Final

__version__: Final = "0.1.0"
