"""Large pictures made small enough for a page, by Pillow where it is installed."""

from __future__ import annotations

import io
from importlib.util import find_spec

from engine.storage.picture_kinds import picture_kind

SIDE_PIXELS = 240  # of a thumbnail, at most
_MOST_PIXELS = 200_000_000  # of a picture that is opened, because a small file can unpack to any size
_FORMATS = ("PNG", "JPEG", "GIF", "WEBP")  # no other reader of Pillow ever sees the bytes


def can_shrink() -> bool:
    """Tell whether Pillow is installed."""
    return find_spec("PIL") is not None


def shrink(content: bytes) -> bytes | None:
    """Return a picture as a JPEG of at most ``SIDE_PIXELS`` a side; ``None`` for what is no whole picture.

    Turned as its camera says, on white where it is transparent; of a moving picture the first image. Needs Pillow.
    """
    from PIL import Image, ImageOps

    if picture_kind(content) is None:
        return None
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as picture:
            if picture.width * picture.height > _MOST_PIXELS:
                return None
            picture.draft("RGB", (2 * SIDE_PIXELS, 2 * SIDE_PIXELS))
            picture.thumbnail((SIDE_PIXELS, SIDE_PIXELS))
            upright = ImageOps.exif_transpose(picture).convert("RGBA")
            white = Image.new("RGBA", upright.size, "white")
            stream = io.BytesIO()
            Image.alpha_composite(white, upright).convert("RGB").save(stream, "JPEG", quality=80)
    except Exception:  # damaged pictures raise errors of many kinds
        return None
    return stream.getvalue()
