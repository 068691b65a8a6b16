"""Folders with image files of every kind among good ones: formats, colour modes, damage, bombs and other files.

Each case says what is right: the grey of an image, or that the file is left out and named.
"""

import io
import os
import pickle
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from made_folders import Made, case

FORMATS = ("png", "jpeg", "webp", "bmp", "gif", "tiff", "ppm")
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


@case
def colour_modes(made: Made) -> None:
    """Grey 60 in every mode that Pillow writes."""
    made.splits()
    kind, mode = made.random.choice(
        (("tiff", "CMYK"), ("jpeg", "CMYK"), ("png", "P"), ("gif", "P"), ("png", "LA"), ("png", "RGBA"), ("tiff", "YCbCr"),
         ("webp", "RGBA"), ("tiff", "LA"), ("tiff", "RGBA"), ("jpeg", "L"), ("tiff", "LAB"), ("bmp", "P"), ("ppm", "RGB"))
    )  # fmt: skip
    image = Image.new("RGB", (9, 9), (60, 60, 60))
    if mode == "LAB":
        content, grey = encoded(Image.new("LAB", (9, 9), (60, 128, 128)), kind), None
        made.says = [LEFT_OUT]
    else:
        content, grey = encoded(image.convert(mode), kind), 60
    made.tolerance = 3
    add(made, content, grey, f"x.{kind}")


@case
def one_bit(made: Made) -> None:
    made.splits()
    kind = made.random.choice(("png", "bmp", "tiff", "ppm"))
    add(made, encoded(Image.new("1", (9, 9), 1), kind), 255, f"x.{kind}")


@case
def transparent(made: Made) -> None:
    """What is wholly transparent is white, whatever its colour."""
    made.splits()
    kind = made.random.choice(("png", "webp", "gif", "tiff"))
    if kind == "gif" or made.random.random() < 0.3:
        content = encoded(Image.new("P", (9, 9), 3), "gif" if kind == "gif" else "png", transparency=3)
    else:
        content = encoded(Image.new("RGBA", (9, 9), (10, 20, 30, 0)), kind)
    add(made, content, 255)


@case
def sixteen_bits(made: Made) -> None:
    made.splits()
    grey = made.grey()
    kind = made.random.choice(("png", "tiff"))
    add(made, encoded(Image.fromarray(np.full((9, 9), 257 * grey, np.uint16)), kind), grey, f"x.{kind}")
    if grey * 257 <= 4095:
        made.says = ["no 16-bit image passes"]


@case
def narrow_sixteen_bits(made: Made) -> None:
    made.splits()
    bits = made.random.choice((10, 12))
    value = made.random.randint(600, 1023) if bits == 10 else made.random.randint(1024, 4095)
    add(made, encoded(Image.fromarray(np.full((9, 9), value, np.uint16)), "png"), round(value / 257))
    made.says = [f"no 16-bit image passes {value} of 65535, .* camera of {bits} bits set data.full_scale={2**bits - 1}"]


@case
def sixteen_bits_of_colour(made: Made) -> None:
    made.splits()
    colours, channels = made.random.choice(((2, 3), (4, 2), (6, 4)))
    row = b"\0" + struct.pack(">H", 0x8080) * 9 * (channels - (colours >= 4)) if colours == 2 else b"\0" + (
        struct.pack(">H", 0x8080) * (channels - 1) + b"\xff\xff"
    ) * 9  # fmt: skip
    add(made, png(9, 9, 16, colours, row * 9), 0x80)
    made.tolerance = 1


@case
def pixels_without_a_range(made: Made) -> None:
    values = np.full((9, 9), 70_000)
    kind = made.random.choice((np.float32, np.int32))
    left_out(made, encoded(Image.fromarray(values.astype(kind)), "tiff"), ".*, whose range no file states", "x.tiff")


@case
def animated(made: Made) -> None:
    """The first frame counts."""
    made.splits()
    kind = made.random.choice(("gif", "webp", "png", "tiff"))
    grey = made.grey()
    frames = [Image.new("L", (9, 9), grey), *(Image.new("L", (9, 9), value) for value in range(made.random.randint(1, 50)))]
    options = {"lossless": True} if kind == "webp" else {}
    add(made, encoded(frames[0].convert("RGB"), kind, save_all=True, append_images=frames[1:], **options), grey)


@case
def stereo_pictures_of_a_camera(made: Made) -> None:
    made.splits()
    made.tolerance = 2
    grey = made.grey()
    frames = [Image.new("RGB", (16, 16), (value,) * 3) for value in (grey, 255 - grey)]
    add(made, encoded(frames[0], "MPO", save_all=True, append_images=frames[1:]), grey, "x.jpg")


@case
def tiffs(made: Made) -> None:
    made.splits()
    made.tolerance = 2
    grey = made.grey()
    packing = made.random.choice(("raw", "tiff_lzw", "tiff_deflate", "tiff_adobe_deflate", "packbits", "jpeg", "zstd"))
    add(made, encoded(Image.new("RGB", (40, 40), (grey,) * 3), "tiff", compression=packing), grey, "x.tif")


@case
def text_of_numbers(made: Made) -> None:
    made.splits()
    kind = made.random.choice(("P2", "P3"))
    add(made, f"{kind}\n# x\n2 2\n255\n{'77 ' * (4 if kind == 'P2' else 12)}\n".encode(), 77, "x.pgm")


@case
def extreme_shapes(made: Made) -> None:
    made.splits()
    grey = made.grey()
    size = made.random.choice(((1, 20_000), (20_000, 1), (1, 1), (60_000, 2)))
    made.options = {"fit": made.random.choice(("resize", "crop"))}
    add(made, encoded(Image.new("L", size, grey), "png"), grey)


@case
def wrong_suffixes(made: Made) -> None:
    """The content says what a file is, not its name."""
    made.splits()
    grey = made.grey()
    kind = made.random.choice(("png", "bmp", "tiff"))
    name = made.random.choice(("x.jpg", "x", "x.PNG", "x.jpeg.part", "x.heic", "x.raw"))
    add(made, encoded(Image.new("L", (9, 9), grey), kind), grey, name)


@case
def bytes_behind_the_image(made: Made) -> None:
    made.splits()
    grey = made.grey()
    kind = made.random.choice(("png", "bmp", "ppm"))
    add(made, encoded(Image.new("L", (9, 9), grey), kind) + made.random.randbytes(500), grey)


@case
def truncated(made: Made) -> None:
    kind = made.random.choice(FORMATS)
    content = encoded(noise(made), kind)
    left_out(made, content[: made.random.randint(2, len(content) * 9 // 10)], ".*", f"x.{kind}")


@case
def empty_files(made: Made) -> None:
    left_out(made, b"", "not an image of a known format")


@case
def other_files_in_place_of_images(made: Made) -> None:
    contents = (
        b"text\n", b"<html>", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%PDF-1.7\n", b"PK\3\4" + bytes(100),
        pickle.dumps(print), b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n", b"8BPS\0\1" + bytes(50), b"\x7fELF",
        b"version https://git-lfs.github.com/spec/v1\n", b"\0\0\1\0\1\0" + bytes(40), bytes(5000), b"\xff" * 5000,
    )  # fmt: skip
    left_out(made, made.random.choice(contents), "not an image of a known format|damaged")


@case
def pictures_of_a_telephone(made: Made) -> None:
    brand = made.random.choice((b"heic", b"mif1", b"hevc"))
    left_out(made, b"\0\0\0\x18ftyp" + brand + bytes(100), "HEIC, which is not read: convert to JPEG", "x.heic")


@case
def bits_flipped(made: Made) -> None:
    """A changed file is read or left out; the others are as they were."""
    made.splits()
    kind = made.random.choice(FORMATS)
    content = bytearray(encoded(noise(made, 24), kind))
    for _ in range(made.random.randint(1, 30)):
        content[made.random.randrange(len(content) if made.random.random() < 0.5 else 60)] ^= 1 << made.random.randrange(8)
    made.loose = {"train0"}
    add(made, bytes(content), None, f"x.{kind}")


@case
def damaged_exif(made: Made) -> None:
    made.splits()
    made.loose = {"train0"}
    exif = b"Exif\0\0" + made.random.choice((b"MM\0*\xff\xff\xff\xff", b"II*\0\x08\0\0\0\xff\xff" + bytes(300), bytes(9), b""))
    add(made, encoded(Image.new("RGB", (9, 9)), "jpeg", exif=exif), None)


@case
def promised_pixels(made: Made) -> None:
    """A header of many pixels, and a few bytes."""
    side = made.random.choice((20_000, 100_000, 2**31 - 1))
    short = min(side, 65_535)
    contents: dict[str, Callable[[], bytes]] = {
        "png": lambda: png(side, side, 1, 0, bytes(1000)),
        "bmp": lambda: b"BM" + struct.pack("<IHHIIiiHHIIiiII", 1000, 0, 0, 54, 40, side, side, 1, 24, 0, 0, 0, 0, 0, 0) + bytes(9),
        "ppm": lambda: f"P5 {side} {side} 255\n".encode() + bytes(1000),
        "gif": lambda: b"GIF89a" + struct.pack("<HH", short, short) + b"\0\0\0," + struct.pack("<HHHH", 0, 0, short, short) + b"\0\2",
    }  # fmt: skip
    kind = made.random.choice(sorted(contents))
    left_out(made, contents[kind](), "more than the .* pixels that are read: make it smaller|.*", f"x.{kind}")


@case
def bomb(made: Made) -> None:
    """Kilobytes that unpack to gigabytes."""
    left_out(made, png(40_000, 40_000, 1, 0, bytes(40_000 * 5001)), "more than the 178,956,970 pixels")


@case
def large_images_with_opacity(made: Made) -> None:
    """Four images of just below the limit, 700 MB of pixels each, all at once."""
    made.splits()
    squeezed = zlib.compressobj(1)
    rows = b"".join(squeezed.compress(bytes(1 + 4 * 13_000)) for _ in range(13_000)) + squeezed.flush()
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 13_000, 13_000, 8, 6, 0, 0, 0))
    content = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    for number in range(2):
        (made.root / f"train/train{number}/x.png").write_bytes(content)
        made.wanted["train"][f"train{number}"].append(255)


@case
def text_that_unpacks(made: Made) -> None:
    text = chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(200_000_000), 9))
    left_out(made, png(9, 9, 8, 0, bytes(90), text), ".*")


@case
def long_files(made: Made) -> None:
    """Files with holes: gigabytes that a decoder may read whole."""
    start = made.random.choice((b"\x89PNG\r\n\x1a\n", b"RIFF\xf0\xff\xff\x6fWEBPVP8L", b"\xff\xd8\xff\xe0", b"II*\0\x08\0\0\0", b"GIF89a", b"BM"))
    size = made.random.choice((1_900_000_000, 5 << 30))
    made.splits()
    for number in range(2):
        with (made.root / f"train/train{number}/x.png").open("wb") as file:
            file.write(start)
            os.truncate(file.fileno(), size)
    made.says = ["2 of .* files are unreadable and left out: .*"]


@case
def a_class_without_a_readable_image(made: Made) -> None:
    made.splits()
    made.wanted["train"]["train9"] = []
    (made.root / "train/train9").mkdir()
    (made.root / "train/train9/1.png").write_text("x")
    del made.wanted["train"]["train9"]
    made.says = [LEFT_OUT, "classes with too few images for the task are left out: 1 of .* in train.*: train9 .0."]


@case
def a_split_without_a_readable_image(made: Made) -> None:
    made.splits()
    for file in sorted(Path(made.root / "test").rglob("*.*")):
        file.write_text("x")
    made.refused = "no class of test has the 1 images that a task takes, the largest has 0"


@case
def no_readable_image(made: Made) -> None:
    made.flat(4)
    for file in sorted(made.root.rglob("*.*")):
        file.write_text("x")
    made.refused = r"none of \d+ files is a readable image: "
