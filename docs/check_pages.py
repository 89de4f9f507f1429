"""Look through the built pages for what Sphinx does not warn of; `make docs` runs it.

python docs/check_pages.py docs/_build/html
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

from bs4 import BeautifulSoup, SoupStrainer

# The side bars are the same on all pages, and Sphinx's own.
PARTS = SoupStrainer(["article", "iframe", "link", "script"])
# What a theme or docutils draws where something went wrong.
ERROR_BOXES = ".admonition.error, .system-message, .problematic"
# What must not be in the text of a page.
UNWANTED = {
    "docutils' message": re.compile(r"System Message: \w+"),
    "path of the machine that built it": re.compile(
        r"(?<![\w./])/(?:tmp|root|home|Users)/[^\s'\"<]*"
    ),
    "terminal code": re.compile(r"\x1b\[[\d;]*\w?"),
    "progress bar": re.compile(r"\d+%\|[^|]*\|.*|[\d.]+(?:it|step|batch)(?:es|s)?/s"),
}
# Elements that load something, or lead somewhere, and the attribute that says what.
ADDRESSES = {"a": "href", "img": "src", "link": "href", "script": "src", "iframe": "src"}


@cache
def read_page(path: Path) -> BeautifulSoup:
    page = BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser", parse_only=PARTS)
    for hidden in page.find_all("noscript"):
        hidden.decompose()
    return page


@cache
def places(path: Path) -> frozenset[str]:
    """Names that a fragment of an address can point to."""
    page = read_page(path)
    return frozenset(
        tag[key] for key in ("id", "name") for tag in page.find_all(attrs={key: True})
    )


def find_errors(page: BeautifulSoup) -> Iterator[str]:
    for box in page.select(ERROR_BOXES):
        yield f"error box: {shorten(box.get_text(' '))}"


def find_unwanted_text(page: BeautifulSoup, root: Path) -> Iterator[str]:
    text = page.get_text()
    for what, pattern in UNWANTED.items():
        for found in pattern.finditer(text):
            yield f"{what}: {shorten(found[0])}"
    if str(root) in str(page):
        yield f"path of the machine that built it: {root}"


def find_references_without_target(page: BeautifulSoup) -> Iterator[str]:
    """Sphinx leaves a reference that it cannot resolve as code, without a link and a warning."""
    for reference in page.select("code.xref"):
        if reference.find_parent("a") is None:
            yield f"reference without target: {reference.get_text()}"


def find_broken_links(page: BeautifulSoup, path: Path) -> Iterator[str]:
    for tag in page.find_all(list(ADDRESSES)):
        address = tag.get(ADDRESSES[tag.name])
        if address is None:
            continue
        parts = urlsplit(address)
        if parts.scheme or parts.netloc:
            if tag.name != "a" and parts.scheme != "data":
                yield f"loaded from elsewhere: {address}"
            continue
        target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
        if not target.is_file():
            yield f"no such page: {address}"
        elif parts.fragment and unquote(parts.fragment) not in places(target):
            yield f"no such place: {address}"


def find_pictures_without_text(page: BeautifulSoup) -> Iterator[str]:
    for image in page.find_all("img"):
        if not image.has_attr("alt"):
            yield f"picture without a text in its place: {image['src']}"


def shorten(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 100 else text[:97] + "..."


def check_page(path: Path, root: Path) -> list[str]:
    """Everything that is wrong with one page, each once."""
    page = read_page(path)
    return list(
        dict.fromkeys(
            [
                *find_errors(page),
                *find_unwanted_text(page, root),
                *find_references_without_target(page),
                *find_broken_links(page, path),
                *find_pictures_without_text(page),
            ]
        )
    )


def main(root: Path) -> int:
    root = root.resolve()
    pages = sorted(path for path in root.rglob("*.html") if "_static" not in path.parts)
    if not pages:
        print(f"no pages in {root}; run `make docs` first")
        return 1
    faults = [
        f"{path.relative_to(root)}: {fault}" for path in pages for fault in check_page(path, root)
    ]
    print(*faults, f"{len(pages)} pages looked through, {len(faults)} faults", sep="\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
