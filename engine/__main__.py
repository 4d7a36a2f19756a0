"""The entry point of ``asterism`` and ``python -m engine``. It handles signals before it loads the engine."""

from __future__ import annotations

import os
import sys

from engine.process.stopping import stop_cleanly


def main() -> None:
    """Run the command line."""
    stop_cleanly()
    try:
        os.getcwd()
    except OSError:  # because libraries would end the process without a message
        print("asterism: error: the current folder is gone, or may not be entered; change to another", file=sys.stderr)
        raise SystemExit(2) from None
    from engine.cli import app

    app.main()


if __name__ == "__main__":
    main()
