"""What kind of picture bytes are, by how they begin."""

from __future__ import annotations

_SIGNATURES = {b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff": "jpeg", b"GIF87a": "gif", b"GIF89a": "gif"}


def picture_kind(content: bytes) -> str | None:
    """Return ``png``, ``jpeg``, ``gif`` or ``webp``; ``None`` for anything else."""
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "webp"
    return next((kind for signature, kind in _SIGNATURES.items() if content.startswith(signature)), None)
