"""Folders of images: one per class, flat with a file of labels, and those that GTSRB and ImageNet are published in."""

from pathlib import Path

import numpy as np

from bitswap_onnx.data.images import IMAGE_SUFFIXES, Decoding, StoredImages
from bitswap_onnx.data.labels import labels_from_file
from bitswap_onnx.data.stored import decoding_errors
from bitswap_onnx.errors import DataError

#: Files of labels that are found without being named, beside the images.
_BESIDE = ("labels.txt", "labels.csv", "GT-final_test.csv")
#: Names of folders that hold a part of a dataset, not a class.
_TRAINING, _VALIDATION, _TEST = ("train", "training"), ("val", "valid", "validation"), ("test", "testing")


def open_images(path: Path, labels: Path | None, decoding: Decoding) -> StoredImages:
    """Open the images in class folders, or in a flat folder with labels given or beside them; raises DataError.

    Class folders count 0, 1, ... in the order of their names, or of their numbers where all names are numbers.
    """
    path, labels = _gtsrb(_split(path), labels)
    if (path / "val_set").is_dir() and (path / "validation_label.txt").is_file():  # as BitSwapDetection keeps ImageNet
        path = path / "val_set"
    with decoding_errors(path, "a folder of images"):
        entries = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
        flat = [entry for entry in entries if _is_image(entry)]
        folders = _in_order([entry for entry in entries if entry.is_dir()])
        classes = [sorted(filter(_is_image, folder.rglob("*"))) for folder in folders]
    files = flat or [file for files in classes for file in files]
    if not files or (flat and any(classes)):
        found = "both images and folders of images" if files else "no images"
        raise DataError(f"{path}: {found}; expected one folder per class, or only images and a labels file")
    y = None if flat else np.repeat(np.arange(len(classes)), [len(members) for members in classes])
    beside = [*(path / name for name in _BESIDE), path.parent / "validation_label.txt"]
    if labels is None and flat:
        end = len(beside) if path.name == "val_set" else len(_BESIDE)
        labels = next((file for file in beside[:end] if file.is_file()), None)
    counted = len(classes)
    if labels is not None:
        y = labels_from_file(labels, len(files), [file.relative_to(path).as_posix() for file in files])
    return StoredImages(
        path.resolve().name, path, tuple(files), y, decoding, None if flat or labels is not None else counted
    )


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()


def _in_order(folders: list[Path]) -> list[Path]:
    numbered = all(folder.name.isascii() and folder.name.isdecimal() for folder in folders)
    return sorted(folders, key=lambda folder: int(folder.name[:100])) if numbered else folders


def _split(path: Path) -> Path:
    """Return the validation or test part of a dataset that is kept in parts; raises DataError where none can be chosen."""
    with decoding_errors(path, "a folder of images"):
        parts = {entry.name.lower(): entry for entry in sorted(path.iterdir()) if entry.is_dir()}
    trained, validation, test = (
        [parts[name] for name in names if name in parts] for names in (_TRAINING, _VALIDATION, _TEST)
    )
    if not validation and not (trained and test):
        if trained and len(parts) == 1:
            raise DataError(f"{path}: found the part {trained[0].name} alone; give {trained[0]} to run on it")
        return path
    chosen = validation or test
    if len(chosen) > 1:
        raise DataError(
            f"{path}: expected one part to run on, found {', '.join(part.name for part in chosen)}; give one"
        )
    return chosen[0]


def _gtsrb(path: Path, labels: Path | None) -> tuple[Path, Path | None]:
    """Return GTSRB's test images and their file of classes, where ``path`` is in or above them; raises DataError."""
    inner = ("", "Images", "Final_Test/Images", "GTSRB/Final_Test/Images")
    places = (path / place for place in inner if (path / place).is_dir())
    images = next((place for place in places if place.resolve().parts[-2:] == ("Final_Test", "Images")), None)
    if images is None:
        return path, labels
    places_of_classes = [images, *images.resolve().parents[:3]]
    classes = next((file for place in places_of_classes if (file := place / "GT-final_test.csv").is_file()), None)
    if labels is None and classes is None:
        raise DataError(
            f"{images}: expected GT-final_test.csv, of GTSRB_Final_Test_GT.zip, beside the images; found none "
            "(GT-final_test.test.csv has no classes)"
        )
    return images, labels or classes
