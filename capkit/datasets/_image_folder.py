"""One's own images in a folder, in the form of the data sets."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import PurePosixPath

import numpy as np
from sklearn.utils import Bunch

from capkit._validation import UNLABELED, resolve_class_names
from capkit.exceptions import ClassNamesError
from capkit.image_files import find_images

__all__ = ["classes_of_folders", "load_image_folder"]


def load_image_folder(
    root: str | os.PathLike,
    *,
    class_names: Sequence[str] | None = None,
    labeled: bool = True,
) -> Bunch:
    """Find one's own images, with labels by the folders they lie in, or without.

    With a folder for each class in `root`, its name is the class's, blanks in place of
    underscores, and all images in it and below belong to the class. Images that lie directly in
    `root` are unlabeled. Nothing is opened.

    Parameters
    ----------
    root : path
    class_names : sequence of str or None, default=None
        Names of all classes, in their order. None means those of the folders that have images, in
        alphabetical order. More names than folders are fine: those classes have no label.
    labeled : bool, default=True
        False takes all images as unlabeled, whatever the folders are called: by date, by camera.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        Dictionary-like object, with the following attributes.

        paths : list of str
            Absolute paths of the images, in the order of their paths relative to `root`.
        target : ndarray of shape (n_images,), dtype int64
            Indices into ``class_names``; -1 for unlabeled images.
        class_names : list of str
            Empty if they are not given and there is no folder of a class.
        target_names : list of str
            The same, under scikit-learn's name.
        template : str
            "a photo of a {}".
        DESCR : str
            What was found where.

    Raises
    ------
    OSError
        If there is no such folder, or one cannot be read.
    ClassNamesError
        If a folder is none of `class_names`, two folders have the same name but for underscores,
        or the names cannot be right.
    ValueError
        If there is no image.

    See Also
    --------
    capkit.commands.label_folder : Label a folder, and write a table and a report.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from capkit.datasets import load_image_folder
    >>> with tempfile.TemporaryDirectory() as root:
    ...     for name in ("red_fox/1.jpg", "red_fox/2.JPG", "wolf/a/1.png", "unknown.jpg"):
    ...         Path(root, name).parent.mkdir(parents=True, exist_ok=True)
    ...         Path(root, name).touch()
    ...     photos = load_image_folder(root)
    >>> photos.class_names
    ['red fox', 'wolf']
    >>> [Path(path).name for path in photos.paths], photos.target
    (['1.jpg', '2.JPG', 'unknown.jpg', '1.png'], array([ 0,  0, -1,  1]))
    """
    files = find_images(root)
    if labeled:
        names, target = classes_of_folders(files.names, class_names)
    else:
        names = () if class_names is None else resolve_class_names(class_names, None)
        target = np.full(len(files), UNLABELED, dtype=np.int64)
    return Bunch(
        paths=[os.fspath(path) for path in files.paths],
        target=target,
        class_names=list(names),
        target_names=list(names),
        template="a photo of a {}",
        DESCR=(
            f"{len(files)} images in {files.folder}. By their folder "
            f"{(target != UNLABELED).sum()} of them are labeled as one of {len(names)} classes."
        ),
    )


def classes_of_folders(
    image_names: Sequence[str], class_names: Sequence[str] | None
) -> tuple[tuple[str, ...], np.ndarray]:
    """Classes by the folder that each image lies in.

    Parameters
    ----------
    image_names : sequence of str of length n_images
        Paths relative to the folder of all, with slashes.
    class_names : sequence of str or None
        None means the names of the folders, blanks in place of underscores.

    Returns
    -------
    class_names : tuple of str
        Empty if they are not given and there is no folder.
    target : ndarray of shape (n_images,), dtype int64
        -1 where an image lies in no folder.

    Raises
    ------
    ClassNamesError
        If a folder is none of `class_names`, two folders have the same name but for underscores,
        or the names cannot be right.
    """
    folders = [
        path.parts[0] if len(path.parts) > 1 else None for path in map(PurePosixPath, image_names)
    ]
    spelled = {
        folder: folder.replace("_", " ") for folder in sorted({name for name in folders if name})
    }
    if len(set(spelled.values())) < len(spelled):
        raise ClassNamesError(
            "two folders have the same name but for blanks and underscores: rename one of "
            f"{', '.join(spelled)}"
        )
    if class_names is None:
        names = resolve_class_names(list(spelled.values()), None) if spelled else ()
    else:
        names = resolve_class_names(class_names, None)
        if unknown := [folder for folder, name in spelled.items() if name not in names]:
            raise ClassNamesError(
                f"the folder {unknown[0]!r} is no class: expected one of {len(names)} names, "
                f"such as {names[0]!r}."
            )
    place = {name: index for index, name in enumerate(names)}
    labels = [UNLABELED if name is None else place[spelled[name]] for name in folders]
    return names, np.array(labels, dtype=np.int64)
