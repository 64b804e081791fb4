"""Log lines for people and machines: time, level, logger, a constant message, then key=value pairs."""

from __future__ import annotations

import json
import logging
import sys
from typing import Final

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class KeyValueFormatter(logging.Formatter):
    """Appends what was passed as `extra`, strings quoted as JSON where they hold spaces."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name of the base class
        """The line, exception traces apart."""
        # kopf's own object references ride on each of its records; they are not for reading.
        extra = {
            key: value
            for key, value in vars(record).items()
            if key not in _STANDARD and not key.startswith("k8s_") and key != "settings"
        }
        pairs = (f"{key}={_value(value)}" for key, value in extra.items())
        return " ".join((super().formatMessage(record), *pairs))


def configure_logging(level: int) -> None:
    """Everything to stderr; libraries only from warnings on, unless we debug."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(KeyValueFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for noisy in ("kopf", "aiohttp", "asyncio", "urllib3", "kubernetes"):
        logging.getLogger(noisy).setLevel(max(level, logging.WARNING) if level > logging.DEBUG else level)


def _value(value: object) -> str:
    text = str(value)
    return json.dumps(text) if not text or any(character in text for character in ' "\n=') else text
