"""Camera frames as PNG inside a page."""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np
import numpy.typing as npt

from adaloc.emitters import FloatArray


def gray_png(image_HW: npt.NDArray[np.uint8]) -> bytes:
    """An 8-bit gray PNG (ISO/IEC 15948) of (H, W) values.

    >>> gray_png(np.zeros((2, 3), np.uint8))[:4]
    b'\\x89PNG'
    """
    height, width = image_HW.shape
    rows = np.zeros((height, width + 1), np.uint8)  # each row begins with its filter: 0, none
    rows[:, 1:] = image_HW
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def gray_uri(image_HW: FloatArray, low: float, high: float) -> str:
    """A frame as a data address, `low` black and `high` white."""
    scaled = np.clip((image_HW - low) / max(high - low, 1e-12), 0, 1) * 255
    return "data:image/png;base64," + base64.b64encode(gray_png(np.rint(scaled).astype(np.uint8))).decode("ascii")
