"""Datasets in the forms that they are published in: CIFAR's archives, GTSRB's and ImageNet's folders, Keras's .npz."""

import io
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bitswap_onnx.data import cifar
from bitswap_onnx.data.dataset import load_dataset
from bitswap_onnx.data.preprocessing import Preprocessing
from tests.datasets import contents, opened, refusal

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 3072), np.uint8)
IMAGES = PIXELS.reshape(5, 3, 32, 32)
LABELS = [3, 1, 4, 1, 5]


def rows(*prefixes: list[int]) -> bytes:
    return np.hstack([np.array(prefixes, np.uint8).T, PIXELS]).tobytes()


def pickled(**labels: list[int]) -> bytes:
    return pickle.dumps({b"data": PIXELS} | {name.encode(): values for name, values in labels.items()}, 2)


def archive(path: Path, **members: bytes) -> Path:
    """Write members, whose names have ``__`` for a slash and ``_dot_`` for a dot, in their order."""
    with tarfile.open(path, "w:gz") as file:
        for name, content in members.items():
            member = tarfile.TarInfo(name.replace("__", "/").replace("_dot_", "."))
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    return path


PUBLISHED = {
    "cifar-10-python.tar.gz": {"cifar_10__data_batch_1": b"unread", "cifar_10__test_batch": pickled(labels=LABELS)},
    "cifar-10-binary.tar.gz": {"cifar_10__test_batch_dot_bin": rows(LABELS)},
    "cifar-100-python.tar.gz": {
        "cifar_100__train": b"unread",
        "cifar_100__test": pickled(coarse_labels=[0] * 5, fine_labels=LABELS),
    },
    "cifar-100-binary.tgz": {"cifar_100__test_dot_bin": rows([9] * 5, LABELS)},
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_archives_of_cifar(tmp_path: Path, name: str) -> None:
    stored = opened(archive(tmp_path / name, **PUBLISHED[name]))
    assert (stored.name, stored.layout, stored.labels.tolist()) == (
        name[:9].replace("-", "").rstrip("p"),
        "nchw",
        LABELS,
    )
    np.testing.assert_array_equal(np.stack(contents(stored)), IMAGES)


def test_an_archive_of_something_else_is_refused(tmp_path: Path) -> None:
    assert "found none; unpack other data" in refusal(archive(tmp_path / "x.tar.gz", a__b=b"c"))
    (tmp_path / "y.tar.gz").write_bytes(b"no archive")
    assert "expected an archive of CIFAR, but reading it failed" in refusal(tmp_path / "y.tar.gz")
    whole = archive(tmp_path / "z.tar.gz", **PUBLISHED["cifar-10-python.tar.gz"])
    whole.write_bytes(whole.read_bytes()[:5000])
    assert "reading it failed" in refusal(whole)


def test_an_archive_has_no_room_for_a_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = archive(tmp_path / "x.tar.gz", **PUBLISHED["cifar-10-python.tar.gz"])
    monkeypatch.setattr(cifar, "_MOST_BYTES", 100)
    assert "test_batch has 23,349 bytes, a test batch of CIFAR has 31 million" in refusal(path)
    monkeypatch.setattr(cifar, "_MOST_BEFORE", 5)
    assert "found none; unpack other data" in refusal(path)


def test_a_pickle_in_an_archive_runs_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = archive(tmp_path / "x.tar.gz", c__test_batch=b"cos\nsystem\n(Vtouch harm\ntR.")
    assert "it asks for os.system, which no CIFAR file needs (refused)" in refusal(path)
    assert not (tmp_path / "harm").exists()


def test_the_folder_around_cifars_own(tmp_path: Path) -> None:
    for name in ("cifar-10-batches-py", "cifar-100-python"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "test_batch").write_bytes(pickled(labels=LABELS))
        if name.endswith("py"):
            assert opened(tmp_path).labels.tolist() == LABELS
    assert "expected one CIFAR, found cifar-10-batches-py, cifar-100-python; give one of them" in refusal(tmp_path)


def test_an_npz_of_keras(tmp_path: Path) -> None:
    train = np.zeros((2, 4), np.uint8)
    np.savez(tmp_path / "mnist.npz", x_train=train, y_train=[0, 1], x_test=PIXELS, y_test=np.array(LABELS))
    stored = opened(tmp_path / "mnist.npz")
    assert stored.labels.tolist() == LABELS
    np.testing.assert_array_equal(stored.inputs, PIXELS)


@pytest.mark.parametrize("shape", [(1, 4, 6), (4, 6, 1), (1, None, None)])
def test_gray_images_get_the_axis_of_their_channel(tmp_path: Path, shape: tuple[int | None, ...]) -> None:
    x = np.random.default_rng(1).integers(0, 256, (5, 4, 6), np.uint8)
    np.savez(tmp_path / "mnist.npz", x_test=x, y_test=LABELS)
    preprocessing = Preprocessing(mean=(0.1307,), std=(0.3081,))
    data = load_dataset(tmp_path / "mnist.npz", input_shape=shape, dtype=np.dtype("f4"), preprocessing=preprocessing)
    expected = (x / np.float32(255) - np.float32(0.1307)) / np.float32(0.3081)
    assert data.shape == ((4, 6, 1) if shape[-1] == 1 else (1, 4, 6))
    np.testing.assert_array_equal(data.batch(0, 5).reshape(5, 4, 6), expected)


# Folders of images


def image(path: Path, value: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 4, 3), value, np.uint8)).save(path)


GT = "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2"


@pytest.fixture
def gtsrb(tmp_path: Path) -> Path:
    """GTSRB as its two archives unpack, without the classes."""
    for i in range(3):
        image(tmp_path / f"GTSRB/Final_Test/Images/0000{i}.ppm", i)
    image(tmp_path / "GTSRB/Final_Training/Images/00000/00000_00000.ppm")
    test = "".join(f"0000{i}.ppm;53;54;6;5;48;49\n" for i in range(3))
    (tmp_path / "GTSRB/Final_Test/Images/GT-final_test.test.csv").write_text(f"{GT}\n{test}")
    return tmp_path


@pytest.mark.parametrize("place", [".", "GTSRB", "GTSRB/Final_Test", "GTSRB/Final_Test/Images"])
@pytest.mark.parametrize("given", ["GTSRB", "GTSRB/Final_Test", "GTSRB/Final_Test/Images", "."])
def test_gtsrb(gtsrb: Path, place: str, given: str) -> None:
    classes = "".join(f"0000{i}.ppm;53;54;6;5;48;49;{label}\n" for i, label in ((2, 40), (0, 16), (1, 1)))
    assert "expected GT-final_test.csv, of GTSRB_Final_Test_GT.zip" in refusal(gtsrb / given)
    (gtsrb / place / "GT-final_test.csv").write_text(f"{GT};ClassId\n{classes}")
    stored = opened(gtsrb / given)
    assert (stored.labels.tolist(), stored.classes) == ([16, 1, 40], None)
    assert [int(pixels[0, 0, 0]) for pixels in contents(stored)] == [0, 1, 2]


def test_the_file_of_gtsrb_without_classes_is_refused(gtsrb: Path) -> None:
    images = gtsrb / "GTSRB/Final_Test/Images"
    message = refusal(images, images / "GT-final_test.test.csv")
    assert "expected the columns Filename and ClassId, found Filename;Width" in message
    assert "GT-final_test.csv, of GTSRB_Final_Test_GT.zip" in message


def test_parts_of_a_dataset_are_no_classes(tmp_path: Path) -> None:
    for name in ("train/n01/a.png", "train/n02/b.png"):
        image(tmp_path / name)
    assert "found the part train alone" in refusal(tmp_path)
    image(tmp_path / "test/c.png")
    assert (opened(tmp_path).path, opened(tmp_path).labels) == (tmp_path / "test", None)
    for name in ("val/n01/a.png", "val/n02/b.png", "val/n02/c.png"):
        image(tmp_path / name)
    stored = opened(tmp_path)
    assert (stored.path, stored.labels.tolist(), stored.classes) == (tmp_path / "val", [0, 1, 1], 2)
    (tmp_path / "validation").mkdir()
    assert "expected one part to run on, found val, validation; give one" in refusal(tmp_path)


def test_numbered_folders_have_the_order_of_their_numbers(tmp_path: Path) -> None:
    for number in range(12):
        image(tmp_path / "numbers" / str(number) / "a.png", number)
        image(tmp_path / "names" / f"c{number}" / "a.png", number)
    stored = opened(tmp_path / "numbers")
    assert [int(pixels[0, 0, 0]) for pixels in contents(stored)] == stored.labels.tolist() == list(range(12))
    named = [int(pixels[0, 0, 0]) for pixels in contents(opened(tmp_path / "names"))]
    assert named == [0, 1, 10, 11, 2, 3, 4, 5, 6, 7, 8, 9]


def test_classes_without_images_keep_their_place(tmp_path: Path) -> None:
    image(tmp_path / "n02/a.png")
    for name in ("n01", "n03"):
        (tmp_path / name).mkdir()
    assert (opened(tmp_path).labels.tolist(), opened(tmp_path).classes) == ([1], 3)


@pytest.mark.parametrize(
    ("name", "labels"),
    [("ILSVRC2012_validation_ground_truth.txt", [5, 7]), ("mine.txt", [1, 1000, *[3] * 49_998])],
)
def test_the_numbers_of_ilsvrc_are_refused(tmp_path: Path, name: str, labels: list[int]) -> None:
    np.save(tmp_path / "x.npy", np.zeros((len(labels), 1), np.float32))
    (tmp_path / name).write_text("\n".join(map(str, labels)))
    message = refusal(tmp_path / "x.npy", tmp_path / name)
    assert "its numbers are ILSVRC's own, from 1 and in another order than the class folders" in message
