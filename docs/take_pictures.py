"""Look at the built pages in headless Chromium, on a wide and on a narrow screen.

    python docs/take_pictures.py docs/_build/html docs/_build/screenshots

Every page has to fit into the width of the window, but for listings of source code, which are all
alike. Pages that are written by hand, and some of the others, are kept as pictures.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

WIDTHS = (1280, 400)
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
LEFT_OUT = ("_static/", "_modules/")
# Pages that Sphinx writes by the dozen; of these only the ones below are kept as pictures.
GENERATED = "generated/"
SHOWN = ("generated/capkit.CAPClassifier.html", "generated/capkit.margins.margin_matrix.html")
# Nothing of the browser's own goes out while a page is looked at.
QUIET = ["--no-sandbox", "--disable-background-networking", "--disable-component-update"]


def is_shown(page: str) -> bool:
    return page in SHOWN or not page.startswith(GENERATED)


def look_at(page: Page, path: Path, picture: Path | None) -> str | None:
    """Open a page, keep a picture of it, and say by how much it is too wide."""
    page.goto(path.as_uri(), wait_until="load")
    if picture is not None:
        picture.parent.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=picture, full_page=True)
    too_wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    return f"{too_wide} pixels too wide" if too_wide > 0 else None


def main(root: Path, folder: Path) -> int:
    executable = next(filter(None, map(shutil.which, BROWSERS)), None)
    if executable is None:
        print("no Chromium on the PATH: no pictures taken")
        return 1
    names = [path.relative_to(root).as_posix() for path in sorted(root.rglob("*.html"))]
    names = [name for name in names if not name.startswith(LEFT_OUT)]
    faults = []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=executable, args=QUIET)
        for width in WIDTHS:
            page = browser.new_page(viewport={"width": width, "height": 900})
            for name in names:
                picture = folder / str(width) / f"{name.removesuffix('.html')}.png"
                fault = look_at(page, (root / name).resolve(), picture if is_shown(name) else None)
                if fault:
                    faults.append(f"{name} at {width} pixels: {fault}")
            page.close()
        browser.close()
    print(*faults, f"{len(names)} pages at {WIDTHS} pixels, {len(faults)} faults", sep="\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
