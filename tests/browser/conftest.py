"""A real browser for pages that capkit writes; tests are skipped where there is none."""

import dataclasses
import shutil

import pytest

from capkit.report import ReportContent, write_report

# Nothing of the browser's own goes out while a page is looked at.
QUIET = [
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-sync",
    "--no-first-run",
]


@dataclasses.dataclass
class Opened:
    """A page in the browser, and what it did besides showing itself."""

    page: object
    address: str
    size: int
    requests: list
    errors: list
    dialogs: list


@pytest.fixture(scope="module")  # its event loop is in the way of others
def browser():
    """Headless Chromium, driven by playwright."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.skip("no Chromium on PATH")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=path, args=QUIET)
        yield chromium
        chromium.close()


@pytest.fixture
def open_report(browser, tmp_path):
    """Function that opens a page, or writes a content as one and opens that."""
    contexts = []

    def open_(content, *, width=1440, height=900, **options) -> Opened:
        path = content
        if isinstance(content, ReportContent):
            path = tmp_path / f"report{len(contexts)}.html"
            write_report(content, path)
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        page = context.new_page()
        opened = Opened(page, path.as_uri(), path.stat().st_size, [], [], [])
        page.on("request", lambda request: opened.requests.append(request.url))
        page.on("pageerror", lambda error: opened.errors.append(str(error)))
        page.on(
            "console",
            lambda message: (
                opened.errors.append(message.text)
                if message.type in ("error", "warning")
                else None
            ),
        )
        page.on("dialog", lambda dialog: (opened.dialogs.append(dialog.type), dialog.accept()))
        page.goto(opened.address)
        return opened

    yield open_
    for context in contexts:
        context.close()
