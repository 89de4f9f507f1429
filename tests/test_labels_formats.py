"""Files of labels say what the table says, in the forms that other programs document."""

import csv
import json
import sys
from pathlib import Path
from urllib.parse import parse_qs, urlsplit
from xml.etree import ElementTree

import numpy as np
import pytest

import capkit
from capkit.exceptions import ClassNamesError
from capkit.labels import FORMATS, LabelTable, format_of, write_labels

ODD_NAMES = ("forest", "river, <\"&'>", "Wäldchen 森\ttab")


def make_table(folder="/my photos", class_names=ODD_NAMES, doubts=None):
    return LabelTable(
        folder=folder,
        images=["1.jpg", "1.png", "trip/Ä b&c#1%?.jpg", "trip/cut.jpg"],
        class_names=class_names,
        labels=[0, 1, 2, -1],
        runners_up=[1, 2, 0, -1],
        confidence=[0.98765, 0.5, 1, np.nan],
        doubts=doubts or ["", "may be lake", "", "could not be read: it is cut off"],
    )


def written(table, path, format):
    """What the last file holds that was written."""
    return write_labels(table, path, format)[-1].read_text(encoding="utf-8")


# -- CSV


def test_csv_has_a_line_an_image_with_four_decimals(tmp_path):
    table = make_table(class_names=["forest", "river", "lake"])
    assert written(table, tmp_path / "labels.csv", "csv") == (
        "path,label,runner_up,confidence,doubt\n"
        "1.jpg,forest,river,0.9877,\n"
        "1.png,river,lake,0.5000,may be lake\n"
        "trip/Ä b&c#1%?.jpg,lake,forest,1.0000,\n"
        "trip/cut.jpg,,,,could not be read: it is cut off\n"
    )


def test_csv_quotes_names_and_pandas_reads_them(tmp_path):
    pd = pytest.importorskip("pandas")
    table = make_table(doubts=["a\nb", 'say "no"', "c\rd", ","])
    path, *_ = write_labels(table, tmp_path / "labels.csv")
    frame = pd.read_csv(path, keep_default_na=False)
    assert frame["label"].tolist() == [*ODD_NAMES, ""]
    assert frame["doubt"].tolist() == list(table.doubts)


@pytest.mark.parametrize("first", ["=", "+", "-", "@", "\t", "\r"])
def test_no_path_in_a_csv_is_a_formula_but_each_leads_to_its_file(tmp_path, first):
    name = f"{first}cmd|'calc'!A1.jpg"
    (tmp_path / name).touch()
    table = LabelTable(tmp_path, [name, "=a/1.jpg"], ["a", "b"], [0, 1], [1, 0], [1, 1], ["", ""])
    path, *_ = write_labels(table, tmp_path / "labels.csv")
    with open(path, encoding="utf-8", newline="") as stream:
        first_path, second_path = [row["path"] for row in csv.DictReader(stream)]
    assert first_path == f"./{name}" and (tmp_path / first_path).exists()
    assert second_path == "./=a/1.jpg"


# -- Parquet


def test_parquet_keeps_every_value(tmp_path):
    pd = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    table = make_table()
    path, *_ = write_labels(table, tmp_path / "labels.parquet", "parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(path), table.to_frame(), check_dtype=False)


def test_parquet_has_text_columns_even_where_nothing_was_read(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    path, *_ = write_labels(make_table().select([3]), tmp_path / "labels.parquet", "parquet")
    types = {field.name: str(field.type) for field in parquet.read_schema(path)}
    assert types.pop("confidence") == "double"
    assert {name.removeprefix("large_") for name in types.values()} == {"string"}
    assert parquet.read_table(path).to_pylist() == [
        {
            "path": "trip/cut.jpg",
            "label": None,
            "runner_up": None,
            "confidence": None,
            "doubt": "could not be read: it is cut off",
        }
    ]


@pytest.mark.parametrize("package", ["pandas", "pyarrow"])
def test_parquet_without_its_packages_says_how_to_install_them(tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    message = rf'Parquet requires {package}.* `python -m pip install "capkit-clip\[parquet\]"`'
    if package == "pyarrow":
        pytest.importorskip("pandas")
    with pytest.raises(ImportError, match=message):
        write_labels(make_table(), tmp_path / "labels.parquet", "parquet")
    assert list(tmp_path.iterdir()) == []


# -- Label Studio: https://labelstud.io/guide/predictions and https://labelstud.io/tags/choices


def test_label_studio_gets_a_task_an_image_that_was_read(tmp_path):
    tasks = json.loads(written(make_table(), tmp_path / "labels.json", "label-studio"))
    assert [task["data"]["path"] for task in tasks] == ["1.jpg", "1.png", "trip/Ä b&c#1%?.jpg"]
    assert tasks[1] == {
        "data": {
            "image": "/data/local-files/?d=my%20photos/1.png",
            "path": "1.png",
            "runner_up": "Wäldchen 森\ttab",
            "doubt": "may be lake",
        },
        "predictions": [
            {
                "model_version": f"capkit {capkit.__version__}",
                "score": 0.5,
                "result": [
                    {
                        "from_name": "label",
                        "to_name": "image",
                        "type": "choices",
                        "value": {"choices": ["river, <\"&'>"]},
                    }
                ],
            }
        ],
    }


def test_label_studio_finds_the_images_below_the_folder_that_theirs_lies_in(tmp_path):
    table = make_table(folder=tmp_path / "my photos")
    tasks = json.loads(written(table, tmp_path / "labels.json", "label-studio"))
    for task, image in zip(tasks, table.images, strict=False):
        url = urlsplit(task["data"]["image"])
        assert (url.scheme, url.netloc, url.path) == ("", "", "/data/local-files/")
        assert url.fragment == ""
        assert tmp_path / parse_qs(url.query)["d"][0] == table.folder / image


def test_label_studio_gets_a_configuration_that_the_predictions_fit(tmp_path):
    config, tasks = write_labels(make_table(), tmp_path / "labels.json", "label-studio")
    assert config == tmp_path / "labels.config.xml" and tasks == tmp_path / "labels.json"
    view = ElementTree.parse(config).getroot()
    image, choices = view
    assert (view.tag, image.tag, choices.tag) == ("View", "Image", "Choices")
    assert choices.get("toName") == image.get("name") == "image"
    assert image.get("value") == "$image"  # the key in the data of a task
    assert choices.get("choice") == "single"
    assert [choice.get("value") for choice in choices] == list(ODD_NAMES)
    for task in json.loads(tasks.read_text(encoding="utf-8")):
        (result,) = task["predictions"][0]["result"]
        assert result["from_name"] == choices.get("name")
        assert result["to_name"] == image.get("name")
        assert result["type"] == choices.tag.lower()


def test_label_studio_takes_line_breaks_in_names_but_no_control_characters(tmp_path):
    names = ["a\nb", "c\rd", "e\tf"]
    config, _ = write_labels(make_table(class_names=names), tmp_path / "x.json", "label-studio")
    assert [choice.get("value") for choice in ElementTree.parse(config).iter("Choice")] == names
    with pytest.raises(ClassNamesError, match=r"without control characters, got 'a\\x0bb'"):
        write_labels(
            make_table(class_names=["a\vb", "c", "d"]), tmp_path / "y.json", "label-studio"
        )
    assert not list(tmp_path.glob("y*"))


def test_label_studio_accepts_it_itself(tmp_path):
    sdk = pytest.importorskip("label_studio_sdk.label_interface")
    config, tasks = write_labels(make_table(), tmp_path / "labels.json", "label-studio")
    interface = sdk.LabelInterface(config.read_text(encoding="utf-8"))
    interface.validate()
    for task in json.loads(tasks.read_text(encoding="utf-8")):
        assert interface.validate_task({"data": task["data"]})
        for prediction in task["predictions"]:
            assert interface.validate_prediction(prediction, return_errors=True) == []


# -- FiftyOne: FiftyOneImageClassificationDataset in its guide to loading data sets from disk


def test_fiftyone_gets_indices_into_classes_confidences_and_attributes(tmp_path):
    content = json.loads(written(make_table(), tmp_path / "labels.json", "fiftyone"))
    assert content["classes"] == list(ODD_NAMES)
    assert content["labels"] == {
        "/my photos/1.jpg": {
            "label": 0,
            "confidence": 0.98765,
            "attributes": {"runner_up": "river, <\"&'>"},
        },
        "/my photos/1.png": {
            "label": 1,
            "confidence": 0.5,
            "attributes": {"runner_up": "Wäldchen 森\ttab", "doubt": "may be lake"},
        },
        "/my photos/trip/Ä b&c#1%?.jpg": {
            "label": 2,
            "confidence": 1.0,
            "attributes": {"runner_up": "forest"},
        },
    }


# -- all of them


@pytest.mark.parametrize("format", FORMATS)
def test_a_file_is_replaced_as_a_whole_and_nothing_is_left_beside_it(tmp_path, format):
    if format == "parquet":
        pytest.importorskip("pyarrow")
    path = tmp_path / "labels"
    path.write_text("old" * 10_000)
    files = write_labels(make_table(), path, format)
    assert path in files and set(files) == set(tmp_path.iterdir())
    assert b"old" not in path.read_bytes()


@pytest.mark.parametrize("format", FORMATS)
def test_a_table_without_any_image_is_written_too(tmp_path, format):
    if format == "parquet":
        pytest.importorskip("pyarrow")
    path = tmp_path / "labels"
    write_labels(make_table().select([]), path, format)
    empty = {"csv": "path,label,runner_up,confidence,doubt\n", "label-studio": "[]\n"}
    if format in empty:
        assert path.read_text() == empty[format]
    elif format == "fiftyone":
        assert json.loads(path.read_text())["labels"] == {}
    else:
        assert len(pytest.importorskip("pandas").read_parquet(path)) == 0


def test_unknown_formats_and_folders_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="of csv, parquet, label-studio, fiftyone, got 'xlsx'"):
        write_labels(make_table(), tmp_path / "labels.xlsx", "xlsx")
    with pytest.raises(FileNotFoundError, match=r"in a folder that exists, got .*none/labels.csv"):
        write_labels(make_table(), tmp_path / "none" / "labels.csv")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("path", "format"), [("a.csv", "csv"), (Path("b/c.CSV"), "csv"), ("d.parquet", "parquet")]
)
def test_endings_tell_the_format(path, format):
    assert format_of(path) == format
    assert format in FORMATS


@pytest.mark.parametrize("path", ["labels.json", "labels", "csv", Path("labels.csv.gz")])
def test_other_endings_ask_for_the_format(path):
    with pytest.raises(ValueError, match=rf"got '{path}': name the format, one of csv, parquet"):
        format_of(path)
