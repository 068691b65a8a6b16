"""Folders with image files of every format and colour mode.

Each case says what is right: the grey of an image, or that the file is left out and named.
"""

import struct

import numpy as np
from PIL import Image

from made_files import LEFT_OUT, add, encoded, left_out, png
from made_folders import Made, case


@case
def colour_modes(made: Made) -> None:
    """Grey 60 in every mode that Pillow writes."""
    made.splits()
    kind, mode = made.random.choice(
        (("tiff", "CMYK"), ("jpeg", "CMYK"), ("png", "P"), ("gif", "P"), ("png", "LA"), ("png", "RGBA"), ("bmp", "P"),
         ("webp", "RGBA"), ("tiff", "LA"), ("tiff", "RGBA"), ("jpeg", "L"), ("tiff", "LAB"), ("ppm", "RGB"),
         ("tiff", "YCbCr"))
    )  # fmt: skip
    image = Image.new("RGB", (9, 9), (60, 60, 60))
    if mode == "LAB":
        content, grey = encoded(Image.new("LAB", (9, 9), (60, 128, 128)), kind), None
        made.says = [LEFT_OUT]
    else:
        content, grey = encoded(image.convert(mode, palette=Image.Palette.ADAPTIVE), kind), 60
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
        image = Image.new("P", (9, 9), 3)
        image.putpalette(bytes(range(256)) * 3)
        content = encoded(image, "gif" if kind == "gif" else "png", transparency=3)
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
    frames = [
        Image.new("L", (9, 9), grey),
        *(Image.new("L", (9, 9), value) for value in range(made.random.randint(1, 50))),
    ]
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
