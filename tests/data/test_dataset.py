"""Datasets: what is refused, which inputs are taken, batches, hashes and files; synthetic inputs."""

import hashlib
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bitswap_onnx.data import dataset
from bitswap_onnx.data.batches import batches
from bitswap_onnx.data.dataset import load_dataset
from bitswap_onnx.data.preprocessing import Preprocessing
from bitswap_onnx.data.synthetic import synthetic_dataset
from bitswap_onnx.errors import DataError, RunError
from tests.datasets import F32, FLOATS, HOLED, SOME, Make, everything, images_in

CUBE = np.ones((2, 3, 3, 3), np.float32)


def test_paths_may_be_texts(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", FLOATS)
    np.save(tmp_path / "y.npy", np.arange(4))
    texts = str(tmp_path / "x.npy"), str(tmp_path / "y.npy")
    found = load_dataset(texts[0], input_shape=(3, 6, 8), dtype=F32, labels=texts[1])
    np.testing.assert_array_equal(everything(found), FLOATS)
    assert found.labels is not None
    assert found.labels.tolist() == [0, 1, 2, 3]


# What is refused


@pytest.mark.parametrize(
    ("x", "shape", "options", "complaint"),
    [
        (
            SOME,
            (3, 6, 8),
            {},
            "uint8 for a model that takes float32; say how to scale it: `preset` (cifar10, cifar100,",
        ),
        (SOME, (3, 6, 8), {"resize": (6, 8)}, "say how to scale it"),
        (FLOATS / 255, (3, 6, 8), {"preset": "cifar10"}, "expects pixels 0-255; give `mean` and `std` instead"),
        (FLOATS - 200, (3, 6, 8), {"preset": "cifar10"}, "expects pixels 0-255"),
        (FLOATS * 2, (3, 6, 8), {"preset": "cifar10"}, "expects pixels 0-255"),
        (HOLED, (3, 6, 8), {"limit": 3, "seed": 0}, "input 2 (from 0) has a NaN or Inf"),
        (np.full_like(FLOATS, -np.inf), (3, 6, 8), {"preset": "cifar10"}, "input 0 (from 0) has a NaN or Inf"),
        (FLOATS.astype(float) * 1e300, (3, 6, 8), {"mean": (1.0,)}, "values too large for float32"),
        (FLOATS * 1e5, (3, 6, 8), {"dtype": np.float16}, "values too large for float16"),
        (FLOATS, (3, 6, 8), {"dtype": np.int64}, "the model takes int64; expected integers"),
        (SOME, (3, 6, 8), {"dtype": np.uint8, "preset": "cifar10"}, "the model takes uint8"),
        (SOME, (3, 6, 8), {"dtype": np.uint8, "resize": (6, 8)}, "the model takes uint8"),
        (SOME, (3, 6, 8), {"dtype": np.int8}, "values from 0 to 255, and the model takes int8, -128 to 127"),
        (SOME.astype(int) - 1, (3, 6, 8), {"dtype": np.uint64}, "values from -1 to 254, and the model takes uint64"),
        (SOME, (3, 6, 8), {"dtype": np.bool_}, "the model takes bool, 0 to 1"),
        (FLOATS, (3, 12, 16), {}, "inputs of shape (3, 6, 8), the model takes (3, 12, 16); try `resize` 12,16"),
        (FLOATS, (12, 16, 3), {}, "try `resize` 12,16"),
        (FLOATS, (3, 12, 16), {"resize": (6, 9)}, "resized to (6, 9), the model takes (3, 12, 16); try `resize` 12,16"),
        (FLOATS, (3, 32, 32), {"preset": "gtsrb"}, "resized to (50, 50), the model takes (3, 32, 32)"),
        (FLOATS, (1, 6, 8), {}, "the model takes (1, 6, 8); store x as (N, 1, 6, 8)"),
        (FLOATS, (144,), {}, "inputs of shape (3, 6, 8), the model takes (144,); store x as (N, 144)"),
        (FLOATS.reshape(4, -1), (3, 6, 8), {}, "inputs of shape (144,), the model takes (3, 6, 8)"),
        (FLOATS, (3, 6, 8), {"data_layout": "nhwc", "resize": (6, 8)}, "do not fit the model's (3, 6, 8) as nhwc"),
        (CUBE, (3, 3, 3), {}, "fit the model's (3, 3, 3) both ways; give `data_layout` nchw or nhwc"),
        (CUBE[:, :, :2], (3, 2, 3), {"mean": (1, 2, 3)}, "both ways; give `data_layout`"),
        (FLOATS, (3, 6, 8), {"mean": (1, 2)}, "mean and std have 2 channels, the inputs 3; give"),
        (FLOATS[:, :1], (1, 6, 8), {"preset": "cifar10"}, "mean and std have 3 channels, the inputs 1; give"),
        (FLOATS.reshape(4, -1), (144,), {"preset": "cifar10"}, "are not images"),
        (FLOATS.reshape(4, -1), (144,), {"resize": (1, 1)}, "are not images"),
        (FLOATS, (3, 6, 8), {"limit": 2, "first": 2}, "`limit` 2 and `first` 2: give one of them"),
        (FLOATS, (3, 6, 8), {"limit": 0}, "`limit`: expected a whole number from 1 on, found 0"),
        (FLOATS, (3, 6, 8), {"first": -1}, "`first`: expected a whole number from 1 on, found -1"),
        (FLOATS, (3, 6, 8), {"first": "2"}, "`first`: expected a whole number from 1 on, found '2'"),
    ],
)
def test_refused_in_one_line(
    load: Make, x: NDArray[Any], shape: tuple[int, ...], options: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(DataError) as caught:
        everything(load(x, shape, **options))
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_formats_with_a_layout_refuse_another(tmp_path: Path) -> None:
    images_in(tmp_path, (8, 9, 3))
    given = Preprocessing(preset="cifar10", data_layout="nchw")
    with pytest.raises(DataError, match="`data_layout` nchw, but such files are nhwc"):
        load_dataset(tmp_path, input_shape=(3, 8, 9), dtype=F32, preprocessing=given)
    with pytest.raises(DataError, match="the model takes int8, -128 to 127"):
        load_dataset(tmp_path, input_shape=(3, 8, 9), dtype=np.dtype(np.int8))
    assert load_dataset(tmp_path, input_shape=(3, 8, 9), dtype=np.dtype(np.uint8)).batch(0, 1).dtype == np.uint8


# Which inputs


def test_limit_and_first(load: Make) -> None:
    x, y = np.arange(50.0, dtype=np.float32)[:, None], np.arange(50)
    rows = np.sort(np.random.default_rng(7).choice(50, 10, replace=False)).tolist()
    for options, expected in (
        ({"limit": 10, "seed": 7}, rows),
        ({"first": 3}, [0, 1, 2]),
        ({"limit": 51}, list(range(50))),
        ({"first": 50}, list(range(50))),
    ):
        data = load(x, (1,), y=y, **options)
        assert data.labels is not None
        assert everything(data)[:, 0].tolist() == data.labels.tolist() == expected
    assert everything(load(HOLED, (3, 6, 8), first=2)).tolist() == HOLED[:2].tolist()  # the NaN is not among these
    assert "10 inputs, drawn with seed 7 from the 50 of" in load(x, (1,), limit=10, seed=7).source


def test_source_says_where_axes_were_turned(load: Make) -> None:
    assert "axes in the order of the model" in load(np.zeros((4, 6, 8, 3), np.float32), (3, 6, 8)).source
    assert "order of the model" not in load(np.zeros((4, 3, 6, 8), np.float32), (3, 6, 8)).source


def test_source_says_what_was_done(load: Make, tmp_path: Path) -> None:
    data = load(SOME, (3, 6, 8), preset="cifar10", first=2)
    assert data.name == "some"
    assert data.source == f"the first 2 of 4 inputs of {tmp_path / 'some.npz'}, preset cifar10, no labels"


# Batches, hashes, files


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 40), st.integers(1, 12))
def test_batches_are_full_and_their_real_inputs_are_all(count: int, size: int) -> None:
    x = np.random.default_rng(count).normal(size=(count, 2, 3))
    found = list(batches(x, size))
    assert [batch.shape for batch, _ in found] == [(size, 2, 3)] * -(-count // size)
    np.testing.assert_array_equal(np.concatenate([x[:0], *(batch[:real] for batch, real in found)]), x)
    for batch, real in found:
        assert batch.flags.c_contiguous
        np.testing.assert_array_equal(batch[real:], np.broadcast_to(batch[real - 1], batch[real:].shape))


def test_batches_of_a_mapped_file(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.arange(10.0).reshape(5, 2))
    found = list(batches(np.load(tmp_path / "x.npy", mmap_mode="r"), 4))
    assert [(type(batch), real) for batch, real in found] == [(np.ndarray, 4), (np.ndarray, 1)]
    assert found[1][0].tolist() == [[8, 9]] * 4
    with pytest.raises(ValueError, match="batch size 0"):
        next(batches(np.zeros((1, 1)), 0))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5000), st.sampled_from(["f4", "f8", "f2"]), st.lists(st.integers(0, 13), max_size=4))
def test_saved_is_what_batches_hold(
    tmp_path_factory: pytest.TempPathFactory, chunk: int, dtype: str, cuts: list[int]
) -> None:
    path = tmp_path_factory.mktemp("saved") / "x.npy"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataset, "_CHUNK_BYTES", chunk)
        data = synthetic_dataset((2, 3), np.dtype(dtype), 13, 5)
        digest, saved = data.save(path), np.load(path)
    edges = [0, *sorted(cuts), 13]
    parts = [data.batch(start, stop) for start, stop in pairwise(edges)]
    np.testing.assert_array_equal(np.concatenate(parts), saved)
    assert (saved.dtype, saved.shape) == (np.dtype(dtype), (13, 2, 3))
    assert digest == data.content_hash() == synthetic_dataset((2, 3), np.dtype(dtype), 13, 5).content_hash()


def test_content_hash_is_the_documented_one(load: Make) -> None:
    data = load(FLOATS, (3, 6, 8), y=np.arange(4))
    content = b"float32 (4, 3, 6, 8) labels\n" + FLOATS.tobytes() + np.arange(4, dtype=np.int64).tobytes()
    assert data.content_hash() == hashlib.sha256(content).hexdigest()


def test_content_hash_tells_datasets_apart(load: Make) -> None:
    x, y = np.arange(24.0, dtype=np.float32).reshape(4, 6), np.arange(4)
    hashes = [
        data.content_hash()
        for data in (
            load(x, (6,)),
            load(x, (6,), y=y),
            load(x, (6,), y=y[::-1]),
            load(x[::-1], (6,)),
            load(x, (6,), np.float64),
            load(x.reshape(4, 2, 3), (2, 3)),
            load(x.reshape(2, 12), (12,)),
            load(x, (6,), first=3),
            load(x, (6,), mean=(1.0,)),
        )
    ]
    assert len(set(hashes)) == len(hashes)


def test_content_hash_ignores_how_the_data_was_stored(load: Make) -> None:
    as_bytes = load(SOME, (3, 6, 8), preset="cifar10", y=np.arange(4))
    as_floats = load(FLOATS.transpose(0, 2, 3, 1), (3, 6, 8), preset="cifar10", y=np.eye(4))
    assert as_bytes.content_hash() == as_floats.content_hash()


def test_batch_is_a_copy_and_knows_its_bounds(load: Make) -> None:
    for data in (load(FLOATS, (3, 6, 8)), synthetic_dataset((3, 6, 8), F32, 4, 0)):
        before = data.content_hash()
        data.batch(0, 4)[:] = 0
        assert data.content_hash() == before
        assert data.batch(2, 2).shape == (0, 3, 6, 8)
        for start, stop in ((-1, 2), (3, 2), (0, 5)):
            with pytest.raises(IndexError):
                data.batch(start, stop)


def test_a_place_that_cannot_be_written_is_a_run_error(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="the inputs cannot be written"):
        synthetic_dataset((2,), F32, 3, 0).save(tmp_path / "missing" / "x.npy")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, which Linux has")
def test_a_full_disk_is_a_run_error() -> None:
    with pytest.raises(RunError, match="No space left on device"):
        synthetic_dataset((1000,), F32, 1000, 0).save(Path("/dev/full"))


# Synthetic


def test_synthetic_inputs() -> None:
    data = synthetic_dataset((3, 4), np.dtype(np.float64), 1000, 3)
    values = everything(data)
    np.testing.assert_array_equal(values, np.random.default_rng(3).standard_normal((1000, 3, 4), np.float32))
    assert abs(values.mean()) < 0.05
    assert abs(values.std() - 1) < 0.05
    assert (data.name, data.labels, len(data), data.shape) == ("synthetic", None, 1000, (3, 4))
    assert data.source == "1000 synthetic inputs, standard normal with seed 3, no labels"
    for dtype, count, complaint in ((np.int64, 3, "the model takes int64"), (np.float32, 0, "expected at least 1")):
        with pytest.raises(DataError, match=complaint):
            synthetic_dataset((3, 4), np.dtype(dtype), count, 0)
