"""The page: whole, closed to the outside, and unharmed by any name."""

import base64
import hashlib
import itertools
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from report_samples import PROBABILITIES, gray_images, large_content, small_content

from capkit.guard import AdaptationReport, AdaptationStep
from capkit.images import ImageSource
from capkit.report import MismatchedClass, write_report

HOSTILE = (
    "<script>alert(1)</script>.jpg",
    '"><img src=x onerror=alert(1)>.jpg',
    "</script ><!--<script >.jpg",
    "\u202egpj.exe 'quoted' & \u05d0\u05d1\u05d2 \u2028.jpg",
    "long/" * 200 + "name.jpg",
    "not UTF-8 \udcff\udc80.jpg",
)
VOID = {"meta", "link", "input", "img", "br", "hr", "rect", "polyline"}


class Page(HTMLParser):
    """Elements in order, each with its attributes, its ancestors and its own text."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements, self.open = [], []
        self.feed(text)
        self.close()
        assert not self.open, [element["tag"] for element in self.open]

    def handle_starttag(self, tag, attributes):
        element = {"tag": tag, "text": "", "inside": [e["tag"] for e in self.open]}
        element["attributes"] = dict(attributes)
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop()["tag"] == tag

    def handle_data(self, data):
        for element in self.open[-1:]:
            element["text"] += data

    def all(self, tag, **attributes):
        return [
            element
            for element in self.elements
            if element["tag"] == tag
            and all(element["attributes"].get(k) == v for k, v in attributes.items())
        ]

    @property
    def data(self):
        (element,) = self.all("script", id="data")
        return json.loads(element["text"])

    @property
    def text(self):
        return " ".join(e["text"] for e in self.elements if e["tag"] not in ("script", "style"))


@pytest.fixture
def written(tmp_path):
    def write(content):
        path = tmp_path / "report.html"
        write_report(content, path)
        return path.read_bytes().decode("utf-8")

    return write


def full_content(**changes):
    """All sections: also a training and a confused pair."""
    rows = [0, 1, 2, 3, 4, 1]
    step = AdaptationStep("training", 2, 0.6, True, "it changes 2 labels")
    history = [
        {"epoch": n, "loss": 1.0 / n, "kept": 0.5, "class_balance": 0.9, "n_main": 3}
        for n in (1, 2)
    ]
    return small_content(
        **{
            "probabilities": PROBABILITIES[rows],
            "labels": PROBABILITIES[rows].argmax(axis=1),
            "adaptation": AdaptationReport("training", 0.6, 6, 2.0, 1.0, 2, (step,)),
            "history": history,
            **changes,
        }
    )


# -- its parts


def test_sections_come_in_the_order_of_need(written):
    page = Page(written(full_content()))
    assert [heading["attributes"]["id"] for heading in page.all("h2")] == [
        "summary",
        "doubtful",
        "classes",
        "mismatched",
        "pairs",
        "training",
        "all",
        "unreadable",
        "settings",
    ]
    named = [section["attributes"]["aria-labelledby"] for section in page.all("section")]
    assert named == [heading["attributes"]["id"] for heading in page.all("h2")]


def test_sections_that_have_nothing_to_say_are_left_out(written):
    content = small_content(
        mismatched=(), unreadable={}, zero_shot=None, doubts=("",) * 6, known=np.full(6, -1)
    )
    page = Page(written(content))
    ids = [heading["attributes"]["id"] for heading in page.all("h2")]
    assert ids == ["summary", "doubtful", "classes", "all", "settings"]
    links = [link["attributes"]["href"] for link in page.all("a") if "nav" in link["inside"]]
    assert links == ["#doubtful", "#classes", "#all", "#settings"]
    assert "by its name alone" not in page.text and "names alone" not in page.text


def test_headings_never_skip_a_level(written):
    page = Page(written(full_content()))
    levels = [int(e["tag"][1]) for e in page.elements if re.fullmatch("h[1-6]", e["tag"])]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_without_javascript_the_doubtful_photos_can_be_read(written):
    page = Page(written(small_content()))
    cards = [e for e in page.all("article") if e["attributes"]["data-row"]]
    assert [e["attributes"]["data-row"] for e in cards] == ["1", "2", "5"]
    doubts = [e["text"] for e in page.elements if e["attributes"].get("data-field") == "doubt"]
    assert "may be cat as well (45%)" in doubts
    assert "need JavaScript" in page.text


def test_the_table_of_classes_counts_before_and_now(written):
    page = Page(written(small_content()))
    start = next(i for i, e in enumerate(page.elements) if e["tag"] == "tbody")
    rows, cells = {}, []
    for element in page.elements[start:]:
        if element["tag"] == "a" and "data-class" in element["attributes"]:
            cells = rows[element["attributes"]["data-class"]] = []
        elif element["attributes"].get("class") == "number":
            cells.append(element["text"])
    # by name alone, now, mean confidence, doubtful; those of most doubtful labels first
    assert list(rows) == ["1", "2", "0"]
    assert rows == {
        "0": ["3", "2", "75%", "0"],
        "1": ["1", "2", "70%", "2"],
        "2": ["2", "2", "65%", "1"],
    }


def test_tables_have_captions_and_scopes(written):
    page = Page(written(full_content()))
    assert len(page.all("table")) == len(page.all("caption")) == 2
    assert all(cell["attributes"].get("scope") in ("col", "row") for cell in page.all("th"))


def test_each_picture_is_there_once_with_a_text_wherever_it_is_shown(written):
    text = written(full_content())
    assert text.count("data:image/jpeg;base64,") == 6
    shown = [
        e["attributes"]
        for e in Page(text).all("span", role="img")
        if e["attributes"]["class"] == "thumbnail p1"
    ]
    assert len(shown) > 1
    assert {attributes["aria-label"] for attributes in shown} == {"dog: pets/1.jpg"}


def test_an_image_that_cannot_be_read_any_more_has_no_picture(written, broken_colour_paths):
    images = ImageSource.from_user(broken_colour_paths).take(np.arange(6))
    page = Page(written(small_content(images=images)))
    assert page.data["pictured"] == [0, 2, 4]
    classes = {e["attributes"]["class"] for e in page.all("span", role="img")}
    assert {"thumbnail p2", "thumbnail unpictured"} <= classes
    assert "thumbnail p1" not in classes


def test_a_report_on_nothing_can_be_written(written):
    nothing = small_content(
        images=gray_images(0),
        image_names=(),
        probabilities=np.empty((0, 3)),
        labels=np.empty(0, dtype=int),
        zero_shot=None,
        known=np.empty(0, dtype=int),
        doubts=(),
        mismatched=(),
    )
    assert "0 photos got a label" in Page(written(nothing)).text


def test_a_report_takes_the_place_of_an_older_one_and_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / "report.html"
    path.write_text("older")
    write_report(small_content(), path)
    assert path.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert list(tmp_path.iterdir()) == [path]


# -- closed to the outside


def test_the_page_names_no_other_address(written):
    text = written(full_content())
    page = Page(text)
    for element in page.elements:
        attributes = element["attributes"]
        assert "src" not in attributes and "srcset" not in attributes
        assert not any(name.startswith("on") or name == "style" for name in attributes)
        assert attributes.get("href", "#").startswith("#")
    assert not re.search(r"https?:|@import|url\((?!data:image/jpeg)", text)


def test_the_policy_allows_nothing_but_what_is_in_the_file(written):
    page = Page(written(full_content()))
    (meta,) = page.all("meta", **{"http-equiv": "Content-Security-Policy"})
    policy = dict(
        part.strip().partition(" ")[::2] for part in meta["attributes"]["content"].split(";")
    )
    assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert policy["img-src"] == "data:"

    def sources(elements):
        digests = [hashlib.sha256(e["text"].encode()).digest() for e in elements]
        return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)

    scripts = [e for e in page.all("script") if "type" not in e["attributes"]]
    assert len(scripts) == 1 and policy["script-src"] == sources(scripts)
    assert policy["style-src"] == sources(page.all("style"))


# -- hostile names


def test_hostile_names_are_text_wherever_they_stand(written):
    names = HOSTILE[:3]
    plain = Page(written(full_content()))
    hostile = Page(
        written(
            full_content(
                title=HOSTILE[0],
                image_names=HOSTILE,
                class_names=names,
                doubts=tuple(f"may be {name} as well" for name in HOSTILE),
                unreadable={HOSTILE[1]: HOSTILE[2]},
                mismatched=(MismatchedClass(names[2], HOSTILE[0], HOSTILE[1], np.array([3])),),
                settings={HOSTILE[0]: HOSTILE[1]},
            )
        )
    )
    assert len(hostile.all("script")) == len(plain.all("script")) == 2
    for tag in ("img", "style", "iframe"):
        assert len(hostile.all(tag)) == len(plain.all(tag))
    assert not set("<>&") & set(hostile.all("script", id="data")[0]["text"])
    assert hostile.data["names"] == list(HOSTILE)
    assert hostile.data["classes"] == list(names)
    assert hostile.all("h1")[0]["text"] == HOSTILE[0]
    assert {e["text"] for e in hostile.all("bdi")} >= {*names, *HOSTILE[:5]}


def test_a_name_that_utf8_cannot_write_is_shown_with_marks_in_place_of_it(written):
    text = written(small_content(image_names=HOSTILE, doubts=("no class fits",) * 6))
    page = Page(text)
    assert "not UTF-8 \ufffd\ufffd.jpg" in {e["text"] for e in page.all("bdi")}
    assert page.data["names"][5] == HOSTILE[5]


def test_a_reason_of_any_length_is_cut(written):
    page = Page(written(small_content(doubts=("x" * 1000,) * 6)))
    assert page.data["doubts"]["0"] == "x" * 299 + "…"


# -- size


def test_ten_thousand_images_and_two_hundred_classes_stay_below_twenty_megabytes(tmp_path):
    # Noise is what JPEG makes most bytes of: not all of the pictures fit.
    noise = np.random.default_rng(0).bytes(1500 * 112 * 112 * 3)
    pixels = np.frombuffer(noise, dtype=np.uint8).reshape(1500, 112, 112, 3)
    images = ImageSource.from_user(pixels).take(np.arange(10_000) % 1500)
    write_report(large_content(10_000, 200, images), tmp_path / "report.html", n_jobs=2)
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert 12_000_000 < (tmp_path / "report.html").stat().st_size < 20_000_000
    assert 500 < len(page.data["pictured"]) < 2000
    assert len(page.data["names"]) == 10_000
    assert len(page.all("article")) < 100
    assert len(page.all("option")) < 20


def test_of_very_many_images_those_needed_most_are_pictured(tmp_path):
    content = large_content(4000, 5, gray_images(4000))
    write_report(content, tmp_path / "report.html")
    pictured = Page((tmp_path / "report.html").read_text(encoding="utf-8")).data["pictured"]
    assert len(pictured) == 3000
    assert set(np.flatnonzero(content.is_doubtful)) <= set(pictured)
