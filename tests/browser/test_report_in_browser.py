"""The report in Chromium: quiet, legible, and corrected by keyboard alone."""

import csv
import io
import re

import numpy as np
import pytest
from report_samples import PROBABILITIES, gray_images, large_content, small_content

from capkit.guard import AdaptationReport, AdaptationStep
from capkit.report import MismatchedClass, write_report

HOSTILE_NAMES = (
    "<script>document.title='owned'</script>.jpg",
    '"><img src=x onerror="document.title=1">,\n.jpg',
    "</script ><!--<script >.jpg",
    "\u202egpj.exe \u05d0\u05d1\u05d2 & 'quoted'.jpg",
    "much_longer_than_any_screen" * 30 + ".jpg",
    "not UTF-8 \udcff\udc80 \U0001f426.jpg",
)
DOUBTFUL, ALL, DIALOG = "#doubtful-cards", "#all-cards", "#one-photo"


def full_content(**changes):
    """A content that fills every section of the page."""
    rows = [0, 1, 2, 3, 4, 1]
    step = AdaptationStep("training", 2, 0.6, True, "it changes 2 labels")
    history = [{"epoch": n, "loss": 1.0 / n, "kept": 0.5, "n_main": 3} for n in (1, 2, 3)]
    return small_content(
        **{
            "probabilities": PROBABILITIES[rows],
            "labels": PROBABILITIES[rows].argmax(axis=1),
            "adaptation": AdaptationReport("training", 0.6, 6, 2.0, 1.0, 2, (step,)),
            "history": history,
            **changes,
        }
    )


def hostile_content():
    names = ("<b>cat</b>", "x" * 400, "\u05d0\u05d1\u05d2 </script>")
    return full_content(
        title=HOSTILE_NAMES[4],
        image_names=HOSTILE_NAMES,
        class_names=names,
        doubts=tuple(f"may be {names[1]} as well" for _ in HOSTILE_NAMES),
        mismatched=(MismatchedClass(names[1], names[1], HOSTILE_NAMES[1], np.array([3, 2])),),
        unreadable={HOSTILE_NAMES[4]: HOSTILE_NAMES[0]},
        settings={"Model": HOSTILE_NAMES[4]},
    )


@pytest.fixture(scope="module")
def many():
    """10,000 images of 200 classes."""
    return large_content(10_000, 200, gray_images(10_000))


@pytest.fixture(scope="module")
def page_of_many(many, tmp_path_factory):
    """Path of their page."""
    path = tmp_path_factory.mktemp("many") / "report.html"
    write_report(many, path)
    return path


def tab_to(page, selector, backwards=False):
    """Press Tab until the focus is on what a selector names."""
    for _ in range(200):
        page.keyboard.press("Shift+Tab" if backwards else "Tab")
        if page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return
    raise AssertionError(f"Tab never came to {selector}")


def saved_rows(page, press_save) -> list[list[str]]:
    """Rows of the file that is downloaded."""
    with page.expect_download() as download:
        press_save()
    assert download.value.suggested_filename == "corrections.csv"
    content = download.value.path().read_bytes()
    return list(csv.reader(io.StringIO(content.decode(), newline="")))


def save(page) -> list[list[str]]:
    return saved_rows(page, lambda: page.click("[data-action=save]"))


def correct(page, place, row, text):
    page.fill(f"{place} .card[data-row='{row}'] input", text)
    page.keyboard.press("Enter")


# -- quiet, and closed to the outside


@pytest.mark.parametrize("content", [full_content(), hostile_content()], ids=["full", "hostile"])
def test_the_page_loads_itself_and_nothing_else_without_an_error(open_report, content):
    opened = open_report(content)
    opened.page.click(f"{ALL} [data-action=confirm] >> nth=0")
    opened.page.click(".picture >> nth=0")
    assert opened.requests == [opened.address]
    assert opened.errors == []
    assert opened.dialogs == []
    assert opened.page.title() == content.title
    assert opened.page.locator("script").count() == 2
    assert opened.page.locator("img").count() == 0


@pytest.mark.parametrize(
    "smuggled",
    [
        "const s = document.createElement('script'); s.append(owned); document.body.append(s)",
        "document.body.innerHTML = `<img src=x onerror=${owned}>`",
        "const i = new Image(); i.src = 'https://example.org/'; document.body.append(i)",
    ],
)
def test_what_is_smuggled_in_neither_runs_nor_goes_out(open_report, smuggled):
    opened = open_report(small_content())
    with opened.page.expect_console_message(lambda message: message.type == "error") as refusal:
        opened.page.evaluate(
            f"() => {{ const owned = 'document.title=1'; try {{ {smuggled} }} catch {{}} }}"
        )
    assert re.search("Content Security Policy|requires 'Trusted", refusal.value.text)
    assert opened.page.title() == "Labels of pets"


def test_pictures_are_seen(open_report):
    page = open_report(small_content()).page
    box = page.locator(f"{DOUBTFUL} .thumbnail").first
    image = box.evaluate("element => getComputedStyle(element).backgroundImage")
    assert image.startswith('url("data:image/jpeg;base64,')
    assert box.bounding_box()["width"] > 80


# -- legible


@pytest.mark.parametrize("width", [360, 1440])
@pytest.mark.parametrize("kind", ["full", "hostile", "many"])
def test_nothing_is_wider_than_the_screen(open_report, width, kind, page_of_many):
    contents = {"full": full_content(), "hostile": hostile_content(), "many": page_of_many}
    page = open_report(contents[kind], width=width).page
    overflow = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.evaluate(overflow) <= 0
    page.click(f"{ALL} [data-action=confirm] >> nth=0")
    names = {"full": "dog", "hostile": "x" * 400, "many": "class 007"}
    correct(page, ALL, 1, names[kind])  # the bar at the bottom is there now
    correct(page, ALL, 2, "no class at all")
    page.click(".picture >> nth=0")
    assert page.evaluate(overflow) <= 0
    dialog = page.locator(DIALOG)
    assert dialog.evaluate("element => element.scrollWidth <= element.clientWidth")
    box = dialog.bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_light_or_dark_as_the_reader_wishes(open_report, scheme):
    page = open_report(small_content(), color_scheme=scheme).page
    colors = page.evaluate(
        """() => ["backgroundColor", "color"].map(
            (name) => getComputedStyle(document.body)[name].match(/[0-9]+/g).map(Number)
        )"""
    )
    ground, ink = (sum(color[:3]) / 3 for color in colors)
    assert (ground < 50 and ink > 200) if scheme == "dark" else (ground > 200 and ink < 50)


def test_movement_is_left_out_where_the_reader_wishes_so(open_report):
    behavior = "() => getComputedStyle(document.documentElement).scrollBehavior"
    options = ["reduce", "no-preference"]
    pages = [open_report(small_content(), reduced_motion=wish).page for wish in options]
    assert [page.evaluate(behavior) for page in pages] == ["auto", "smooth"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("kind", ["full", pytest.param("many", marks=pytest.mark.slow)])
def test_axe_finds_no_barrier(open_report, scheme, kind, page_of_many):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="no axe-core")
    content = full_content() if kind == "full" else page_of_many
    page = open_report(content, width=400, color_scheme=scheme).page
    page.click(f"{DOUBTFUL} [data-action=confirm] >> nth=0")
    correct(page, ALL, 0, "no class at all")
    for with_a_photo_open in (False, True):
        if with_a_photo_open:
            page.click(".picture >> nth=0")
        violations = axe.Axe().run(page).response["violations"]
        assert [(found["id"], found["nodes"][0]["html"]) for found in violations] == []


def test_without_javascript_the_page_can_be_read(open_report):
    page = open_report(full_content(), java_script_enabled=False).page
    assert page.locator(f"{DOUBTFUL} .card").count() == 3
    assert page.get_by_text("need JavaScript").is_visible()
    for useless in (".correction", "#filters", ".pager", "#save-bar"):
        assert not page.locator(useless).first.is_visible()
    assert page.locator(f"{DOUBTFUL} .thumbnail").first.is_visible()


# -- corrections


def test_a_label_is_corrected_and_saved_by_keyboard_alone(open_report):
    page = open_report(small_content()).page
    tab_to(page, f"{DOUBTFUL} .card[data-row='1'] input")
    outline = page.evaluate("() => getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    page.keyboard.type("Jay")
    page.keyboard.press("Enter")
    tab_to(page, f"{DOUBTFUL} .card[data-row='5'] [data-action=confirm]")
    page.keyboard.press("Enter")
    assert page.inner_text("#count") == "1 correction, 1 confirmed"
    tab_to(page, "[data-action=save]")
    rows = saved_rows(page, lambda: page.keyboard.press("Enter"))
    # 3 is a label that was given before: one file is enough for the next run
    expected = [["pets/1.jpg", "jay"], ["pets/3.jpg", "jay"], ["pets/5.jpg", "dog"]]
    assert rows == [["path", "label"], *expected]
    assert page.inner_text("#count") == "1 correction, 1 confirmed, saved"


def test_names_of_any_kind_come_back_from_the_file(open_report):
    content = hostile_content()
    page = open_report(content).page
    for row in range(6):
        correct(page, ALL, row, content.class_names[row % 3])
    names = [*HOSTILE_NAMES[:5], "not UTF-8 \ufffd\ufffd \U0001f426.jpg"]  # as far as UTF-8 goes
    named = [[name, content.class_names[row % 3]] for row, name in enumerate(names)]
    assert save(page) == [["path", "label"], *named]


def test_what_is_no_class_is_refused_in_words(open_report):
    page = open_report(small_content()).page
    correct(page, DOUBTFUL, 1, "<i>owl</i>")
    card = page.locator(f"{DOUBTFUL} .card[data-row='1']")
    message = "“<i>owl</i>” is no class. Choose a name from the list."
    assert card.locator("[data-field=wrong]").inner_text() == message
    assert page.locator("#announcement").text_content() == message
    field = card.locator("input")
    assert field.get_attribute("aria-invalid") == "true"
    assert field.get_attribute("aria-describedby") == card.locator(".wrong").get_attribute("id")
    assert field.evaluate("element => element === document.activeElement")
    assert not page.locator("#save-bar").is_visible()
    correct(page, DOUBTFUL, 1, " CAT ")
    assert card.locator("[data-field=label]").inner_text() == "cat"
    assert not card.locator(".wrong").is_visible()
    assert field.get_attribute("aria-invalid") is None


def test_names_that_differ_in_capitals_alone_have_to_be_typed_as_they_are(open_report):
    page = open_report(small_content(class_names=("Cat", "cat", "jay"))).page
    correct(page, DOUBTFUL, 2, "CAT")
    assert "is no class" in page.inner_text(f"{DOUBTFUL} .card[data-row='2'] .wrong")
    correct(page, DOUBTFUL, 2, "cat")
    assert page.inner_text(f"{DOUBTFUL} .card[data-row='2'] [data-field=label]") == "cat"


def test_a_correction_is_known_in_every_section_and_on_every_page(open_report, many, page_of_many):
    page = open_report(page_of_many).page
    row = int(many.doubtful_first[0])
    correct(page, DOUBTFUL, row, "class 199")
    page.click(f"{DOUBTFUL} + .pager [data-action=next]")
    assert page.locator(f"{DOUBTFUL} .card[data-row='{row}']").count() == 0
    page.click(f"{DOUBTFUL} + .pager [data-action=previous]")
    page.fill("[name=text]", many.image_names[row])
    for place in (DOUBTFUL, ALL):
        card = page.locator(f"{place} .card[data-row='{row}']")
        assert card.locator("[data-field=label]").inner_text() == "class 199"
        assert "you corrected this to class 199" in card.inner_text()


def test_any_picture_opens_its_card(open_report):
    page = open_report(small_content()).page
    picture = page.locator("section[aria-labelledby=mismatched] .picture[data-row='2']")
    picture.press("Enter")
    correct(page, DIALOG, 2, "dog")
    assert "you corrected this to dog" in page.locator("#announcement").text_content()
    assert page.locator(f"{DIALOG} #announcement").count() == 1  # what is outside is not read out
    page.keyboard.press("Escape")
    assert picture.evaluate("element => element === document.activeElement")
    assert page.locator("body > #announcement").count() == 1
    assert picture.locator(".mark").inner_text() == "✎"
    name = picture.locator(".thumbnail").get_attribute("aria-label")
    assert name == "jay: pets/2.jpg, you corrected this to dog"
    assert page.inner_text(f"{DOUBTFUL} .card[data-row='2'] [data-field=label]") == "dog"


def test_undo_takes_back_one_step_at_a_time(open_report):
    page = open_report(small_content()).page
    label = f"{ALL} .card[data-row='0'] [data-field=label]"
    correct(page, ALL, 0, "dog")
    correct(page, ALL, 0, "jay")
    seen = [page.inner_text(label)]
    for _ in range(2):
        page.click("[data-action=undo]")
        seen.append(page.inner_text(label))
    assert seen == ["jay", "dog", "cat"]
    assert not page.locator("#save-bar").is_visible()


def test_a_single_correction_is_taken_back_and_that_is_undone(open_report):
    page = open_report(small_content()).page
    correct(page, ALL, 0, "dog")
    correct(page, ALL, 1, "jay")
    page.click(f"{ALL} .card[data-row='0'] [data-action=take-back]")
    assert page.inner_text("#count") == "1 correction"
    assert save(page)[1:] == [["pets/1.jpg", "jay"], ["pets/3.jpg", "jay"]]
    page.click("[data-action=undo]")
    assert page.inner_text("#count") == "2 corrections"
    assert page.inner_text(f"{ALL} .card[data-row='0'] [data-field=label]") == "dog"


def test_leaving_with_unsaved_corrections_warns_and_else_does_not(open_report):
    opened = open_report(small_content())
    page = opened.page
    page.reload()
    assert opened.dialogs == []
    correct(page, ALL, 0, "dog")
    page.reload()
    assert opened.dialogs == ["beforeunload"]
    correct(page, ALL, 0, "dog")
    save(page)
    page.reload()
    assert opened.dialogs == ["beforeunload"]


# -- all photos, also many


def test_ten_thousand_photos_are_searched_a_page_at_a_time(open_report, page_of_many):
    opened = open_report(page_of_many)
    page = opened.page
    assert opened.size < 20_000_000
    assert page.inner_text("#found") == "10,000 photos"
    assert page.locator(f"{ALL} .card").count() == 12
    assert page.locator("datalist option").count() == 200
    assert page.locator(".card option").count() == 0
    page.fill("[name=text]", "PHOTO 0412")
    assert page.inner_text("#found") == "10 photos of 10,000"
    page.fill("[name=text]", "")
    page.select_option("[name=label]", label="class 007")
    assert page.inner_text("#found") == "50 photos of 10,000"
    pager = page.locator(f"{ALL} + .pager")
    for _ in range(4):
        pager.locator("[data-action=next]").press("Enter")
    assert pager.locator("[data-field=page]").inner_text() == "Page 5 of 5"
    assert page.locator(f"{ALL} .card").count() == 2
    assert pager.locator("[data-action=next]").is_disabled()
    # the focus does not fall out of the page with the button that went
    assert pager.locator("[data-action=previous]").evaluate("e => e === document.activeElement")
    page.select_option("[name=kind]", "doubtful")
    assert re.match("1[67] photos", page.inner_text("#found"))
    assert opened.errors == []


def test_photos_are_filtered_by_what_became_of_them(open_report):
    page = open_report(small_content()).page
    correct(page, ALL, 0, "dog")

    def shown(kind):
        page.select_option("[name=kind]", kind)
        cards = page.locator(f"{ALL} .card").all()
        return [int(card.get_attribute("data-row")) for card in cards]

    assert shown("doubtful") == [1, 2, 5]
    assert shown("changed") == [0, 5]  # from 0, 1, 2, 2, 0, 0
    assert shown("given") == [0, 3]
    page.select_option("[name=order]", "doubt")
    assert shown("all") == [1, 2, 5, 4, 3, 0]


def test_a_class_of_the_table_shows_its_photos(open_report):
    page = open_report(small_content()).page
    page.click(".classes a >> text=jay")
    assert page.inner_text("#found") == "2 photos of 6"


def test_the_table_of_many_classes_is_short_until_it_is_asked_for(open_report, page_of_many):
    page = open_report(page_of_many).page
    rows = page.locator(".classes tbody tr:visible")
    assert rows.count() == 25
    page.get_by_role("button", name="Show all 200 classes").press("Enter")
    assert rows.count() == 200
    assert page.evaluate("document.activeElement.closest('tr').rowIndex") == 26
