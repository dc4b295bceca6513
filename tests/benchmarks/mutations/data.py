"""Damaged datasets: arrays, CIFAR's files, images, labels."""

import io
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bitswap_onnx.data.dataset import load_dataset
from bitswap_onnx.data.preprocessing import Preprocessing
from tests.benchmarks.mutations.cases import Hang
from tests.builders import normal

_X = normal(4, 1, 6, 6)


def run_code() -> None:
    """What a pickle asks to call; reading must refuse it."""
    raise Hang("code from the file ran")


class _Evil:
    def __reduce__(self) -> tuple[object, tuple[()]]:
        return run_code, ()


def make_data(rng: np.random.Generator, folder: Path) -> tuple[str, dict[str, Callable[[], object]]]:
    """Write a dataset, whole or of a strange form, and change some bytes of it."""
    make = _MAKERS[rng.integers(len(_MAKERS))]
    suffix, content = make(rng)
    done = make.__name__
    if rng.random() < 0.5:
        content = _bytes(rng, content)
        done += ", bytes"
    if rng.random() < 0.1:
        suffix = str(rng.choice([".npz", ".npy", ".bin", "", ".csv", ".tar", ".png"]))
    path = folder / f"test_batch{suffix}"
    if suffix == ".png":
        path = folder / "images" / "a" / "0.png"
        path.parent.mkdir(parents=True)
    path.write_bytes(content)
    data = folder / "images" if suffix == ".png" else path
    shape = (3, 32, 32) if suffix in ("", ".bin", ".png") else (1, 6, 6)

    pixels = Preprocessing(preset="cifar10") if shape[0] == 3 else Preprocessing()

    def read(labels: Path | None = None) -> None:
        float32 = np.dtype(np.float32)
        dataset = load_dataset(data, input_shape=shape, dtype=float32, preprocessing=pixels, labels=labels)
        dataset.batch(0, min(len(dataset), 8))

    steps: dict[str, Callable[[], object]] = {"load": read}
    if suffix == ".csv":
        np.save(folder / "x.npy", _X)
        data = folder / "x.npy"
        steps = {"load": lambda: read(path)}
    return done, steps


def _npz(rng: np.random.Generator) -> tuple[str, bytes]:
    file = io.BytesIO()
    strange = (
        _X,
        _X[:0],
        np.array(3.0),
        np.array(["a"] * 4),
        _X.astype(complex),
        _X.astype(np.float16),
        np.zeros((4, 0, 2)),
    )
    y: list[Any] = [
        np.arange(4),
        np.arange(9),
        np.eye(4),
        np.array(["a"] * 4),
        np.full(4, np.nan),
        np.array([2**63] * 4, object),
    ]
    strange_x, strange_y = rng.random(2) < 0.3
    np.savez(
        file,
        x=strange[rng.integers(len(strange)) if strange_x else 0],
        y=y[rng.integers(len(y)) if strange_y else 0],
    )
    return ".npz", file.getvalue()


def _claims(rng: np.random.Generator) -> tuple[str, bytes]:
    """An array whose header claims more elements than there are."""
    shape = rng.choice(
        ["(1000000000000,)", "(1000000, 1, 6, 6)", "(-1, 1, 6, 6)", "(4, 1, 6, 6, 0)", "(2**70,)", "(1, " * 200]
    )
    descr = rng.choice(["'<f4'", "'|O'", "'<f999'", "'|S1000000000'", "[('a', '<f4')]", "'<M8[s]'", "'|V8'"])
    header = f"{{'descr': {descr}, 'fortran_order': {rng.choice(['False', 'True', '7'])}, 'shape': {shape}, }}".encode()
    array = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + _X.tobytes()
    if rng.random() < 0.5:
        return ".npy", array
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x.npy", array)
    return ".npz", file.getvalue()


def _npy(rng: np.random.Generator) -> tuple[str, bytes]:
    file = io.BytesIO()
    np.save(file, np.array([{}, 1], object) if rng.random() < 0.2 else _X)
    return ".npy", file.getvalue()


def _cifar(rng: np.random.Generator) -> tuple[str, bytes]:
    pixels = np.zeros((4, 3072), np.uint8)
    batches: tuple[object, ...] = (
        {b"data": pixels, b"labels": [0, 1, 2, 3]},
        {b"data": pixels, b"fine_labels": [0, 1, 2, 300]},
        {b"data": pixels.astype(np.float32), b"labels": [0] * 4},
        {b"labels": [0] * 4},
        {b"data": 7, b"labels": [[0], 1, None, b"x"]},
        [pixels],
        _Evil(),
    )
    return "", pickle.dumps(
        batches[rng.integers(len(batches)) if rng.random() < 0.6 else 0], protocol=int(rng.integers(0, 5))
    )


def _binary(rng: np.random.Generator) -> tuple[str, bytes]:
    pixels = rng.integers(0, 256, int(rng.choice([0, 3073, 3074, 6146, 100]))).astype(np.uint8)
    pixels[::3073] = rng.choice([0, 9, 200])
    return ".bin", pixels.tobytes()


def _image(rng: np.random.Generator) -> tuple[str, bytes]:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (32, 32, 3)).astype(np.uint8)).save(file, "PNG")
    return ".png", file.getvalue()


def _labels(rng: np.random.Generator) -> tuple[str, bytes]:
    rows = [
        str(rng.choice(["0", "1", "-1", "9" * 30, "x", "", "a.png,1", "a.png 1", "1.0", "\x00", "٣"])) for _ in range(4)
    ]
    return ".csv", "\n".join(rows).encode()


def _tar(rng: np.random.Generator) -> tuple[str, bytes]:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=str(rng.choice(["w", "w:gz"]))) as archive:  # type: ignore[call-overload]
        archive.addfile(tarfile.TarInfo("../../outside"), io.BytesIO())
    return str(rng.choice([".tar", ".tar.gz", ".npz", ""])), file.getvalue()


_MAKERS = (_npz, _npz, _claims, _npy, _cifar, _cifar, _binary, _image, _labels, _tar)


def _bytes(rng: np.random.Generator, content: bytes) -> bytes:
    data = bytearray(content)
    for _ in range(rng.integers(1, 6)):
        if data:
            data[rng.integers(min(len(data), 400 if rng.random() < 0.5 else len(data)))] = rng.integers(256)
    return bytes(data[: rng.integers(len(data) + 1)]) if rng.random() < 0.2 else bytes(data)
