"""A loopback server of files that can be resumed, cut and changed, and tiny official archives.

:class:`Publisher` lets a fetcher of ``capkit.datasets`` take them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import io
import re
import tarfile
import threading
import zipfile
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
from PIL import Image
from scipy.io import savemat

from capkit import datasets


@dataclasses.dataclass
class Request:
    """What was asked for, and how much of a body was sent."""

    path: str
    range: str | None
    if_range: str | None
    accept_encoding: str | None
    status: int = 0
    sent: int = 0


class ArchiveServer:
    """Serves files by their path, with ETags and ranges as static servers do.

    Attributes
    ----------
    files : dict of str to bytes
    requests : list of Request
    connections : set
        Addresses of clients; one for each connection.
    cuts : list of int
        After so many bytes the connection is cut, an entry for each of the next requests.
    statuses : list of int
        Statuses that the next requests are answered with, instead of a file.
    moved : dict of str to str
        Paths that are redirected.
    has_ranges, has_tags, has_conditions : bool
        What of resuming the server knows: Range, ETag and If-Range.
    headers : dict of str to str
        Sent with each file.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.requests: list[Request] = []
        self.connections: set[tuple[str, int]] = set()
        self.cuts: list[int] = []
        self.statuses: list[int] = []
        self.moved: dict[str, str] = {}
        self.has_ranges = self.has_tags = self.has_conditions = True
        self.headers: dict[str, str] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def put(self, path: str, content: bytes) -> str:
        """Serve a file; its address."""
        self.files[path] = content
        return f"{self.url}/{path}"

    def __enter__(self) -> ArchiveServer:
        threading.Thread(target=self._server.serve_forever, args=[0.02], daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(server) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            # Connections are kept; without the delay that small answers have otherwise.
            protocol_version, disable_nagle_algorithm = "HTTP/1.1", True

            def do_GET(self) -> None:
                server.connections.add(self.client_address)
                names = ("Range", "If-Range", "Accept-Encoding")
                request = Request(self.path[1:], *(self.headers[name] for name in names))
                server.requests.append(request)
                self._answer(request)

            def _answer(self, request: Request) -> None:
                if request.path in server.moved:
                    return self._head(request, 302, {"Location": server.moved[request.path]})
                if server.statuses:
                    return self._head(request, server.statuses.pop(0), {})
                if request.path not in server.files:
                    return self._head(request, 404, {})
                body = server.files[request.path]
                tag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
                headers = {"ETag": tag} if server.has_tags else {}
                start = self._start(request, tag)
                if start is not None and start >= len(body):
                    return self._head(request, 416, {"Content-Range": f"bytes */{len(body)}"})
                if start is None:
                    return self._send(request, 200, headers, body)
                headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
                return self._send(request, 206, headers, body[start:])

            def _start(self, request: Request, tag: str) -> int | None:
                if request.range is None or not server.has_ranges:
                    return None
                if server.has_conditions and request.if_range not in (None, tag):
                    return None
                return int(re.fullmatch(r"bytes=(\d+)-", request.range)[1])

            def _head(self, request: Request, status: int, headers: dict[str, str]) -> None:
                request.status = status
                self.send_response(status)
                for key, value in {"Content-Length": "0", **headers}.items():
                    self.send_header(key, value)
                self.end_headers()

            def _send(self, request: Request, status: int, headers: dict, body: bytes) -> None:
                length = {"Content-Length": str(len(body))}
                self._head(request, status, {**server.headers, **headers, **length})
                if server.cuts:
                    body = body[: server.cuts.pop(0)]
                    self.close_connection = True
                request.sent = len(body)
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                pass

        return Handler


def checksum(content: bytes, algorithm: str = "sha256") -> str:
    return f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()}"


def make_tar(files: Mapping[str, bytes], *members: tarfile.TarInfo) -> bytes:
    """A ``.tar.gz`` of files, and of members that have no content."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for member in members:
            tar.addfile(member)
    return packed.getvalue()


def make_zip(files: Mapping[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return packed.getvalue()


def jpeg(number: int) -> bytes:
    """A tiny image of one grey, which tells images apart."""
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), (number % 256,) * 3).save(stream, "JPEG")
    return stream.getvalue()


def flowers102() -> dict[str, bytes]:
    """Eight images of three classes; 1 to 8 have the labels 2 1 1 3 2 3 1 2."""
    images = {f"jpg/image_{number:05d}.jpg": jpeg(number) for number in range(1, 9)}
    return {
        "102flowers.tgz": make_tar(images),
        "imagelabels.mat": _mat(labels=[[2, 1, 1, 3, 2, 3, 1, 2]]),
        "setid.mat": _mat(trnid=[[2, 5]], valid=[[7, 4]], tstid=[[8, 1, 3, 6]]),
    }


def _mat(**arrays: list) -> bytes:
    stream = io.BytesIO()
    savemat(stream, {name: np.array(values) for name, values in arrays.items()})
    return stream.getvalue()


def dtd() -> dict[str, bytes]:
    """Two classes of three images; "polka-dotted" has none in the validation set."""
    kinds = ("banded", "polka-dotted")
    names = [f"{kind}/{kind}_{number:04d}.jpg" for kind in kinds for number in (1, 2, 3)]
    files = {f"dtd/images/{name}": jpeg(row) for row, name in enumerate(names)}
    files |= {
        "dtd/labels/train1.txt": _lines(names[0], names[3], names[4]),
        "dtd/labels/val1.txt": _lines(names[1]),
        "dtd/labels/test1.txt": _lines(names[5], names[2]),
        # Another partition, which is not to be read.
        "dtd/labels/train2.txt": _lines(names[2]),
        "dtd/imdb/imdb.mat": b"annotations for MATLAB",
    }
    return {"dtd-r1.0.1.tar.gz": make_tar(files)}


def _lines(*lines: str) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


def eurosat() -> dict[str, bytes]:
    """Three classes of eleven images, numbered from 1."""
    classes = ("AnnualCrop", "Residential", "SeaLake")
    names = [f"2750/{name}/{name}_{number}.jpg" for name in classes for number in range(1, 12)]
    return {"EuroSAT.zip": make_zip({name: jpeg(row) for row, name in enumerate(names)})}


def eurosat_of_digits(n_of_class: int) -> dict[str, bytes]:
    """Pictures of three digits in EuroSAT's layout, which the embedded model can tell apart."""
    digits, files = datasets.load_digits(), {}
    for index, name in enumerate(("DigitZero", "DigitOne", "DigitTwo")):
        rows = np.flatnonzero(digits.target == index)[:n_of_class]
        for number, row in enumerate(rows, start=1):
            stream = io.BytesIO()
            Image.fromarray(digits.images[row]).save(stream, "JPEG", quality=95)
            files[f"2750/{name}/{name}_{number}.jpg"] = stream.getvalue()
    return {"EuroSAT.zip": make_zip(files)}


def resisc45() -> dict[str, bytes]:
    """Two classes of six images, numbered from 1, and what a Mac leaves in a zip."""
    classes = ("airplane", "baseball_diamond")
    names = [f"{name}/{name}_{number:03d}.jpg" for name in classes for number in range(1, 7)]
    files = {f"NWPU-RESISC45/{name}": jpeg(row) for row, name in enumerate(names)}
    files["__MACOSX/NWPU-RESISC45/._airplane"] = b"Finder's"
    return {"NWPU-RESISC45.zip": make_zip(files)}


def cub200() -> dict[str, bytes]:
    """Three classes; images 1 to 5 have the labels 1 3 1 2 3, and 1, 2 and 4 are for training."""
    images = {
        1: "001.Black_footed_Albatross/Black_Footed_Albatross_0046_18.jpg",
        2: "003.Black_and_white_Warbler/Black_And_White_Warbler_0001_1.jpg",
        3: "001.Black_footed_Albatross/Black_Footed_Albatross_0009_34.jpg",
        4: "002.American_Three_toed_Woodpecker/American_Three_Toed_Woodpecker_0003_1.jpg",
        5: "003.Black_and_white_Warbler/Black_And_White_Warbler_0002_9.jpg",
    }
    top = "CUB_200_2011"
    files = {f"{top}/images/{name}": jpeg(number) for number, name in images.items()}
    classes = ("001.Black_footed_Albatross", "002.American_Three_toed_Woodpecker")
    classes = (*classes, "003.Black_and_white_Warbler")
    files |= {
        f"{top}/images.txt": _lines(*(f"{number} {name}" for number, name in images.items())),
        f"{top}/image_class_labels.txt": _lines("1 1", "2 3", "3 1", "4 2", "5 3"),
        f"{top}/train_test_split.txt": _lines("1 1", "2 1", "3 0", "4 1", "5 0"),
        f"{top}/classes.txt": _lines(*(f"{row} {name}" for row, name in enumerate(classes, 1))),
        "attributes.txt": b"1 has_bill_shape::curved_(up_or_down)\n",
    }
    return {"CUB_200_2011.tgz": make_tar(files)}


def fgvc_aircraft() -> dict[str, bytes]:
    """Three variants, one of which has a blank in its name."""
    top = "fgvc-aircraft-2013b/data"
    numbers = ("1025794", "0056978", "1514522", "0817494", "2031775")
    files = {f"{top}/images/{number}.jpg": jpeg(row) for row, number in enumerate(numbers)}
    train = ("0056978 F-16A/B", "1025794 707-320", "2031775 Cessna 172")
    files |= {
        f"{top}/variants.txt": _lines("707-320", "Cessna 172", "F-16A/B"),
        f"{top}/images_variant_trainval.txt": _lines(*train),
        f"{top}/images_variant_test.txt": _lines("1514522 707-320", "0817494 F-16A/B"),
    }
    return {"fgvc-aircraft-2013b.tar.gz": make_tar(files)}


# -- archives for fetchers

NAMES = ["cub200", "dtd", "eurosat", "fgvc_aircraft", "flowers102", "resisc45"]
PUBLISHED = {
    name: getattr(importlib.import_module(f"capkit.datasets._{name}"), f"_{name.upper()}")
    for name in NAMES
}


class Publisher:
    """Tiny archives of one data set on a loopback server, and its fetcher, which takes these.

    Parameters
    ----------
    name : str
        Of :data:`NAMES`.
    server : ArchiveServer
    monkeypatch : pytest.MonkeyPatch
    """

    def __init__(self, name, server, monkeypatch):
        self.name, self.server, self.monkeypatch = name, server, monkeypatch
        self.publish(globals()[name]())
        self.fetch = getattr(datasets, f"fetch_{name}")

    def publish(self, files):
        """Put files on the server, and their addresses and checksums into the fetcher."""
        self.files = files
        real = PUBLISHED[self.name]
        changed = dataclasses.replace(
            real,
            archive=self.at_server(real.archive),
            annotations=tuple(self.at_server(file) for file in real.annotations),
        )
        module = importlib.import_module(f"capkit.datasets._{self.name}")
        self.monkeypatch.setattr(module, f"_{self.name.upper()}", changed)
        if self.name == "flowers102":
            self.tell_torchvision(files)

    def at_server(self, file):
        name = file.url.rpartition("/")[2]
        url = self.server.put(f"{self.name}/{name}", self.files[name])
        algorithm = file.checksum.partition(":")[0]
        return dataclasses.replace(file, url=url, checksum=checksum(self.files[name], algorithm))

    def tell_torchvision(self, files):
        """Its data set looks at the checksums of the labels once more."""
        from torchvision.datasets import Flowers102

        known = {
            key: (name, checksum(files[name], "md5").partition(":")[2])
            for key, (name, _) in Flowers102._file_dict.items()
        }
        self.monkeypatch.setattr(Flowers102, "_file_dict", known)
