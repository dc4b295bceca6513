"""Readers of arrays, CIFAR's own files and label files."""

import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bitswap_onnx.data.labels import as_labels
from bitswap_onnx.data.stored import StoredArray
from bitswap_onnx.errors import DataError
from tests.datasets import contents, opened, refusal

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 3072), np.uint8)
IMAGES = PIXELS.reshape(5, 3, 32, 32)


# Labels


@pytest.mark.parametrize(
    "y",
    [
        np.array([2, 0, 1]),
        np.array([[2], [0], [1]], np.uint8),
        np.array([2.0, 0.0, 1.0], np.float32),
        np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0]]),
        np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0]], np.float64),
        np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0]], bool),
    ],
)
def test_labels_in_every_accepted_form(y: NDArray[Any]) -> None:
    found = as_labels(y, 3, "here")
    assert found.dtype == np.int64
    assert found.tolist() == [2, 0, 1]


@pytest.mark.parametrize(
    ("y", "complaint"),
    [
        (np.array([1, 2]), "2 labels for 3 inputs"),
        (np.array([[1], [2]]), "2 labels for 3 inputs"),
        (np.array([1, -1, 0]), "the label of input 1 (counted from 0) is -1, expected an integer of at least 0"),
        (np.array([1, 0.5, 0]), "the label of input 1 (counted from 0) is 0.5, expected an integer of at least 0"),
        (np.array([1, 0, np.nan]), "the label of input 2 (counted from 0) is nan, expected an integer of at least 0"),
        (np.array([1, 0, 2**64 - 1], np.uint64), "input 2 (counted from 0) is 18446744073709551615"),
        (np.array([[1, 0], [1, 1], [0, 1]]), "the label of input 1 (counted from 0) is [1 1], expected a one-hot row"),
        (np.array([[1, 0], [0, 0], [0, 1]]), "one-hot row"),
        (np.array([[1, 0], [0.5, 0.5], [0, 1]]), "one-hot row"),
        (np.array([[1, 0], [1, -1], [0, 1]]), "one-hot row"),
        (np.array(["a", "b", "c"]), "labels are <U1"),
        (np.zeros((3, 1, 1)), "of shape (3, 1, 1)"),
        (np.zeros((3, 0)), "of shape (3, 0)"),
        (np.array(3), "of shape ()"),
    ],
)
def test_labels_refused(y: NDArray[Any], complaint: str) -> None:
    with pytest.raises(DataError) as caught:
        as_labels(y, 3, "here")
    assert complaint in str(caught.value)


@pytest.mark.parametrize("text", ["3\n1\n\n4\n1\n0\n", "3\r\n1\r\n4\r\n1\r\n0", "\ufeff3\n 1\n+4\n1\n0"])
def test_labels_from_a_text_file(tmp_path: Path, text: str) -> None:
    np.save(tmp_path / "x.npy", IMAGES)
    (tmp_path / "y.txt").write_text(text, encoding="utf-8")
    assert opened(tmp_path / "x.npy", tmp_path / "y.txt").labels.tolist() == [3, 1, 4, 1, 0]


def test_given_labels_replace_those_of_the_archive(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=IMAGES, y=np.zeros(5, int))
    np.save(tmp_path / "y.npy", np.arange(5.0))
    assert opened(tmp_path / "x.npz", tmp_path / "y.npy").labels.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("y.txt", b"0\n1\ncat\n", "y.txt:3: expected an integer, or a file name and an integer, found 'cat'"),
        ("y.txt", b"0\n1.5\n", "y.txt:2"),
        ("y.txt", b"9" * 5000, "y.txt:1"),
        ("y.txt", b"0\n1\n", "2 labels for 5 inputs"),
        ("y.txt", b"", "0 labels for 5 inputs"),
        ("y.txt", "1\n\u0663\n".encode(), "y.txt:2: expected an integer, or a file name and an integer"),
        ("y.txt", b"\xff\xfe\xff", "expected a text file of labels"),
        ("y.txt", b"a.png,1\n", "1 rows, expected one for each of 0 images; found a.png"),
        ("y.npy", b"no", "expected an .npy file of plain numbers"),
        ("missing", None, "expected a text file of labels"),
    ],
)
def test_labels_file_refused(tmp_path: Path, name: str, content: bytes | None, complaint: str) -> None:
    np.save(tmp_path / "x.npy", IMAGES)
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert complaint in refusal(tmp_path / "x.npy", tmp_path / name)


# Arrays


def test_npz(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "some.npz", x=IMAGES, y=np.arange(5, dtype=np.uint8))
    stored = opened(tmp_path / "some.npz")
    assert (stored.name, stored.layout, len(stored)) == ("some", None, 5)
    assert stored.labels.tolist() == [0, 1, 2, 3, 4]
    np.testing.assert_array_equal(stored.inputs, IMAGES)


@pytest.mark.parametrize("names", [("images", "labels"), ("data", "targets"), ("inputs", "labels")])
def test_npz_with_other_names(names: tuple[str, str], tmp_path: Path) -> None:
    np.savez(tmp_path / "some.npz", **dict(zip(names, (IMAGES, np.arange(5)), strict=True)))  # type: ignore[arg-type]
    stored = opened(tmp_path / "some.npz")
    np.testing.assert_array_equal(stored.inputs, IMAGES)
    assert stored.labels.tolist() == [0, 1, 2, 3, 4]


def test_npy_is_mapped_not_loaded(tmp_path: Path) -> None:
    np.save(tmp_path / "some.npy", IMAGES)
    stored = opened(tmp_path / "some.npy")
    assert isinstance(stored, StoredArray)
    assert isinstance(stored.inputs.base, np.memmap)
    assert stored.labels is None
    np.testing.assert_array_equal(np.stack(contents(stored)), IMAGES)


@pytest.mark.parametrize(
    ("arrays", "complaint"),
    [
        ({"pictures": IMAGES, "labels": np.arange(5)}, "expected arrays x and y, found pictures, labels"),
        ({}, "found nothing"),
        ({"x": np.array([None, {}])}, "Object arrays cannot be loaded"),
        ({"x": np.array([["a"], ["b"]])}, "x has dtype <U1"),
        ({"x": np.zeros((2, 2), complex)}, "x has dtype complex128"),
        ({"x": np.zeros((0, 3, 2, 2))}, "x has shape (0, 3, 2, 2)"),
        ({"x": np.zeros(4)}, "x has shape (4,)"),
        ({"x": IMAGES, "y": np.arange(4)}, "4 labels for 5 inputs"),
        ({"x": IMAGES, "y": np.array([None] * 5)}, "Object arrays cannot be loaded"),
    ],
)
def test_npz_refused(tmp_path: Path, arrays: dict[str, Any], complaint: str) -> None:
    path = tmp_path / "some.npz"
    np.savez(path, **arrays)
    message = refusal(path)
    assert message.startswith(f"{path}: ")
    assert complaint in message


@pytest.mark.parametrize("member", ["x", "x.npy"])
def test_an_npz_with_something_else_in_it(tmp_path: Path, member: str) -> None:
    with zipfile.ZipFile(tmp_path / "some.npz", "w") as archive:
        archive.writestr(member, b"hello")
    with pytest.raises(DataError, match=r"some\.npz: expected an array x, found 5 bytes of something else"):
        opened(tmp_path / "some.npz")


@pytest.mark.parametrize("name", ["some.npz", "some.npy", "test_batch"])
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and then nothing", b"\x93NUMPY\x01\x00", b"plain text\n"])
def test_broken_files_are_refused_in_one_line(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert refusal(tmp_path / name).startswith(f"{tmp_path / name}: expected ")


def test_a_file_cut_short_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "some.npz", x=IMAGES)
    np.save(tmp_path / "some.npy", IMAGES)
    for path in (tmp_path / "some.npz", tmp_path / "some.npy"):
        path.write_bytes(path.read_bytes()[:-3000])
        assert "reading it failed" in refusal(path)


def test_missing_and_unknown_files_are_refused(tmp_path: Path) -> None:
    assert "no such file or folder; expected a .npz or .npy file" in refusal(tmp_path / "nothing.npz")
    (tmp_path / "data.mat").touch()
    assert "data.mat: unknown kind of dataset; expected" in refusal(tmp_path / "data.mat")


# CIFAR


def cifar_batch(labels: bytes = b"labels", **more: Any) -> dict[bytes, Any]:
    batch: dict[bytes, Any] = {b"data": PIXELS, labels: [3, 1, 4, 1, 5], b"batch_label": b"testing batch 1 of 1"}
    return batch | {key.encode(): value for key, value in more.items()}


def python2_pickle() -> bytes:
    """Return, opcode by opcode, a pickle as cPickle of Python 2 wrote it into the published files."""

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value

    dtype = b"cnumpy\ndtype\n" + text(b"u1") + b"K\x00K\x01\x87R(K\x03" + text(b"|") + b"NNNJ" + b"\xff" * 4
    dtype += b"J" + b"\xff" * 4 + b"K\x00tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87R"
    array += b"(K\x01K\x05M\x00\x0c\x86" + dtype + b"\x89T" + struct.pack("<i", PIXELS.size) + PIXELS.tobytes() + b"tb"
    labels = b"](K\x03K\x01K\x04K\x01K\x05e"
    return b"\x80\x02}(" + text(b"data") + array + text(b"labels") + labels + b"u."


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_cifar_python_batch(tmp_path: Path, protocol: int) -> None:
    (tmp_path / "data_batch_1").write_bytes(pickle.dumps(cifar_batch(), protocol))
    stored = opened(tmp_path / "data_batch_1")
    assert (stored.name, stored.layout, stored.labels.tolist()) == ("cifar10", "nchw", [3, 1, 4, 1, 5])
    np.testing.assert_array_equal(stored.inputs, IMAGES)


def test_cifar_python_batch_as_published(tmp_path: Path) -> None:
    published = python2_pickle()
    np.testing.assert_array_equal(pickle.loads(published, encoding="bytes")[b"data"], PIXELS)
    (tmp_path / "test_batch").write_bytes(published)
    stored = opened(tmp_path / "test_batch")
    assert (stored.name, stored.labels.tolist()) == ("cifar10", [3, 1, 4, 1, 5])
    np.testing.assert_array_equal(stored.inputs, IMAGES)


def test_cifar100_python_batch_has_fine_labels(tmp_path: Path) -> None:
    batch = cifar_batch(b"fine_labels", coarse_labels=[0] * 5, filenames=[b"a.png"] * 5)
    (tmp_path / "test").write_bytes(pickle.dumps(batch, 2))
    for path in (tmp_path / "test", tmp_path):
        stored = opened(path)
        assert (stored.name, stored.labels.tolist()) == ("cifar100", [3, 1, 4, 1, 5])


@pytest.mark.parametrize("name", ["test.bin", "test_batch.bin"])
def test_cifar_binary(tmp_path: Path, name: str) -> None:
    prefix = [[9, 3], [9, 1], [9, 4], [9, 1], [9, 5]] if name == "test.bin" else [[3], [1], [4], [1], [5]]
    np.hstack([np.array(prefix, np.uint8), PIXELS]).tofile(tmp_path / name)
    for path in (tmp_path / name, tmp_path):
        stored = opened(path)
        assert stored.name == ("cifar100" if name == "test.bin" else "cifar10")
        assert stored.labels.tolist() == [3, 1, 4, 1, 5]
        np.testing.assert_array_equal(np.stack(contents(stored)), IMAGES)


def test_cifar_folder_reads_the_test_batch(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "data_batch_1").write_bytes(b"unread")
    (folder / "test_batch").write_bytes(pickle.dumps(cifar_batch(), 2))
    assert opened(folder).path == folder / "test_batch"


class Malice:
    def __reduce__(self) -> tuple[Any, ...]:
        import os

        return os.system, ("touch harm",)


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps(Malice()),
        pickle.dumps({b"data": Malice(), b"labels": []}, 2),
        b"cbuiltins\neval\n(V1/0\ntR.",
        b"cnumpy\nfromfile\n(Vtest_batch\ntR.",
        b"\x80\x04\x8c\x05numpy\x8c\x0btesting.run\x93.",
        b"c_codecs\nencode\n(Vabc\nVzip\ntR.",
    ],
)
def test_a_pickle_that_asks_for_anything_else_is_refused(
    tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "test_batch").write_bytes(content)
    assert "refused" in refusal(tmp_path / "test_batch")
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    ("batch", "complaint"),
    [
        ([1, 2], "expected a CIFAR python batch"),
        ({b"labels": [1]}, "expected a CIFAR python batch"),
        (cifar_batch() | {b"data": b"pixels"}, "expected a CIFAR python batch"),
        (cifar_batch() | {b"data": PIXELS.astype(np.float32)}, "not uint8"),
        (cifar_batch() | {b"data": np.asfortranarray(PIXELS)}, "not uint8 in C order"),
        (cifar_batch() | {b"data": PIXELS[:, :100]}, "expected a CIFAR python batch"),
        (cifar_batch() | {b"labels": [0, 1]}, "2 labels for 5 inputs"),
        (cifar_batch() | {b"labels": [0, 1, 2, 3, 10]}, "label 10 in what should be a CIFAR-10 batch"),
    ],
)
def test_pickles_that_are_no_cifar_batch_are_refused(tmp_path: Path, batch: Any, complaint: str) -> None:
    (tmp_path / "test_batch").write_bytes(pickle.dumps(batch, 2))
    assert complaint in refusal(tmp_path / "test_batch")


@pytest.mark.parametrize("size", [0, 100, 3073 + 3074])
def test_cifar_binary_of_a_wrong_size_is_refused(tmp_path: Path, size: int) -> None:
    (tmp_path / "test_batch.bin").write_bytes(bytes(size))
    assert f"{size} bytes, expected CIFAR rows of 3073 or 3074 bytes" in refusal(tmp_path)
