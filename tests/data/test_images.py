"""Every common kind of image file becomes the square of 8 bits that a person would see."""

import logging
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, features

from fewshot.data.image_conversion import Decoding, Unreadable
from fewshot.data.images import decode, decode_all, decode_file, decode_image
from fewshot.data.omniglot import Omniglot
from fewshot.errors import UserError

RED, BLUE, WHITE, GREY = (255, 0, 0), (0, 0, 255), (255, 255, 255), (128, 128, 128)


def quarters(mode: str = "RGB", size: tuple[int, int] = (16, 16)) -> Image.Image:
    """Red, blue above white, grey: each quarter of one colour, so that turns and mirrors show."""
    image = Image.new("RGB", size)
    w, h = size[0] // 2, size[1] // 2
    for place, colour in (((0, 0), RED), ((w, 0), BLUE), ((0, h), WHITE), ((w, h), GREY)):
        image.paste(colour, (*place, place[0] + w, place[1] + h))
    return image.convert(mode, palette=Image.Palette.ADAPTIVE)


def corners(pixels: np.ndarray) -> list[tuple[int, ...]]:
    """The colours in the middle of the four quarters, as rows."""
    quarter = pixels.shape[1] // 4
    return [tuple(pixels[:, y, x].tolist()) for y in (quarter, -quarter) for x in (quarter, -quarter)]


def near(seen: list[tuple[int, ...]], wanted: list[tuple[int, ...]], tolerance: int) -> bool:
    return bool((abs(np.subtract(seen, wanted)) <= tolerance).all())


@pytest.mark.parametrize(
    ("file", "mode", "tolerance"),
    [("a.png", "RGB", 0), ("a.bmp", "RGB", 0), ("a.tiff", "RGB", 0), ("a.tiff", "CMYK", 1), ("a.jpg", "RGB", 12),
     ("a.jpg", "CMYK", 12), ("a.webp", "RGB", 12), ("a.gif", "P", 0), ("a.png", "P", 0), ("a.tiff", "YCbCr", 2),
     ("a.png", "RGBA", 0), ("a.ppm", "RGB", 0)],
)  # fmt: skip
def test_formats_and_colour_modes(tmp_path, file, mode, tolerance):
    quarters(mode).save(tmp_path / file)
    pixels = decode(tmp_path / file, 3, 16)
    assert (pixels.shape, pixels.dtype) == ((3, 16, 16), np.uint8)
    assert near(corners(pixels), [RED, BLUE, WHITE, GREY], tolerance)
    grey = decode(tmp_path / file, 1, 16)
    assert grey.shape == (1, 16, 16)
    # ITU-R 601: 0.299 R + 0.587 G + 0.114 B
    assert near(corners(grey), [(76,), (29,), (255,), (128,)], max(1, tolerance))


@pytest.mark.parametrize("mode", ["1", "L"])
def test_grey_files_give_three_equal_channels(tmp_path, mode):
    Image.fromarray(np.array([[0, 255], [255, 0]], dtype=np.uint8)).convert(mode).save(tmp_path / "a.png")
    assert decode(tmp_path / "a.png", 3, 2).tolist() == 3 * [[[0, 255], [255, 0]]]


def test_what_is_transparent_becomes_white(tmp_path):
    half = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    half.paste((0, 0, 0, 255), (0, 0, 2, 4))
    half.putpixel((3, 3), (0, 0, 0, 128))
    half.save(tmp_path / "a.png")
    row = [0, 0, 255, 255]
    assert decode(tmp_path / "a.png", 1, 4)[0].tolist() == [row, row, row, [0, 0, 255, 127]]
    half.convert("LA").save(tmp_path / "b.png")
    assert decode(tmp_path / "b.png", 1, 4)[0].tolist() == [row, row, row, [0, 0, 255, 127]]


@pytest.mark.parametrize("file", ["a.png", "a.gif"])
def test_a_palette_with_a_transparent_colour(tmp_path, file):
    image = Image.new("P", (4, 4), 0)
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.paste(1, (2, 0, 4, 4))
    image.save(tmp_path / file, transparency=0)
    pixels = decode(tmp_path / file, 3, 4)
    assert pixels[:, 0].T.tolist() == [[255, 255, 255], [255, 255, 255], [200, 100, 50], [200, 100, 50]]


def test_a_grey_or_colour_that_stands_for_transparent(tmp_path):
    Image.fromarray(np.array([[7, 9]], dtype=np.uint8)).save(tmp_path / "a.png", transparency=7)
    assert decode(tmp_path / "a.png", 1, 2)[0, 0].tolist() == [255, 9]
    Image.fromarray(np.array([[700, 900]], dtype=np.uint16)).save(tmp_path / "b.png", transparency=700)
    assert decode(tmp_path / "b.png", 1, 2)[0, 0].tolist() == [255, round(900 / 257)]


@pytest.mark.parametrize("file", ["a.png", "a.tiff"])
def test_sixteen_bits_are_scaled(tmp_path, file):
    levels = np.array([[0, 255], [32768, 65535]], dtype=np.uint16)
    Image.fromarray(levels).save(tmp_path / file)
    assert decode(tmp_path / file, 1, 2)[0].tolist() == [[0, 1], [128, 255]]
    assert decode(tmp_path / file, 3, 2, "crop")[1].tolist() == [[0, 1], [128, 255]]


def test_sixteen_bits_of_colour_are_scaled(tmp_path):
    """Written by hand: Pillow writes no such PNG."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    row = b"\0" + struct.pack(">6H", 65535, 0, 32768, 256, 65280, 255)
    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    assert near(decode(tmp_path / "a.png", 3, 2)[:, 0].T.tolist(), [(255, 0, 128), (1, 254, 1)], 1)


TURNS = {1: "0123", 2: "1032", 3: "3210", 4: "2301", 5: "0213", 6: "2031", 7: "3120", 8: "1302"}


@pytest.mark.parametrize("orientation", TURNS)
def test_exif_says_which_side_is_up(tmp_path, orientation):
    """The table of the EXIF standard: where the four quarters of the stored image are seen."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    for name in ("a.jpg", "a.png", "a.webp"):
        quarters(size=(32, 16)).save(tmp_path / name, exif=exif)
        wanted = [(RED, BLUE, WHITE, GREY)[int(place)] for place in TURNS[orientation]]
        assert near(corners(decode(tmp_path / name, 3, 16)), wanted, 20), name


def test_the_first_frame_counts(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, BLUE)]
    for name in ("a.gif", "a.webp", "a.tiff", "a.png"):
        options = {"lossless": True} if name == "a.webp" else {}
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **options)
        assert corners(decode(tmp_path / name, 3, 8)) == 4 * [RED], name


def test_one_pixel_fills_the_square(tmp_path):
    Image.new("RGB", (1, 1), (1, 2, 3)).save(tmp_path / "a.png")
    for fit in ("resize", "crop"):
        assert decode(tmp_path / "a.png", 3, 5, fit).tolist() == [[[v] * 5] * 5 for v in (1, 2, 3)]


def test_a_shrunk_pixel_is_an_average(tmp_path):
    checks = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    Image.fromarray(checks).save(tmp_path / "a.png")
    assert abs(decode(tmp_path / "a.png", 1, 8).astype(int) - 128).max() <= 2


def test_resize_squeezes_and_crop_cuts(tmp_path):
    wide = np.repeat(np.array([[0, 100, 200]], dtype=np.uint8), 10, axis=0).repeat(10, axis=1)  # 10 x 30
    Image.fromarray(wide).save(tmp_path / "a.png")
    assert decode(tmp_path / "a.png", 1, 30)[0, 0, [2, 15, 27]].tolist() == [0, 100, 200]
    assert np.unique(decode(tmp_path / "a.png", 1, 30, "crop")).tolist() == [100]
    Image.fromarray(wide.T.copy()).save(tmp_path / "b.png")
    assert np.unique(decode(tmp_path / "b.png", 1, 10, "crop")).tolist() == [100]


def test_a_large_jpeg_is_decoded_small_and_still_right(tmp_path):
    quarters(size=(1600, 1200)).save(tmp_path / "a.jpg", quality=95)
    assert near(corners(decode(tmp_path / "a.jpg", 3, 20)), [RED, BLUE, WHITE, GREY], 4)


def test_invert_makes_strokes_bright(tmp_path):
    Image.fromarray(np.array([[255, 0], [200, 255]], dtype=np.uint8)).save(tmp_path / "a.png")
    assert decode(tmp_path / "a.png", 1, 2, invert=True)[0].tolist() == [[0, 255], [55, 0]]


def test_a_drawing_of_omniglot_is_what_omniglot_gives(tmp_path):
    """A network trained on ``data=omniglot`` sees a folder of such drawings, with ``invert``, bit for bit as there."""
    from fewshot.data.omniglot import _Folder, _read_drawing

    folder = tmp_path / "images" / "A" / "character01"
    folder.mkdir(parents=True)
    strokes = np.random.default_rng(0).random((105, 105)) < 0.9
    Image.fromarray(strokes).save(folder / "1.png")
    for size in (28, 105):
        seen = _read_drawing(tmp_path, _Folder(tmp_path / "images"), "images/A/character01/1.png", size, "antialiased")
        assert np.array_equal(decode(folder / "1.png", 1, size, invert=True)[0], seen)
    assert Omniglot.__init__.__defaults__[-1] == "antialiased"


def test_what_is_no_whole_image_is_unreadable(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    for name in ("cut.png", "cut.jpg", "cut.gif", "cut.webp", "cut.bmp", "cut.tiff"):
        Image.fromarray(noise).save(tmp_path / name)
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) // 2])
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "empty.png").touch()
    (tmp_path / "folder.png").mkdir()
    Image.fromarray(noise[..., 0].astype(np.float32)).save(tmp_path / "float.tiff")
    Image.fromarray(noise[..., 0].astype(np.int32) * 70000).save(tmp_path / "int.tiff")
    (tmp_path / "drawing.eps").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n")
    for path in [*sorted(tmp_path.iterdir()), tmp_path / "missing.png"]:
        with pytest.raises(Unreadable) as caught:
            decode(path, 3, 8)
        assert 3 < len(str(caught.value)) < 100, path
        assert "\n" not in str(caught.value)


def test_many_files_keep_their_order_and_say_what_is_left_out(tmp_path, capfd):
    paths = []
    for number in range(150):
        paths.append(tmp_path / f"{number}.png")
        if number % 50 == 7:
            paths[-1].write_text("no image")
        else:
            Image.new("L", (2, 2), number).save(paths[-1])
    images, left_out = decode_all(paths, 1, 2)
    assert images.shape == (147, 1, 2, 2)
    assert images[:, 0, 0, 0].tolist() == [n for n in range(150) if n % 50 != 7]
    assert left_out == [(tmp_path / f"{n}.png", "not an image of a known format") for n in (7, 57, 107)]
    assert not capfd.readouterr().err  # a bar belongs to work of seconds, on a terminal
    images, left_out = decode_all([paths[7]], 3, 4)
    assert (images.shape, len(left_out)) == ((0, 3, 4, 4), 1)


@pytest.mark.parametrize("terminal", [True, False])
def test_work_of_seconds_shows_a_bar_on_a_terminal_and_lines_in_a_log(tmp_path, capfd, caplog, monkeypatch, terminal):
    monkeypatch.setattr("fewshot.data.progress.PATIENCE", 0.0)
    monkeypatch.setenv("TTY_COMPATIBLE", "1" if terminal else "0")
    caplog.set_level(logging.INFO)
    Image.new("L", (2, 2)).save(tmp_path / "a.png")
    decode_all([tmp_path / "a.png"], 1, 2)
    assert ("Decoding images" in capfd.readouterr().err) == terminal
    assert ("Decoding images: 0 of 1" in caplog.text) != terminal


def test_special_files_do_not_hang(tmp_path):
    os.mkfifo(tmp_path / "x.png")
    with pytest.raises(Unreadable, match="a named pipe or device, not a file"):
        decode(tmp_path / "x.png", 3, 8)
    with pytest.raises(Unreadable, match="a named pipe or device"):
        decode("/dev/zero", 3, 8)


def test_the_limit_of_pixels_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    Image.new("L", (20, 10)).save(tmp_path / "a.png")
    with pytest.warns(Image.DecompressionBombWarning):
        assert decode(tmp_path / "a.png", 1, 8).shape == (1, 8, 8)
    Image.new("L", (21, 10)).save(tmp_path / "b.png")
    with pytest.raises(Unreadable, match="more than the 200 pixels that are read: make it smaller"):
        decode(tmp_path / "b.png", 1, 8)


def test_a_file_of_gigabytes_is_not_read(tmp_path):
    with (tmp_path / "a.png").open("wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        file.truncate(5 << 30)
    with pytest.raises(Unreadable, match="larger than 2 GB"):
        decode(tmp_path / "a.png", 1, 8)


@pytest.mark.parametrize(
    "start", [b"GIF89a", b"\xff\xd8\xff\xe0", b"RIFF\xf0\xff\xff\x6fWEBPVP8L", b"\0\0\0\x18ftypavif"]
)
def test_a_large_file_of_a_packed_format_is_not_read(tmp_path, start):
    """Pillow looks for the image in such a file byte by byte, or reads the file whole."""
    with (tmp_path / "a.png").open("wb") as file:
        file.write(start)
        file.truncate(300 << 20)
    with pytest.raises(Unreadable, match="larger than 256 MB"):
        decode(tmp_path / "a.png", 1, 8)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "La", "RGBa", "I;16"])
def test_strips_and_the_whole_are_equal(monkeypatch, mode):
    random = np.random.default_rng(0)
    if mode == "I;16":
        image = Image.fromarray(random.integers(0, 65536, (37, 23)).astype(np.uint16))
    else:
        image = Image.fromarray(random.integers(0, 256, (37, 23, 4), dtype=np.uint8)).convert(
            mode[:-1] + mode[-1].upper()
        )
        image = image.convert(mode)
    for channels in (1, 3):
        whole = decode_image(image, Decoding(channels, 20)).pixels
        monkeypatch.setattr("fewshot.data.image_conversion._STRIP", 50)
        assert np.array_equal(decode_image(image, Decoding(channels, 20)).pixels, whole)
        monkeypatch.undo()


@pytest.mark.parametrize("brand", [b"heic", b"mif1"])
def test_heic_is_to_be_converted(tmp_path, brand):
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftyp" + brand + bytes(100))
    with pytest.raises(Unreadable, match="HEIC, which is not read: convert to JPEG"):
        decode(tmp_path / "a.heic", 3, 8)


def test_avif_is_read_or_to_be_converted(tmp_path, monkeypatch):
    if features.check("avif"):
        quarters().save(tmp_path / "a.avif", quality=100)
        assert near(corners(decode(tmp_path / "a.avif", 3, 16)), [RED, BLUE, WHITE, GREY], 12)
        monkeypatch.setattr("fewshot.data.images.FORMATS", ["PNG"])
    else:
        (tmp_path / "a.avif").write_bytes(b"\0\0\0\x18ftypavif" + bytes(100))
    with pytest.raises(Unreadable, match="AVIF, which is not read: convert to JPEG"):
        decode(tmp_path / "a.avif", 3, 8)


def test_a_full_scale_below_sixteen_bits(tmp_path):
    Image.fromarray(np.array([[0, 2048], [4095, 5000]], dtype=np.uint16)).save(tmp_path / "a.png")
    assert decode(tmp_path / "a.png", 1, 2, full_scale=4095)[0].tolist() == [[0, 128], [255, 255]]
    assert decode_file(tmp_path / "a.png", Decoding(1, 2)).largest == 5000
    Image.new("L", (2, 2)).save(tmp_path / "b.png")
    assert decode_file(tmp_path / "b.png", Decoding(1, 2)).largest is None


def test_every_value_of_sixteen_bits_is_scaled_as_by_257(tmp_path):
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    Image.fromarray(values).save(tmp_path / "a.png")
    assert np.array_equal(decode(tmp_path / "a.png", 1, 256)[0], np.rint(values.astype(float) / 257))


def test_lost_colours_are_known_without_a_second_decoding(tmp_path):
    quarters().save(tmp_path / "colour.png")
    quarters().convert("L").convert("RGB").save(tmp_path / "grey.png")
    quarters().convert("L").convert("RGB").save(tmp_path / "grey.jpg")
    quarters("P").save(tmp_path / "palette.png")
    seen = {
        name: decode_file(tmp_path / name, Decoding(1, 16)).loses_colour
        for name in ("colour.png", "grey.png", "grey.jpg", "palette.png")
    }
    assert seen == {"colour.png": True, "grey.png": False, "grey.jpg": False, "palette.png": True}
    assert not decode_file(tmp_path / "colour.png", Decoding(3, 16)).loses_colour


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ((1, 8, "resize", False, 0), "data.full_scale=0"),
        ((1, 8, "resize", False, 70000), "data.full_scale=70000"),
        ((2, 8), "data.channels=2"),
        ((3, 0), "data.image_size=0"),
        ((3, 8, "stretch"), "data.fit=stretch"),
    ],
)
def test_settings_are_checked(numbers, message):
    with pytest.raises(UserError, match=message):
        decode_all([], *numbers)


@pytest.mark.parametrize(("size", "seen"), [((60_000, 2), (0, 255)), ((2, 60_000), (0, 255))])
def test_the_middle_of_a_long_image_needs_little_memory(size, seen):
    """Resized to 256 pixels a side first, the image would have two gigapixels."""
    image = Image.new("L", size, 255)
    image.paste(0, (0, 0, size[0] // 2 if size[0] > 2 else 2, size[1] // 2 if size[1] > 2 else 2))
    decoding = Decoding(1, 224, "centre_crop", scale=256, resampling="bicubic")
    pixels = decode_image(image, decoding).pixels[0]
    ends = (pixels[0, 0], pixels[-1, -1])
    assert (pixels.shape, ends) == ((224, 224), seen)
