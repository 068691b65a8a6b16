"""Make image files byte by byte, and put them into folders whose splits are known."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

from made_folders import Made

LEFT_OUT = "1 of .* files are unreadable and left out: "


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, bits: int, colours: int, rows: bytes, before: bytes = b"") -> bytes:
    """Return a PNG file of these pixels, whether they fit the header or not."""
    header = struct.pack(">IIBBBBB", width, height, bits, colours, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    return start + before + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def noise(made: Made, size: int = 64) -> Image.Image:
    pixels = np.frombuffer(made.random.randbytes(size * size * 3), dtype=np.uint8)
    return Image.fromarray(pixels.reshape(size, size, 3))


def add(made: Made, content: bytes, grey: int | None, name: str = "x.png") -> None:
    """Put a file into a class; want its grey, or nothing where the file must be left out."""
    (made.root / "train/train0" / name).write_bytes(content)
    if grey is not None:
        made.wanted["train"]["train0"].append(grey)


def left_out(made: Made, content: bytes, why: str, name: str = "x.png") -> None:
    made.splits()
    add(made, content, None, name)
    made.says = [LEFT_OUT + rf"train/train0/{name} \({why}"]
