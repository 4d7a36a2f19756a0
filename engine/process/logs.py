"""The engine's one logger, ``asterism``: what runs do, for programs that use the engine as a library.

``logging.basicConfig(level="INFO")`` shows it, and ``logging.getLogger("asterism").setLevel("WARNING")`` asks for less:
DEBUG has where each stage begins, INFO what was finished and what was noted, WARNING what a run waits for. Unless a
program says otherwise Python prints warnings alone; commands show progress by themselves.
"""

from __future__ import annotations

import logging

LOG = logging.getLogger("asterism")
