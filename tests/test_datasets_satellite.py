import io
from pathlib import Path

import numpy as np
import pytest
import torch
from archive_server import ArchiveServer

from capkit.datasets import _download, _satellite, fetch_whurs19_features
from capkit.exceptions import DatasetDownloadError, DatasetError
from capkit.prompt_choice import mix_prompts

WIDTH = 24
NAMES = "airport beach bridge commercial desert farmland football_field forest industrial meadow"
NAMES += " mountain park parking pond port railway_station residential river viaduct"
NAMES = [name.replace("_", " ") for name in NAMES.split()]
REAL = Path(__file__).resolve().parents[2] / "shared" / "realclip" / "whurs19_clip_vitb32.npz"


def as_file(content):
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


def made_up_files(model="CLIP/ViT-B-32"):
    """Features in the layout of the repository; three pictures of four are labeled right."""
    rng = np.random.default_rng(0)
    texts = np.linalg.qr(rng.standard_normal((WIDTH, WIDTH)))[0][:19].astype(np.float32)
    target = np.arange(1005) % 19
    images = texts[np.where(np.arange(1005) % 4 == 0, (target + 1) % 19, target)]
    folder = f"results/WHURS19/{model}"
    files = {
        "datasets/WHURS19/class_changes.txt": "\n".join(NAMES).encode() + b"\n",
        f"{folder}/classes.pt": as_file(torch.from_numpy(target)),
        f"{folder}/images.pt": as_file(torch.from_numpy(3 * images).half()),
        # The texts lie the other way round, as columns.
        f"{folder}/texts_averageprompt.pt": as_file(torch.from_numpy(texts.T.copy()).half()),
    }
    for number, prompt in enumerate(_satellite._prompts()):
        noisy = texts + 0.01 * number * rng.standard_normal(texts.shape).astype(np.float32)
        files[f"{folder}/texts_{prompt.replace(' ', '_')}.pt"] = as_file(torch.from_numpy(noisy.T))
    return files


@pytest.fixture
def repository(monkeypatch):
    with ArchiveServer() as server:
        server.files.update(made_up_files())
        monkeypatch.setattr(_satellite, "_SOURCE", f"{server.url}/")
        monkeypatch.setattr(_download, "_PAUSES_SECONDS", ())
        published = dict(_satellite._PUBLISHED) | {"CLIP/ViT-B-32": (0.7493, 0.9)}
        monkeypatch.setattr(_satellite, "_PUBLISHED", published)
        yield server


@pytest.fixture
def fetch(repository, tmp_path):
    return lambda model="ViT-B-32", **parameters: fetch_whurs19_features(
        model, data_home=tmp_path, **parameters
    )


def test_gives_what_the_repository_holds(fetch):
    data = fetch()
    space = data.space
    assert space.image_features.shape == (1005, WIDTH)
    assert space.text_features.shape == (19, WIDTH)
    assert space.logit_scale == 100
    assert list(space.class_names) == data.class_names == data.target_names == NAMES
    np.testing.assert_array_equal(data.target, np.arange(1005) % 19)
    assert data.target.dtype == np.int64
    for features in (space.image_features, space.text_features, data.prompt_features):
        assert features.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(features, axis=-1), 1, rtol=1e-6)
    # Every fourth picture was given the next class's feature.
    right = space.predict() == data.target
    np.testing.assert_array_equal(right, np.arange(1005) % 4 != 0)
    assert data.published == {"zero-shot": 0.7493, "TransCLIP": 0.9}
    assert "MIT licence" in data.DESCR


def test_prompts_stand_beside_their_features(fetch):
    data = fetch()
    assert data.prompt_features.shape == (106, 19, WIDTH)
    assert len(set(data.prompts)) == 106
    assert all(prompt.endswith(" {}.") for prompt in data.prompts)
    # The first in alphabetical order has no noise, the last the most.
    texts = data.space.text_features
    closeness = (data.prompt_features * texts).sum(axis=-1).mean(axis=1)
    assert closeness[0] > 0.999
    assert closeness[-1] < 0.6
    assert mix_prompts(data.prompt_features).shape == texts.shape


def test_a_second_call_downloads_nothing(fetch, repository):
    first = fetch()
    assert len(repository.requests) == 110 == len({each.path for each in repository.requests})
    assert len(repository.connections) == 1
    repository.requests.clear()
    second = fetch(download=False)
    assert repository.requests == []
    np.testing.assert_array_equal(first.space.image_features, second.space.image_features)


@pytest.mark.parametrize("name", _satellite._PUBLISHED)
def test_each_model_has_a_folder_of_its_own(name):
    files = [file.name for file in _satellite._files(name)]
    assert f"results/WHURS19/{name}/images.pt" in files
    assert f"results/WHURS19/{name}/texts_an_aerial_image_of_the_hard_to_see.pt" in files
    assert f"results/WHURS19/{name}/texts_a_satellite_photo_of_a.pt" in files
    assert len(files) == len(set(files)) == 110


def test_a_model_goes_by_its_family_too(fetch, repository):
    a, b = fetch("ViT-B-32"), fetch("CLIP/ViT-B-32")
    np.testing.assert_array_equal(a.space.image_features, b.space.image_features)
    with pytest.raises(DatasetDownloadError, match="404"):
        fetch("RemoteCLIP/ViT-L-14")
    assert repository.requests[-1].path == "results/WHURS19/RemoteCLIP/ViT-L-14/classes.pt"


def test_an_unknown_model_is_refused_with_the_names_of_all(fetch):
    with pytest.raises(ValueError, match=r"RN50, ViT-B-32.*SkyCLIP50/ViT-L-14, got 'ViT-B-16'"):
        fetch("ViT-B-16")


def test_features_that_label_worse_or_better_than_published_are_refused(fetch, monkeypatch):
    fetch()
    for published in (0.743, 0.756):
        monkeypatch.setitem(_satellite._PUBLISHED, "CLIP/ViT-B-32", (published, 0.9))
        with pytest.raises(DatasetError, match=rf"label {published:.2%} right in .*got 74\.93%"):
            fetch()


class Unwanted:
    """Would write a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_nothing_but_tensors_is_unpickled(fetch, repository, tmp_path):
    trap = tmp_path / "trap"
    repository.files["results/WHURS19/CLIP/ViT-B-32/classes.pt"] = as_file(Unwanted(trap))
    with pytest.raises(DatasetError, match=r"expected a tensor in .*classes\.pt"):
        fetch()
    assert not trap.exists()


BROKEN = {
    "a part of a file": ("images", as_file(torch.ones(1005, WIDTH))[:2000], "a tensor"),
    "fewer pictures": ("images", as_file(torch.ones(1004, WIDTH)), r"shape \(1005, n\)"),
    "not finite": ("images", as_file(torch.full((1005, WIDTH), np.nan)), "finite features"),
    "zeros": ("images", as_file(torch.zeros(1005, WIDTH)), "finite features"),
    "another width": (
        "texts_a_satellite_photo_of_a",
        as_file(torch.ones(19, WIDTH + 1)),
        rf"shape \(19, {WIDTH}\)",
    ),
    "a class too many": ("classes", as_file(torch.arange(1005) % 20), "labels from 0 to 18"),
    "a class too few": ("classes", as_file(torch.arange(1005) % 18), "labels from 0 to 18"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_files_that_hold_something_else_are_named(fetch, repository, case):
    part, content, expected = BROKEN[case]
    repository.files[f"results/WHURS19/CLIP/ViT-B-32/{part}.pt"] = content
    with pytest.raises(DatasetError, match=rf"expected .*{expected}.*{part}\.pt.*Delete it"):
        fetch()


def test_tensors_may_come_as_a_list_of_rows(fetch, repository, tmp_path):
    expected = fetch().space.image_features
    file = tmp_path / "whurs19_features/results/WHURS19/CLIP/ViT-B-32/images.pt"
    torch.save(list(torch.load(file)), file)
    np.testing.assert_array_equal(fetch(download=False).space.image_features, expected)


@pytest.mark.skipif(not REAL.exists(), reason="the real features are not at hand")
def test_prompts_are_those_of_the_real_files():
    with np.load(REAL) as real:
        assert [prompt.replace(" ", "_") for prompt in _satellite._prompts()] == sorted(
            real["prompts"].tolist()
        )
