"""An engine without a GPU: trtllm-serve's HTTP surface, continuous batching timed by a performance model."""

from __future__ import annotations

from typing import Final

__version__: Final = "0.1.0"
