"""The check of the built pages finds each fault that it is for, and nothing in a sound page."""

import importlib.util
from pathlib import Path

import pytest

pytest.importorskip("bs4")
SOURCE = Path(__file__).parents[1] / "docs" / "check_pages.py"


@pytest.fixture(scope="module")
def check_pages():
    spec = importlib.util.spec_from_file_location("check_pages", SOURCE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def faults_of(check_pages, tmp_path):
    """Function that writes a page of the given content, beside another one, and checks it."""
    (tmp_path / "other.html").write_text('<article><h1 id="there">Other</h1></article>')

    def check(content: str, head: str = "") -> list[str]:
        page = tmp_path / "page.html"
        page.write_text(f"<head>{head}</head><body><article>{content}</article></body>")
        return check_pages.check_page(page, tmp_path)

    return check


def test_a_sound_page_has_no_faults(faults_of):
    content = (
        '<p id="here">Scores rise by 12%.</p><a href="#here">up</a>'
        '<a href="other.html#there">on</a>'
        '<a href="https://example.org/home/page">away</a>'
        '<a href="#here"><code class="xref py">fit</code></a>'
    )
    assert faults_of(content) == []


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ('<div class="admonition error">no contents</div>', "error box: no contents"),
        ('<span class="problematic">|x|</span>', "error box: |x|"),
        ("<p>System Message: WARNING/2</p>", "docutils' message: System Message: WARNING"),
        ("<pre>saved /tmp/a/b.png</pre>", "path of the machine that built it: /tmp/a/b.png"),
        ("<pre>\x1b[31mred</pre>", "terminal code: \x1b[31m"),
        ("<pre>3%|# | 19/600</pre>", "progress bar: 3%|# | 19/600"),
        ('<code class="xref py">Gone</code>', "reference without target: Gone"),
        ('<a href="gone.html">x</a>', "no such page: gone.html"),
        ('<a href="#gone">x</a>', "no such place: #gone"),
        ('<a href="other.html#gone">x</a>', "no such place: other.html#gone"),
        ('<img src="other.html">', "picture without a text in its place: other.html"),
    ],
)
def test_each_fault_is_found(faults_of, content, fault):
    assert faults_of(content) == [fault]


def test_a_script_from_elsewhere_is_found(faults_of):
    script = '<script src="https://cdn.example.org/x.js"></script>'
    assert faults_of("", head=script) == ["loaded from elsewhere: https://cdn.example.org/x.js"]


def test_a_path_of_the_build_is_found_wherever_it_stands(faults_of, tmp_path):
    found = faults_of(f'<p title="{tmp_path}">x</p>')
    assert found == [f"path of the machine that built it: {tmp_path}"]


def test_a_folder_without_pages_fails(check_pages, tmp_path):
    assert check_pages.main(tmp_path) == 1
