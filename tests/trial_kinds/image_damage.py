"""Folders with damaged files, bombs, and files that are no images.

Each case says what is right: the file is left out and named, or a line refuses the folder.
"""

import os
import pickle
import struct
import zlib
from collections.abc import Callable

from PIL import Image

from made_files import LEFT_OUT, add, chunk, encoded, left_out, noise, png
from made_folders import Made, case

FORMATS = ("png", "jpeg", "webp", "bmp", "gif", "tiff", "ppm")


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
        content[made.random.randrange(len(content) if made.random.random() < 0.5 else 60)] ^= (
            1 << made.random.randrange(8)
        )
    made.loose = {"train0"}
    add(made, bytes(content), None, f"x.{kind}")


@case
def damaged_exif(made: Made) -> None:
    made.splits()
    made.loose = {"train0"}
    exif = b"Exif\0\0" + made.random.choice(
        (b"MM\0*\xff\xff\xff\xff", b"II*\0\x08\0\0\0\xff\xff" + bytes(300), bytes(9), b"")
    )
    add(made, encoded(Image.new("RGB", (9, 9)), "jpeg", exif=exif), None)


@case
def promised_pixels(made: Made) -> None:
    """A header of many pixels, and a few bytes."""
    side = made.random.choice((20_000, 100_000, 2**31 - 1))
    short = struct.pack("<HH", min(side, 65_535), min(side, 65_535))
    contents: dict[str, Callable[[], bytes]] = {
        "png": lambda: png(side, side, 1, 0, bytes(1000)),
        "bmp": lambda: b"BM" + struct.pack("<IIIIiiHHIIiiII", 999, 0, 54, 40, side, side, 1, 24, 0, 0, 0, 0, 0, 0),
        "ppm": lambda: f"P5 {side} {side} 255\n".encode() + bytes(1000),
        "gif": lambda: b"GIF89a" + short + b"\0\0\0," + bytes(4) + short + b"\0\2",
    }
    kind = made.random.choice(sorted(contents))
    left_out(made, contents[kind](), "more than the .* pixels that are read: make it smaller|.*", f"x.{kind}")


@case
def bomb(made: Made) -> None:
    """Kilobytes that unpack to gigabytes."""
    left_out(made, png(40_000, 40_000, 1, 0, bytes(40_000 * 5001)), "more than the 178,956,970 pixels")


@case
def large_images_with_opacity(made: Made) -> None:
    """Images of just below the limit, 700 MB of pixels each, in two threads."""
    made.splits()
    squeezed = zlib.compressobj(1)
    rows = b"".join(squeezed.compress(bytes(1 + 4 * 13_000)) for _ in range(13_000)) + squeezed.flush()
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 13_000, 13_000, 8, 6, 0, 0, 0))
    content = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    for number in range(2):
        (made.root / f"train/train{number}/x.png").write_bytes(content)
        made.wanted["train"][f"train{number}"].append(255)


@case
def large_images_of_sixteen_bits(made: Made) -> None:
    made.splits()
    squeezed = zlib.compressobj(1)
    rows = b"".join(squeezed.compress(b"\0" + b"\x80\x80" * 13_000) for _ in range(13_000)) + squeezed.flush()
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 13_000, 13_000, 16, 0, 0, 0, 0))
    add(made, b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", rows) + chunk(b"IEND", b""), 0x80)


@case
def text_that_unpacks(made: Made) -> None:
    text = chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(200_000_000), 9))
    left_out(made, png(9, 9, 8, 0, bytes(90), text), ".*")


@case
def long_files(made: Made) -> None:
    """Files with holes: gigabytes that a decoder may read whole."""
    starts = (
        b"\x89PNG\r\n\x1a\n",
        b"RIFF\xf0\xff\xff\x6fWEBPVP8L",
        b"\xff\xd8\xff\xe0",
        b"II*\0\x08\0\0\0",
        b"GIF89a",
        b"BM",
    )
    start = made.random.choice(starts)
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
    for file in sorted((made.root / "test").rglob("*.*")):
        file.write_text("x")
    made.says = ["files are unreadable and left out: test/"]
    made.refused = "no class of test has the 1 images that a task takes, the largest has 0"


@case
def no_readable_image(made: Made) -> None:
    made.flat(4)
    for file in sorted(made.root.rglob("*.*")):
        file.write_text("x")
    made.refused = r"none of \d+ files is a readable image: "
