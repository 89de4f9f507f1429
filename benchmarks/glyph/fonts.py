"""Font families: fetch the pinned npm packages and read their faces."""

from __future__ import annotations

import json
import subprocess
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from fontTools.ttLib import TTFont

SUBSETS = ("latin", "latin-ext", "greek", "cyrillic")
WEIGHTS = (400, 700)
LICENCES = {"OFL-1.1", "Apache-2.0"}
FAMILIES_FILE = Path(__file__).with_name("families.json")


@dataclass(frozen=True)
class Family:
    """One pinned family: ``role`` is train, heldout, handwriting-train or handwriting-test."""

    name: str
    version: str
    licence: str
    attribution: str
    role: str


def read_families(path: Path = FAMILIES_FILE) -> list[Family]:
    """Read the pinned list of families."""
    return [Family(**entry) for entry in json.loads(path.read_text(encoding="utf-8"))]


def fetch(name: str, version: str, fonts_dir: Path) -> Path:
    """Fetch one package with the npm client and unpack it; a family already there is kept."""
    target = fonts_dir / name
    if (target / "metadata.json").exists():
        return target
    target.mkdir(parents=True, exist_ok=True)
    package = f"@fontsource/{name}@{version}"
    command = ["npm", "pack", package, "--silent", "--pack-destination", str(target)]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    (archive,) = target.glob("*.tgz")
    with tarfile.open(archive) as package_files:
        wanted = []
        for member in package_files.getmembers():
            member.name = member.name.removeprefix("package/").removeprefix("files/")
            if member.name.endswith(".woff2") or member.name in ("LICENSE", "metadata.json"):
                wanted.append(member)
        # metadata.json marks a complete family, so it is written last.
        wanted.sort(key=lambda member: member.name == "metadata.json")
        package_files.extractall(target, members=wanted, filter="data")
    archive.unlink()
    return target


def fetch_all(families: list[Family], fonts_dir: Path, workers: int = 8) -> None:
    """Fetch every family and check that its licence is the pinned one."""
    with ThreadPoolExecutor(workers) as pool:
        targets = pool.map(lambda family: fetch(family.name, family.version, fonts_dir), families)
        for family, target in zip(families, targets, strict=True):
            licence = json.loads((target / "metadata.json").read_text())["license"]["type"]
            if licence != family.licence or licence not in LICENCES:
                raise ValueError(
                    f"{family.name}: expected licence {family.licence} (one of {sorted(LICENCES)})"
                    f", got {licence}; choose another family in {FAMILIES_FILE.name}."
                )


def faces(fonts_dir: Path, name: str, weights: tuple[int, ...] = WEIGHTS) -> Iterator[Path]:
    """Yield the upright faces of a family, by weight and subset, that exist."""
    for weight in weights:
        for subset in SUBSETS:
            path = fonts_dir / name / f"{name}-{subset}-{weight}-normal.woff2"
            if path.exists():
                yield path


def characters(face: Path) -> list[str]:
    """List the characters that a face maps to a glyph, by code point."""
    with TTFont(face, lazy=True) as font:
        return [chr(code) for code in sorted(font.getBestCmap() or ())]
