import os

import pytest

from capkit.image_files import find_images, image_suffixes


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_every_suffix_in_any_case_in_all_folders_is_found(tmp_path):
    touch(tmp_path, "b.JPG", "a.jpeg", "c.TiF", "deep/er/d.Png", "e.heic", "f.webp")
    found = find_images(tmp_path)
    assert found.names == ("a.jpeg", "b.JPG", "c.TiF", "deep/er/d.Png", "e.heic", "f.webp")
    assert [path.name for path in found.paths] == [name.rpartition("/")[2] for name in found.names]
    assert all(path.is_absolute() for path in found.paths)


def test_other_files_are_counted_by_suffix(tmp_path):
    touch(tmp_path, "a.jpg", "b.txt", "c/d.TXT", "film.mov", "README")
    assert find_images(tmp_path).other_files == {".txt": 2, ".mov": 1, "without a suffix": 1}


def test_hidden_files_and_folders_are_left_out(tmp_path):
    touch(tmp_path, "a.jpg", "._a.jpg", ".trash/b.jpg", ".DS_Store")
    found = find_images(tmp_path)
    assert found.names == ("a.jpg",)
    assert not found.other_files


def test_formats_that_start_programs_are_no_images():
    assert {".eps", ".ps", ".pdf", ".svg"}.isdisjoint(image_suffixes())


def test_links_to_folders_are_followed_and_circles_end(tmp_path):
    touch(tmp_path, "photos/a.jpg", "elsewhere/b.jpg")
    (tmp_path / "photos/link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/back").symlink_to(tmp_path / "photos")
    assert find_images(tmp_path / "photos").names == ("a.jpg", "link/b.jpg")


def test_a_relative_folder_gives_absolute_paths(tmp_path, monkeypatch):
    touch(tmp_path, "photos/a.jpg")
    monkeypatch.chdir(tmp_path)
    found = find_images("photos")
    assert found.folder == tmp_path / "photos" and found.paths == (tmp_path / "photos/a.jpg",)


def test_a_name_that_is_no_utf8_is_written_with_escapes(tmp_path):
    try:
        touch(tmp_path, os.fsdecode(b"\xe9t\xe9.jpg"))
    except OSError:
        pytest.skip("this file system has names in UTF-8 only")
    assert find_images(tmp_path).names == ("\\xe9t\\xe9.jpg",)


def test_no_image_tells_what_there_is_instead(tmp_path):
    with pytest.raises(ValueError, match="got none and no other files"):
        find_images(tmp_path)
    touch(tmp_path, "a.cr2", "b.CR2", "c.txt")
    with pytest.raises(ValueError, match=r"2 \.cr2, 1 \.txt\): convert them"):
        find_images(tmp_path)


@pytest.mark.parametrize(
    ("name", "what"), [("a.jpg", "a file"), ("nowhere", "nothing of this name")]
)
def test_what_is_no_folder_is_an_error(tmp_path, name, what):
    touch(tmp_path, "a.jpg")
    with pytest.raises(NotADirectoryError, match=f"got {what}"):
        find_images(tmp_path / name)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads all")
def test_a_folder_that_cannot_be_read_is_an_error(tmp_path):
    touch(tmp_path, "a.jpg", "closed/b.jpg")
    (tmp_path / "closed").chmod(0)
    try:
        with pytest.raises(PermissionError):
            find_images(tmp_path)
    finally:
        (tmp_path / "closed").chmod(0o700)
