"""Class names and labels are read as a person wrote them, or the line is named that cannot be."""

import codecs

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from capkit.exceptions import ClassNamesError, LabelError
from capkit.labels import LabelTable, merge_labels, read_class_names, read_labels, write_labels
from capkit.labels import reading as reading_module

NAMES = ("forest", "river", "Lake Como")
IMAGES = ("1.jpg", "2.jpg", "a/1.jpg", "a/3.jpg", "b/4.jpg", "c/4.jpg")


@pytest.fixture
def names_file(tmp_path):
    """Writes a file of class names, from text or bytes."""
    return _writer(tmp_path / "names.txt")


@pytest.fixture
def labels_file(tmp_path):
    """Writes a file of labels, from text or bytes."""
    return _writer(tmp_path / "known.csv")


def _writer(path):
    def write(content):
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


# -- class names


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8])
def test_class_names_stand_one_a_line(names_file, mark, end):
    lines = ["Wald", "", "  river, from above\t", "   ", "湖"]
    path = names_file(mark + end.join(lines).encode())
    assert read_class_names(path) == ("Wald", "river, from above", "湖")


def test_only_line_ends_separate_class_names(names_file):
    # What str.splitlines would split at too: a line separator, a form feed, a file separator.
    names = ("a\u2028b", "c\fd", "e\x1cf")
    assert read_class_names(names_file("\n".join(names))) == names


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"W\xe4lder\nSeen\n", "expected text in UTF-8, got something else .*Save it as UTF-8"),
        ("Wald\nSee\n".encode("utf-16"), "expected text in UTF-8, got something else"),
        ("Wald\nSee\n".encode("utf-16-le"), "expected text in UTF-8, got NUL characters"),
        (
            "forest, river, lake\n",
            "one class name a line, got commas in a single line: 'forest",
        ),
        ("forest\n\n", "expected at least 2 class_names, got 1"),
        ("", "expected at least 2 class_names, got 0"),
        ("forest\nriver\n forest \n", r"got twice: \['forest'\]"),
        ("forest\n-1\n", "is '-1', which marks unlabeled images"),
    ],
)
def test_what_is_no_list_of_class_names_is_refused(names_file, content, message):
    with pytest.raises(ClassNamesError, match=rf"names.txt: .*{message}"):
        read_class_names(names_file(content))


def test_a_file_too_large_for_class_names_is_not_read(names_file, monkeypatch):
    monkeypatch.setattr(reading_module, "_MAX_BYTES_OF_NAMES", 2**20)
    path = names_file("forest\nriver\n" + "\n" * (2**20 - 13))
    assert read_class_names(path) == ("forest", "river")
    path = names_file(path.read_bytes() + b"\n")
    with pytest.raises(ClassNamesError, match="expected at most 1 MiB, got more"):
        read_class_names(path)


def test_a_missing_file_is_said_to_be_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"names\.txt"):
        read_class_names(tmp_path / "names.txt")
    with pytest.raises(FileNotFoundError, match=r"known\.csv"):
        read_labels(tmp_path / "known.csv", IMAGES, tmp_path, NAMES)


# -- labels


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8])
def test_labels_are_read_from_every_kind_of_csv(labels_file, tmp_path, delimiter, end, mark):
    lines = ["Note|Label|PATH", "|river|1.jpg", "", '"a|b"|Lake Como|a/3.jpg', "||2.jpg", "||"]
    content = end.join(lines).replace("|", delimiter)
    labels = read_labels(labels_file(mark + content.encode()), IMAGES, tmp_path, NAMES)
    assert labels.tolist() == [1, -1, -1, 2, -1, -1]
    assert labels.dtype == np.int64


def test_paths_with_other_delimiters_in_them_do_not_mislead(labels_file):
    images = ["a;b;c.jpg", "d;e;f.jpg"]
    path = labels_file("path,label\na;b;c.jpg,river\nd;e;f.jpg,forest\n")
    assert read_labels(path, images, "/photos", NAMES).tolist() == [1, 0]


@pytest.mark.parametrize(
    "written",
    [
        "a/3.jpg",
        "a\\3.jpg",
        "./a/3.jpg",
        " a/3.jpg ",
        "3.jpg",
        "{folder}/a/3.jpg",
        "a//../a/3.jpg",
    ],
)
def test_an_image_can_be_named_in_several_ways(labels_file, tmp_path, written):
    path = labels_file(f"path,label\n{written.format(folder=tmp_path)},river\n")
    assert read_labels(path, IMAGES, tmp_path, NAMES).tolist() == [-1, -1, -1, 1, -1, -1]


def test_absolute_paths_may_go_over_links_on_either_side(labels_file, tmp_path):
    (tmp_path / "real" / "a").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for folder, way in [("link", "real"), ("real", "link"), ("link", "link")]:
        path = labels_file(f"path,label\n{tmp_path / way / 'a' / '3.jpg'},river\n")
        assert read_labels(path, IMAGES, tmp_path / folder, NAMES)[3] == 1


def test_a_path_relative_to_the_folder_comes_before_the_same_name_elsewhere(labels_file):
    path = labels_file("path,label\n1.jpg,river\n")
    assert read_labels(path, IMAGES, "/photos", NAMES).tolist() == [1, -1, -1, -1, -1, -1]


def test_names_as_they_stand_come_before_names_tidied_up(labels_file):
    images, names = ["a\\1.jpg", "a/1.jpg", " 2.jpg", "2.jpg"], (" river", "river")
    path = labels_file("path,label\na\\1.jpg,river\n 2.jpg, river\n2.jpg,river\n")
    assert read_labels(path, images, "/photos", names).tolist() == [1, -1, 0, 1]


def test_empty_labels_and_minus_one_say_nothing_of_any_image(labels_file):
    path = labels_file("path,label\n1.jpg,river\n1.jpg,\n1.jpg,-1\ngone.jpg, \n4.jpg\n")
    assert read_labels(path, IMAGES, "/photos", NAMES).tolist() == [1, -1, -1, -1, -1, -1]


def test_the_same_label_twice_is_no_contradiction(labels_file):
    path = labels_file("path,label\n3.jpg,river\na/3.jpg,river\n")
    assert read_labels(path, IMAGES, "/photos", NAMES)[3] == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("path,label\n1.jpg,rivr\n", "line 2: .* got 'rivr'; did you mean 'river'"),
        ("path,label\n1.jpg,LAKE COMO\n", "line 2: .* did you mean 'Lake Como'"),
        ("path,label\n\n1.jpg,zzz\n", "line 3: .*of the 3 class names, got 'zzz'. Correct it"),
        ("path,label\n1.jpg,river\n9.jpg,river\n", "line 3: .*the 6 images, got '9.jpg'"),
        ("path,label\n/else/1.jpg,river\n", "line 2: .*got '/else/1.jpg'. .*relative to /photos"),
        ("path,label\n/photosets/1.jpg,river\n", "line 2: .*got '/photosets/1.jpg'"),
        ("path,label\n,river\n", "line 2: expected one of the 6 images, got ''"),
        ("path,label\n4.jpg,river\n", "line 2: .* name of 2: 'b/4.jpg', 'c/4.jpg'"),
        (
            'path,label,doubt\n1.jpg,river,"a\nb"\n2.jpg,river,\n./1.jpg,forest,\n',
            "line 5: expected one label of '1.jpg', got 'forest' and in line 2 'river'",
        ),
        ("1.jpg,river\n", "names the columns.*path,label', got '1.jpg,river'"),
        ("path,label,path\n1.jpg,river,2.jpg\n", "names the columns"),
        ("", "names the columns.*got ''"),
        ("path,label\na,b.jpg,river\n", "line 2: expected 2 cells as in the first line, got 3"),
        ('path,label\n1.jpg,river\n"2.jpg,river\n', "line 3: .*double quote that is not closed"),
        ('path,label\n1.jpg,"riv"er\n', "line 2: .*double quote that is not closed"),
        ("path,label\n1.jpg,W\xe4lder\n".encode("latin-1"), "expected text in UTF-8, got somethi"),
        ("path,label\n1.jpg,river\n".encode("utf-16"), "expected text in UTF-8"),
    ],
)
def test_every_problem_names_its_line(labels_file, content, message):
    with pytest.raises(LabelError, match=rf"(?s)known.csv: .*{message}"):
        read_labels(labels_file(content), IMAGES, "/photos", NAMES)


def test_a_file_too_large_for_labels_is_not_read(labels_file, monkeypatch):
    monkeypatch.setattr(reading_module, "_MAX_BYTES_OF_LABELS", 2**20)
    path = labels_file("path,label\n1.jpg,river\n" + "\n" * 2**20)
    with pytest.raises(LabelError, match="expected at most 1 MiB, got more"):
        read_labels(path, IMAGES, "/photos", NAMES)


# -- what write_labels writes

# Everything that a file name or class can hold and UTF-8 can write, and often what CSV treats
# specially.
TEXTS = st.text(
    st.one_of(
        st.sampled_from(list(",;\t\"'\n\r =+-@\\.\ufeffé")),
        st.characters(exclude_categories=["Cs"], exclude_characters="\0"),
    ),
    min_size=1,
    max_size=6,
)
PATHS = st.lists(
    TEXTS.filter(lambda part: "/" not in part and part not in (".", "..")), min_size=1, max_size=3
).map("/".join)


@given(
    images=st.lists(PATHS, min_size=1, max_size=5, unique=True),
    class_names=st.lists(
        TEXTS.filter(lambda name: name.strip() not in ("", "-1")),
        min_size=2,
        max_size=4,
        unique=True,
    ),
    data=st.data(),
)
@settings(deadline=None)
def test_labels_that_were_written_are_read_again(tmp_path_factory, images, class_names, data):
    number = st.integers(-1, len(class_names) - 1)
    labels = np.array(data.draw(st.lists(number, min_size=len(images), max_size=len(images))))
    doubts = data.draw(st.lists(TEXTS, min_size=len(images), max_size=len(images)))
    table = LabelTable(
        folder="/photos",
        images=images,
        class_names=class_names,
        labels=labels,
        runners_up=np.where(labels < 0, -1, (labels + 1) % len(class_names)),
        confidence=np.where(labels < 0, np.nan, 0.5),
        doubts=doubts,
    )
    path, *_ = write_labels(table, tmp_path_factory.getbasetemp() / "round.csv")
    np.testing.assert_array_equal(read_labels(path, images, "/photos", class_names), labels)


@given(lines=st.lists(TEXTS, min_size=1, max_size=6))
@example(lines=['"'])
@settings(deadline=None)
def test_any_text_is_read_or_refused_with_its_line(tmp_path_factory, lines):
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_text("path,label\n" + "\n".join(lines), encoding="utf-8", newline="")
    message, labels = "", None
    try:
        labels = read_labels(path, IMAGES, "/photos", NAMES)
    except LabelError as error:
        message = str(error)
    if labels is None:
        assert message.startswith(f"{path}: line ")
    else:
        assert (labels == -1).all()  # no line is long enough for a path and a label


# -- several files


def test_later_labels_override_earlier_ones():
    first, second, third = [0, 1, -1, 2], [-1, 2, -1, -1], [-1, 0, 1, -1]
    arrays = [np.array(first), np.array(second), np.array(third)]
    assert merge_labels(arrays).tolist() == [0, 0, 1, 2]
    assert merge_labels(reversed(arrays)).tolist() == [0, 1, 1, 2]
    assert [array.tolist() for array in arrays] == [first, second, third]


def test_one_array_is_copied():
    labels = np.array([0, -1])
    merged = merge_labels([labels])
    merged[:] = 5
    assert labels.tolist() == [0, -1]


@pytest.mark.parametrize("shapes", [[], [(3,), (2,)], [(2, 2)]])
def test_labels_of_different_images_are_not_merged(shapes):
    with pytest.raises(ValueError, match="expected one or more arrays of labels, of one shape"):
        merge_labels([np.zeros(shape, dtype=np.int64) for shape in shapes])
