"""The entry point of ``asterism`` and ``python -m engine``: what ends it is settled before the engine loads."""

from __future__ import annotations

from engine.stopping import stop_cleanly


def main() -> None:
    """Run the command line."""
    stop_cleanly()
    from engine import cli

    cli.main()


if __name__ == "__main__":
    main()
