"""Fetchers of data sets, on tiny archives in the layouts of the publishers."""

from __future__ import annotations

import importlib
import inspect
import io
import subprocess
import sys
import tarfile

import numpy as np
import pytest
from archive_server import NAMES, PUBLISHED, ArchiveServer, Publisher, make_tar
from PIL import Image

from capkit.exceptions import DatasetDownloadError, DatasetError


@pytest.fixture
def server():
    with ArchiveServer() as server:
        yield server


@pytest.fixture(params=NAMES)
def publisher(request, server, monkeypatch):
    return Publisher(request.param, server, monkeypatch)


def publisher_of(*names):
    return pytest.mark.parametrize("publisher", names, indirect=True)


def relative(bunch, home):
    return [path.removeprefix(f"{home}/") for path in bunch.paths]


def labels(bunch):
    return [bunch.class_names[label] for label in bunch.target]


def labelled(bunch):
    return dict(zip(bunch.paths, labels(bunch), strict=True))


def test_bunches_are_consistent(publisher, tmp_path):
    for split in ("train", "test", "all"):
        bunch = publisher.fetch(tmp_path, split=split)
        assert bunch.target.dtype == np.int64
        assert bunch.target.shape == (len(bunch.paths),)
        assert bunch.target_names == bunch.class_names
        assert bunch.template.count("{}") == 1
        for path in bunch.paths:
            Image.open(path).verify()


def test_train_and_test_are_disjoint_and_together_all(publisher, tmp_path):
    train, test, everything = (
        publisher.fetch(tmp_path, split=split) for split in ("train", "test", "all")
    )
    assert not set(train.paths) & set(test.paths)
    assert train.paths and test.paths
    assert labelled(train) | labelled(test) == labelled(everything)
    assert len(everything.paths) == len(train.paths) + len(test.paths)


@publisher_of("flowers102")
def test_flowers_train_with_both_of_the_publishers_sets(publisher, tmp_path):
    """Images 2, 5 and then 7, 4 have the labels 1 2 1 3, counted from 1."""
    train = publisher.fetch(tmp_path)
    place = "flowers102/flowers-102/jpg"
    numbers = (2, 5, 7, 4)
    assert relative(train, tmp_path) == [f"{place}/image_{n:05d}.jpg" for n in numbers]
    np.testing.assert_array_equal(train.target, [0, 1, 0, 2])
    test = publisher.fetch(tmp_path, split="test")
    assert relative(test, tmp_path) == [f"{place}/image_{n:05d}.jpg" for n in (8, 1, 3, 6)]
    np.testing.assert_array_equal(test.target, [1, 1, 0, 2])
    assert len(test.class_names) == len(set(test.class_names)) == 102
    assert test.class_names[:3] == [
        "pink primrose",
        "hard-leaved pocket orchid",
        "canterbury bells",
    ]
    assert test.class_names[101] == "blackberry lily"
    assert test.template == "a photo of a {}, a type of flower"


@publisher_of("dtd")
def test_textures_are_split_by_the_first_partition(publisher, tmp_path):
    train, test = publisher.fetch(tmp_path), publisher.fetch(tmp_path, split="test")
    place = "dtd/dtd/dtd/images"
    assert relative(train, tmp_path) == [
        f"{place}/banded/banded_0001.jpg",
        f"{place}/polka-dotted/polka-dotted_0001.jpg",
        f"{place}/polka-dotted/polka-dotted_0002.jpg",
        f"{place}/banded/banded_0002.jpg",
    ]
    np.testing.assert_array_equal(train.target, [0, 1, 1, 0])
    assert relative(test, tmp_path) == [
        f"{place}/polka-dotted/polka-dotted_0003.jpg",
        f"{place}/banded/banded_0003.jpg",
    ]
    np.testing.assert_array_equal(test.target, [1, 0])
    assert test.class_names == ["banded", "polka-dotted"]
    assert test.template == "a photo of a {} texture"


@publisher_of("eurosat")
def test_every_fifth_of_eurosat_by_number_is_for_testing(publisher, tmp_path):
    """By number, not by the order of names, in which 10 and 11 follow 1."""
    test = publisher.fetch(tmp_path, split="test")
    classes = ("AnnualCrop", "Residential", "SeaLake")
    assert sorted(relative(test, tmp_path)) == sorted(
        f"eurosat/eurosat/2750/{name}/{name}_{number}.jpg"
        for name in classes
        for number in (5, 10)
    )
    assert labels(test) == [
        name for name in ("annual crop", "residential buildings", "sea or lake") for _ in range(2)
    ]
    assert len(publisher.fetch(tmp_path).paths) == 27
    assert test.template == "a satellite photo of {}"


def test_names_of_eurosat_are_plain_words():
    folders = ["AnnualCrop", "Forest", "HerbaceousVegetation", "Highway", "Industrial", "Pasture"]
    folders += ["PermanentCrop", "Residential", "River", "SeaLake"]
    from capkit.datasets._eurosat import _name

    assert [_name(folder) for folder in folders] == [
        "annual crop",
        "forest",
        "herbaceous vegetation",
        "highway",
        "industrial buildings",
        "pasture",
        "permanent crop",
        "residential buildings",
        "river",
        "sea or lake",
    ]


@publisher_of("resisc45")
def test_every_fifth_of_resisc_by_number_is_to_train_with(publisher, tmp_path):
    train, test = publisher.fetch(tmp_path), publisher.fetch(tmp_path, split="test")
    place = "resisc45/NWPU-RESISC45"
    assert relative(train, tmp_path) == [
        f"{place}/airplane/airplane_005.jpg",
        f"{place}/baseball_diamond/baseball_diamond_005.jpg",
    ]
    np.testing.assert_array_equal(train.target, [0, 1])
    assert relative(test, tmp_path) == [
        f"{place}/{name}/{name}_{number:03d}.jpg"
        for name in ("airplane", "baseball_diamond")
        for number in (1, 2, 3, 4, 6)
    ]
    np.testing.assert_array_equal(test.target, [0] * 5 + [1] * 5)
    assert test.class_names == ["airplane", "baseball diamond"]
    assert test.template == "a satellite photo of a {}"


@publisher_of("cub200")
def test_birds_are_read_from_the_publishers_tables(publisher, tmp_path):
    train, test = publisher.fetch(tmp_path), publisher.fetch(tmp_path, split="test")
    place = "cub200/CUB_200_2011/images"
    assert relative(train, tmp_path) == [
        f"{place}/001.Black_footed_Albatross/Black_Footed_Albatross_0046_18.jpg",
        f"{place}/003.Black_and_white_Warbler/Black_And_White_Warbler_0001_1.jpg",
        f"{place}/002.American_Three_toed_Woodpecker/American_Three_Toed_Woodpecker_0003_1.jpg",
    ]
    np.testing.assert_array_equal(train.target, [0, 2, 1])
    assert relative(test, tmp_path) == [
        f"{place}/001.Black_footed_Albatross/Black_Footed_Albatross_0009_34.jpg",
        f"{place}/003.Black_and_white_Warbler/Black_And_White_Warbler_0002_9.jpg",
    ]
    np.testing.assert_array_equal(test.target, [0, 2])
    assert test.class_names == [
        "Black-footed Albatross",
        "American Three-toed Woodpecker",
        "Black-and-white Warbler",
    ]
    assert test.template == "a photo of a {}, a type of bird"


@publisher_of("fgvc_aircraft")
def test_aircraft_are_split_by_the_publishers_and_named_by_variant(publisher, tmp_path):
    train, test = publisher.fetch(tmp_path), publisher.fetch(tmp_path, split="test")
    place = "fgvc_aircraft/fgvc-aircraft-2013b/data/images"
    numbers = ("0056978", "1025794", "2031775")
    assert relative(train, tmp_path) == [f"{place}/{number}.jpg" for number in numbers]
    np.testing.assert_array_equal(train.target, [2, 0, 1])
    assert relative(test, tmp_path) == [
        f"{place}/{number}.jpg" for number in ("1514522", "0817494")
    ]
    np.testing.assert_array_equal(test.target, [0, 2])
    assert test.class_names == ["707-320", "Cessna 172", "F-16A/B"]
    assert test.template == "a photo of a {}, a type of aircraft"


def test_no_image_is_opened(publisher, tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "open", lambda *arguments: pytest.fail("an image was opened"))
    assert publisher.fetch(tmp_path).paths


def test_a_second_call_asks_nobody_and_extracts_nothing(publisher, server, tmp_path, monkeypatch):
    first = publisher.fetch(tmp_path)
    server.requests.clear()
    from capkit.datasets import _fetching

    monkeypatch.setattr(_fetching, "extract", lambda *arguments: pytest.fail("extracted again"))
    second = publisher.fetch(tmp_path, download=False)
    assert second.paths == first.paths
    assert server.requests == []


def test_once_extracted_the_archive_is_not_needed(publisher, server, tmp_path):
    paths = publisher.fetch(tmp_path).paths
    (tmp_path / publisher.name / PUBLISHED[publisher.name].archive.name).unlink()
    assert publisher.fetch(tmp_path, download=False).paths == paths


def test_an_image_that_was_deleted_is_extracted_again(publisher, server, tmp_path):
    paths = publisher.fetch(tmp_path, split="all").paths
    server.requests.clear()
    with open(paths[0], "rb") as file:
        content = file.read()
    (tmp_path / paths[0]).unlink()
    assert publisher.fetch(tmp_path, split="all", download=False).paths == paths
    assert server.requests == []
    with open(paths[0], "rb") as file:
        assert file.read() == content


def test_files_put_there_by_hand_serve_without_a_network(publisher, server, tmp_path):
    """The error of a dead link says where each file goes."""
    files = {path: publisher.files[path.rpartition("/")[2]] for path in server.files}
    server.files.clear()
    for path, content in files.items():
        with pytest.raises(DatasetDownloadError) as caught:
            publisher.fetch(tmp_path)
        place = str(caught.value).partition("Put the file here: ")[2].partition(" and call")[0]
        assert place.startswith(f"{tmp_path}/{publisher.name}/")
        assert place.endswith(path.rpartition("/")[2])
        with open(place, "wb") as file:
            file.write(content)
    assert publisher.fetch(tmp_path, download=False).paths


def test_without_download_it_is_an_error_that_nothing_is_there(publisher, server, tmp_path):
    archive = PUBLISHED[publisher.name].archive.name
    expected = rf"^fetch_{publisher.name}: .*/{publisher.name}/{archive} is not there"
    with pytest.raises(DatasetError, match=expected):
        publisher.fetch(tmp_path, download=False)
    assert server.requests == []
    assert list(tmp_path.iterdir()) == []


@publisher_of("cub200", "dtd", "fgvc_aircraft", "flowers102")
def test_an_archive_that_lacks_an_annotated_image_is_an_error(publisher, tmp_path):
    archive = PUBLISHED[publisher.name].archive.name
    first = publisher.fetch(tmp_path / "whole").paths[0]
    publisher.publish({**publisher.files, archive: without(publisher.files[archive], first)})
    with pytest.raises(
        DatasetError, match=r"1 of \d images that the annotations name are missing"
    ):
        publisher.fetch(tmp_path / "part")


def without(packed, path):
    """The archive without the file of this name."""
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        files = {member.name: tar.extractfile(member).read() for member in tar if member.isfile()}
    [gone] = [name for name in files if name.endswith(path.rpartition("/")[2])]
    del files[gone]
    return make_tar(files)


@publisher_of("cub200")
def test_an_unsafe_archive_is_refused_with_the_right_checksum_too(publisher, tmp_path):
    publisher.publish({"CUB_200_2011.tgz": make_tar({"../../outside.txt": b"evil"})})
    with pytest.raises(DatasetError, match="would be written elsewhere"):
        publisher.fetch(tmp_path / "home")
    assert not list(tmp_path.rglob("outside.txt"))


@publisher_of("flowers102")
def test_without_download_missing_labels_are_an_error_too(publisher, server, tmp_path):
    publisher.fetch(tmp_path)
    server.requests.clear()
    (tmp_path / "flowers102" / "flowers-102" / "setid.mat").unlink()
    with pytest.raises(DatasetError, match=r"setid\.mat is not there, and download=False"):
        publisher.fetch(tmp_path, download=False)
    assert server.requests == []


def test_an_unknown_split_is_an_error_before_anything_is_downloaded(publisher, server, tmp_path):
    with pytest.raises(ValueError, match="split is expected to be one of train, test, all"):
        publisher.fetch(tmp_path, split="val")
    assert server.requests == []


def test_a_missing_extra_is_named(publisher, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(ImportError, match=rf"fetch_{publisher.name} requires pooch.*\[datasets\]"):
        publisher.fetch(tmp_path)


def test_the_data_home_is_that_of_the_environment(publisher, tmp_path, monkeypatch):
    monkeypatch.setenv("CAPKIT_DATA", str(tmp_path))
    bunch = publisher.fetch()
    assert all(path.startswith(f"{tmp_path}/{publisher.name}/") for path in bunch.paths)


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("cub200", ("11,788", "5,994", "5,794")),
        ("dtd", ("5,640", "3,760", "1,880")),
        ("eurosat", ("27,000", "21,600", "5,400")),
        ("fgvc_aircraft", ("10,000", "6,667", "3,333")),
        ("flowers102", ("8,189", "2,040", "6,149")),
        ("resisc45", ("31,500", "6,300", "25,200")),
    ],
)
def test_descriptions_count_the_images_and_state_source_terms_and_citation(
    name, counts, server, monkeypatch, tmp_path
):
    description = Publisher(name, server, monkeypatch).fetch(tmp_path).DESCR
    for count in counts:
        assert count in description
    total, train, test = (int(count.replace(",", "")) for count in counts)
    assert total == train + test
    for heading in ("**Source.**", "**Terms.**", "**Split.**", "**Citation.**"):
        assert heading in description
    assert PUBLISHED[name].archive.name in description


@pytest.mark.parametrize("name", ["dtd", "eurosat", "fgvc_aircraft", "flowers102"])
def test_addresses_and_checksums_are_those_of_torchvision(name):
    source = inspect.getsource(importlib.import_module(f"torchvision.datasets.{name}"))
    for file in (PUBLISHED[name].archive, *PUBLISHED[name].annotations):
        address, _, file_name = file.url.rpartition("/")
        assert address in source and file_name in source
        algorithm, _, digest = file.checksum.partition(":")
        # Of textures the longer checksum is published too; of aircraft torchvision has none.
        assert digest in source or (name, algorithm) in {
            ("dtd", "sha256"),
            ("fgvc_aircraft", "md5"),
        }


def test_import_loads_nothing_heavy():
    code = (
        "import sys, capkit.datasets; "
        "print(sorted({'torch', 'torchvision', 'pooch', 'httpx', 'filelock'} & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
