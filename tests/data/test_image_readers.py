"""Readers of image files and folders, and the labels that belong to them."""

import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from bitswap_onnx.data.images import Decoding, read_image
from bitswap_onnx.errors import BitswapError, DataError, MissingExtraError
from tests.datasets import contents, opened, refusal


def save_image(path: Path, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


def rgb(seed: int, height: int = 6, width: int = 5) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def test_class_folders(tmp_path: Path) -> None:
    folder = tmp_path / "street signs"
    expected = [save_image(folder / name, rgb(i)) for i, name in enumerate(["a/2.png", "a/sub/1.ppm", "b/x.BMP"])]
    (folder / "b" / "notes.txt").touch()
    (folder / ".cache").mkdir()
    stored = opened(folder)
    assert (stored.name, stored.layout, stored.labels.tolist()) == ("street signs", "nhwc", [0, 0, 1])
    for found, pixels in zip(contents(stored), expected, strict=True):
        np.testing.assert_array_equal(found, pixels)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("labels.txt", "7\n8\n9\n"),
        ("labels.csv", "filename,label\nc.png,9\na 1.png,7\nb.png,8\n"),
        ("labels.txt", "c.png 9\na 1.png 7\nb.png   8\n"),
        ("../validation_label.txt", "a 1.png 7\nb.png 8\nc.png 9\n"),
    ],
)
def test_flat_folder_finds_its_labels(tmp_path: Path, name: str, text: str) -> None:
    folder = tmp_path / "val_set"
    for image in ("a 1.png", "b.png", "c.png"):
        save_image(folder / image, rgb(1))
    assert opened(folder).labels is None
    (folder / name).write_text(text)
    assert opened(folder).labels.tolist() == [7, 8, 9]
    if name.startswith(".."):
        assert opened(tmp_path).labels.tolist() == [7, 8, 9]


def test_labels_given_by_relative_path(tmp_path: Path) -> None:
    for name in ("a/1.png", "b/1.png"):
        save_image(tmp_path / "images" / name, rgb(1))
    (tmp_path / "mine.csv").write_text("b/1.png,5\na/1.png,6\n")
    assert opened(tmp_path / "images", tmp_path / "mine.csv").labels.tolist() == [6, 5]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("1\n2\n3\n", "3 labels for 2 inputs"),
        ("a.png,1\nz.png,2\n", "2 rows, expected one for each of 2 images; found b.png"),
        ("a.png,1\n", "found b.png"),
        ("a.png,1\nb.png,2\na.png,1\n", "found a name given twice or left out"),
        ("a.png,1\nb.png,2\n3\n", "found a name given twice or left out"),
        ("a.png,1\nfilename,label\n", "labels.txt:2"),
        ("a.png,-1\nb.png,0\n", "the label of input 0 (counted from 0) is -1, expected an integer of at least 0"),
    ],
)
def test_labels_of_a_folder_refused(tmp_path: Path, text: str, complaint: str) -> None:
    for image in ("a.png", "b.png"):
        save_image(tmp_path / image, rgb(1))
    (tmp_path / "labels.txt").write_text(text)
    assert complaint in refusal(tmp_path)


def test_folders_refused(tmp_path: Path) -> None:
    assert "no images; expected one folder per class" in refusal(tmp_path)
    save_image(tmp_path / "a.png", rgb(1))
    save_image(tmp_path / "b" / "a.png", rgb(1))
    assert "both images and folders of images" in refusal(tmp_path)


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("kind", ["RGB", "RGBA", "L", "1", "CMYK"])
def test_images_become_the_mode_asked_for(tmp_path: Path, mode: str, kind: str) -> None:
    path = tmp_path / ("some.jpg" if kind == "CMYK" else "some.png")
    Image.fromarray(rgb(3)).convert(kind).save(path)
    pixels = read_image(path, Decoding(mode))
    assert pixels.dtype == np.uint8
    with Image.open(path) as image:
        np.testing.assert_array_equal(pixels.squeeze(), np.asarray(image.convert(mode)))
    assert pixels.shape == (6, 5, len(mode))


@pytest.mark.parametrize(("height", "width"), [(300, 400), (400, 301), (100, 100), (257, 256), (51, 500)])
def test_images_are_sized_as_torchvision_does(tmp_path: Path, height: int, width: int) -> None:
    save_image(tmp_path / "some.png", rgb(4, height, width))
    short = 256 / min(height, width)
    tall = height if height > width else width
    size = (256, int(256 * tall / width)) if width <= height else (int(256 * tall / height), 256)
    assert abs(size[1] - height * short) < 1
    with Image.open(tmp_path / "some.png") as image:
        whole = np.asarray(image.resize(size, Image.Resampling.BILINEAR))
    top, left = round((size[1] - 224) / 2.0), round((size[0] - 224) / 2.0)
    pixels = read_image(tmp_path / "some.png", Decoding("RGB", 256, (224, 224)))
    np.testing.assert_array_equal(pixels, whole[top : top + 224, left : left + 224])


def test_images_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "deep.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nand no more")
    save_image(tmp_path / "short.png", rgb(1, 64, 64))
    (tmp_path / "short.png").write_bytes((tmp_path / "short.png").read_bytes()[:500])
    for name, complaint in (("deep", "mode I;16"), ("broken", "expected an image"), ("short", "expected an image")):
        with pytest.raises(DataError, match=complaint) as caught:
            read_image(tmp_path / f"{name}.png", Decoding())
        assert f"{name}.png: " in str(caught.value)


def test_missing_pillow_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_image(tmp_path / "a.png", rgb(1))
    stored = opened(tmp_path)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'bitswap-onnx\[images\]'") as caught:
        contents(stored)
    assert isinstance(caught.value, BitswapError)
