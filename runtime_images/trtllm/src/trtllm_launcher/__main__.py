"""Command line: `trtllm-launcher [--] trtllm-serve serve MODEL ...`."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence

from trtllm_launcher.settings import SettingsError, read_settings
from trtllm_launcher.supervisor import Supervisor

EXIT_USAGE = 2
EXIT_CANNOT_START = 127
"""As shells say "command not found"."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the engine; returns the exit code."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s launcher %(levelname)s %(message)s", stream=sys.stderr
    )
    try:
        settings = read_settings(list(sys.argv[1:] if arguments is None else arguments), os.environ)
    except SettingsError as error:
        sys.stderr.write(f"trtllm-launcher: {error}\n")
        return EXIT_USAGE
    try:
        return Supervisor(settings).run()
    except OSError as error:
        sys.stderr.write(f"trtllm-launcher: cannot start {settings.command[0]}: {error}\n")
        return EXIT_CANNOT_START


if __name__ == "__main__":
    sys.exit(main())
