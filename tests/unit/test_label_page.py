"""The page of labels: which images, in which order, and names that act on nothing."""

import re
from base64 import b64decode
from io import BytesIO

import numpy as np
from PIL import Image

from fewshot.figures.label_page import LabelPage, thumbnail

GREY = np.full((3, 150, 150), 127, np.uint8)


def page_of(*images: tuple[str, str, float, str | None], classes=("a", "b"), most=100) -> LabelPage:
    page = LabelPage(list(classes), "unknown", most)
    for file, label, probability, truth in images:
        page.add(file, label, probability, probability, truth, GREY)
    return page


def files(html: str) -> list[str]:
    return re.findall(r'<figure[^>]* title="([^"]*)"', html)


def test_images_stand_by_label_with_the_least_certain_first():
    page = page_of(("1", "b", 0.9, None), ("2", "a", 0.8, None), ("3", "unknown", 0.5, None), ("4", "a", 0.3, None))
    html = page.render("labels", [])
    assert files(html) == ["4", "2", "1", "3"]
    assert re.findall(r'href="#group-\d+">([^<]*)<', html) == ["a 2", "b 1", "unknown 1"]
    assert "http" not in html.replace("http-equiv", "")
    assert "<script" not in html


def test_images_of_no_class_name_the_class_that_they_are_like():
    page = page_of(("1", "a", 0.9, None))
    page.add("2", "unknown", 0.4, 1.0, None, GREY, like="b")
    assert re.findall("<figcaption>([^<]*)<", page.render("t", [])) == ["90%", "b? 40%"]


def test_truth_is_marked():
    html = page_of(("1", "a", 0.9, "a"), ("2", "a", 0.8, "b"), ("3", "a", 0.7, None), ("4", "a", 0.999, "a")).render(
        "t", []
    )
    assert re.findall(r'<figure(?: class="(\w+)")? title="(\d)"', html) == [
        ("", "3"), ("wrong", "2"), ("right", "1"), ("right", "4")
    ]  # fmt: skip
    assert "80% <b>✗ b</b>" in html
    assert "&gt;99% <i>✓</i>" in html


def test_of_many_images_the_least_certain_stay_and_the_page_says_so():
    images = [(f"a{place}", "a", place / 100, None) for place in range(90)] + [("b0", "b", 0.99, None)]
    page = page_of(*images, most=10)
    html = page.render("labels", [])
    assert files(html) == [*(f"a{place}" for place in range(9)), "b0"]
    assert "81 more images, the most certain of their classes" in html
    assert "90," in html
    assert "81 are not shown" in html
    assert files(page_of(*images[::-1], most=10).render("labels", [])) == files(html)


def test_support_images_are_bounded():
    page = page_of(("1", "a", 0.9, None))
    for _ in range(30):
        page.add_support("a", GREY)
    assert page.render("t", []).count('alt="support image of a"') == 10


def test_hostile_names_are_text():
    name = "\"><script>alert('1')</script>\x1b\n\udcff"
    page = page_of((f"x{name}", name, 0.5, f"y{name}"), classes=(name, "b"))
    page.add(f"z{name}", "b", 0.5, 0.5, name, GREY)
    page.add_support(name, GREY)
    html = page.render(name, [("folder", name)])
    assert "<script" not in html
    assert "\x1b" not in html
    assert "&lt;script&gt;" in html
    assert len(files(html)) == 2
    html.encode("utf-8")


def test_thumbnails_are_small_and_small_images_keep_their_size():
    for pixels, size in ((GREY, 112), (GREY[:1, :28, :28], 28)):
        source = thumbnail(pixels)
        image = Image.open(BytesIO(b64decode(source.removeprefix("data:image/jpeg;base64,"))))
        assert image.size == (size, size)
        assert abs(int(np.asarray(image).mean()) - 127) < 3
        assert len(source) < 4000
