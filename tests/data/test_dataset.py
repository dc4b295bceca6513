import hashlib
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from bitswap_onnx.data import dataset
from bitswap_onnx.data.dataset import Dataset, batches, load_dataset, synthetic_dataset
from bitswap_onnx.data.preprocessing import PRESETS, Preprocessing, resize_bilinear
from bitswap_onnx.data.readers import Decoding, read_image
from bitswap_onnx.errors import DataError, RunError
from tests import reference

F32 = np.dtype(np.float32)
Make = Callable[..., Dataset]


def pixels(*shape: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


@pytest.fixture
def load(tmp_path: Path) -> Make:
    """Store ``x`` (and ``y``) as an .npz and load it for a model of ``shape``."""

    def load(
        x: NDArray[Any], shape: tuple[int, ...], dtype: Any = F32, y: NDArray[Any] | None = None, **options: Any
    ) -> Dataset:
        arrays: dict[str, Any] = {"x": x} if y is None else {"x": x, "y": y}
        np.savez(tmp_path / "some.npz", **arrays)
        names = Preprocessing.__dataclass_fields__
        preprocessing = Preprocessing(**{key: options.pop(key) for key in list(options) if key in names})
        path = tmp_path / "some.npz"
        return load_dataset(path, input_shape=shape, dtype=np.dtype(dtype), preprocessing=preprocessing, **options)

    return load


def everything(data: Dataset) -> NDArray[Any]:
    return data.batch(0, len(data))


def images_in(folder: Path, *shapes: tuple[int, ...]) -> list[Path]:
    files = [folder / f"{i}.png" for i in range(len(shapes))]
    for i, (file, shape) in enumerate(zip(files, shapes, strict=True)):
        Image.fromarray(pixels(*shape, seed=i)).save(file)
    return files


def hand(x: NDArray[Any], mean: tuple[float, ...], std: tuple[float, ...]) -> NDArray[np.float32]:
    """Normalise pixels (N, 3, H, W) with the formula as the frameworks write it, in float32."""
    planes = [
        (x[:, c].astype(np.float32) / np.float32(255) - np.float32(mean[c])) / np.float32(std[c]) for c in range(3)
    ]
    return np.stack(planes, axis=1)


def test_paths_may_be_texts(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", FLOATS)
    np.save(tmp_path / "y.npy", np.arange(4))
    texts = str(tmp_path / "x.npy"), str(tmp_path / "y.npy")
    found = load_dataset(texts[0], input_shape=(3, 6, 8), dtype=F32, labels=texts[1])
    np.testing.assert_array_equal(everything(found), FLOATS)
    assert found.labels is not None
    assert found.labels.tolist() == [0, 1, 2, 3]


# What the values become

NORMALISED = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "cifar100": (
        (0.5070751592371323, 0.48654887331495095, 0.4409178433670343),
        (0.2673342858792401, 0.2564384629170883, 0.27615047132568404),
    ),
    "gtsrb": ((0.3403, 0.3121, 0.3214), (0.2724, 0.2608, 0.2669)),
    "imagenet-torch": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
SIZES = {"gtsrb": 50, "imagenet-torch": 224}


@pytest.mark.parametrize("preset", NORMALISED)
@pytest.mark.parametrize("kind", [np.uint8, np.int64, np.float32, np.float64])
def test_presets_that_normalise(load: Make, preset: str, kind: type) -> None:
    side = SIZES.get(preset, 32)
    x = pixels(4, 3, side, side)
    found = everything(load(x.astype(kind), (3, side, side), preset=preset))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, hand(x, *NORMALISED[preset]))


def test_cifar10_as_torch_computes_it(load: Make) -> None:
    x = pixels(4, 3, 32, 32)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in NORMALISED["cifar10"])
    expected = (torch.from_numpy(x).float().div(255) - mean) / std
    np.testing.assert_array_equal(everything(load(x, (3, 32, 32), preset="cifar10")), expected.numpy())


@pytest.mark.parametrize("channels_last", [False, True])
def test_imagenet_presets_of_keras(load: Make, channels_last: bool) -> None:
    x = pixels(3, 8, 9, 3)
    shape = (8, 9, 3) if channels_last else (3, 8, 9)
    f = x.astype(np.float32)
    mean = np.array([103.939, 116.779, 123.68], np.float32)
    for preset, expected in {
        "imagenet-tf": f / np.float32(127.5) - np.float32(1),
        "imagenet-caffe": f[..., ::-1] - mean,
        "imagenet-identity": f,
    }.items():
        found = everything(load(x, shape, preset=preset))
        np.testing.assert_array_equal(found if channels_last else found.transpose(0, 2, 3, 1), expected)


@pytest.mark.parametrize(
    ("stored", "options", "expected"),
    [
        (np.array([[0, 255]], np.uint8), {"mean": (0.5,), "std": (0.25,)}, [[-2, 2]]),
        (np.array([[0, 255]], np.uint8), {"mean": (0.5,)}, [[-0.5, 0.5]]),
        (np.array([[0, 255]], np.uint8), {"std": (0.5, 2.0)}, [[0, 0.5]]),
        (np.array([[10, 30]], np.float64), {"mean": (10,), "std": (2.0,)}, [[0, 10]]),
        (np.array([[10, 30]], np.int16), {"mean": (10, 20), "std": (2.0,)}, [[0, 5]]),
        (np.array([[10, 30]], np.float64), {}, [[10, 30]]),
        (np.array([[True, False]]), {}, [[1, 0]]),
    ],
)
def test_free_mean_and_std(
    load: Make, stored: NDArray[Any], options: dict[str, tuple[float, ...]], expected: list[list[float]]
) -> None:
    assert everything(load(stored, (2,), **options)).tolist() == expected


def test_values_per_channel_follow_the_models_layout(load: Make) -> None:
    x = np.ones((2, 4, 5, 3), np.float32)
    for shape, axis in (((4, 5, 3), 3), ((3, 4, 5), 1)):
        found = everything(load(x, shape, mean=(0, 1, 2)))
        np.testing.assert_array_equal(np.moveaxis(found, axis, 1)[:, :, 0, 0], [[1, 0, -1]] * 2)


@pytest.mark.parametrize(
    ("stored", "model"),
    [
        (np.float64, np.float64),
        (np.float16, np.float32),
        (np.float32, np.float16),
        (np.float32, ml_dtypes.bfloat16),
        (np.uint8, np.uint8),
        (np.uint8, np.int64),
        (np.int64, np.int32),
        (np.bool_, np.bool_),
    ],
)
def test_values_are_cast_to_what_the_model_takes(load: Make, stored: Any, model: Any) -> None:
    x = (pixels(3, 6) % 100).astype(stored)
    found = everything(load(x, (6,), model))
    assert found.dtype == np.dtype(model)
    np.testing.assert_array_equal(found, x.astype(model))


# Sizes


@settings(max_examples=60, deadline=None)
@given(st.tuples(*[st.integers(1, 40)] * 4), st.integers(0, 1000))
def test_resize_agrees_with_torch(sizes: tuple[int, int, int, int], seed: int) -> None:
    height, width, *size = sizes
    x = np.random.default_rng(seed).uniform(0, 255, (2, 3, height, width)).astype(np.float32)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(x), size, mode="bilinear", align_corners=False, antialias=False
    ).numpy()
    found = resize_bilinear(x, (size[0], size[1]), (2, 3))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-3)
    last = resize_bilinear(x.transpose(0, 2, 3, 1), (size[0], size[1]), (1, 2))
    np.testing.assert_array_equal(last.transpose(0, 3, 1, 2), found)


def test_resize_by_hand() -> None:
    x = np.array([[0, 10], [20, 30]], np.float32).reshape(1, 1, 2, 2)
    assert resize_bilinear(x, (1, 1), (2, 3)).item() == 15
    assert resize_bilinear(x, (2, 4), (2, 3)).tolist() == [[[[0, 2.5, 7.5, 10], [20, 22.5, 27.5, 30]]]]
    np.testing.assert_array_equal(resize_bilinear(x, (2, 2), (2, 3)), x)


def bilinear(x: NDArray[Any], *size: int) -> NDArray[np.float32]:
    """Resize (N, C, H, W) as torch does without antialiasing."""
    resized = torch.nn.functional.interpolate(torch.from_numpy(x).float(), size, mode="bilinear", align_corners=False)
    return np.asarray(resized.numpy())


def test_resizing_comes_before_normalising(load: Make) -> None:
    x = pixels(2, 20, 30, 3)
    nchw = x.transpose(0, 3, 1, 2)
    gtsrb = everything(load(x, (3, 50, 50), preset="gtsrb"))
    np.testing.assert_allclose(gtsrb, hand(bilinear(nchw, 50, 50), *NORMALISED["gtsrb"]), atol=1e-4)
    free = everything(load(x, (10, 12, 3), resize=(10, 12), mean=(0,), std=(1,)))
    np.testing.assert_allclose(free.transpose(0, 3, 1, 2), bilinear(nchw, 10, 12) / 255, atol=1e-5)
    keras = everything(load(nchw, (40, 50, 3), preset="imagenet-identity"))
    np.testing.assert_allclose(keras.transpose(0, 3, 1, 2), bilinear(nchw, 40, 50), atol=1e-3)
    replaced = everything(load(nchw, (3, 8, 8), preset="gtsrb", resize=(8, 8)))
    assert replaced.shape == (2, 3, 8, 8)


@pytest.mark.parametrize(("height", "width", "top", "left"), [(300, 400, 16, 58), (400, 301, 58, 16)])
def test_imagenet_torch_resizes_and_crops_arrays(load: Make, height: int, width: int, top: int, left: int) -> None:
    x = pixels(1, 3, height, width)
    size = (256, 256 * 400 // 300) if height < width else (int(256 * 400 / 301), 256)
    whole = bilinear(x, *size)[:, :, top : top + 224, left : left + 224]
    mean, std = (np.reshape(v, (3, 1, 1)) for v in NORMALISED["imagenet-torch"])
    found = everything(load(x, (3, 224, 224), preset="imagenet-torch"))
    np.testing.assert_allclose(found, (whole / 255 - mean) / std, atol=1e-4)


def test_imagenet_torch_on_image_files(tmp_path: Path) -> None:
    files = images_in(tmp_path, (300, 400, 3), (500, 260, 3))
    given = Preprocessing(preset="imagenet-torch")
    data = load_dataset(tmp_path, input_shape=(3, 224, 224), dtype=F32, preprocessing=given)
    x = np.stack([read_image(file, Decoding("RGB", 256, (224, 224))) for file in files]).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(everything(data), hand(x, *NORMALISED["imagenet-torch"]))


def test_image_files_of_any_size_meet_the_models(tmp_path: Path) -> None:
    images_in(tmp_path, (20, 30, 3), (8, 9, 3), (50, 50, 3))
    (tmp_path / "labels.txt").write_text("4\n5\n6\n")
    data = load_dataset(tmp_path, input_shape=(3, 50, 50), dtype=F32, preprocessing=Preprocessing(preset="gtsrb"))
    assert data.labels is not None
    assert (len(data), data.labels.tolist()) == (3, [4, 5, 6])
    exact = hand(pixels(1, 50, 50, 3, seed=2).transpose(0, 3, 1, 2), *NORMALISED["gtsrb"])
    np.testing.assert_array_equal(data.batch(2, 3), exact)
    np.testing.assert_array_equal(np.concatenate([data.batch(i, i + 1) for i in range(3)]), everything(data))


def test_image_files_of_unequal_size_are_refused_by_name(tmp_path: Path) -> None:
    images_in(tmp_path, (8, 8, 3), (8, 9, 3))
    data = load_dataset(tmp_path, input_shape=(3, 8, 8), dtype=F32, preprocessing=Preprocessing(preset="cifar10"))
    assert data.batch(0, 1).shape == (1, 3, 8, 8)
    with pytest.raises(DataError, match=r"1\.png: shape \(3, 8, 9\), the model takes \(3, 8, 8\); try `resize`"):
        data.batch(0, 2)


def test_image_files_become_gray_for_a_model_of_one_channel(tmp_path: Path) -> None:
    images_in(tmp_path, (8, 9, 3))
    data = load_dataset(tmp_path, input_shape=(1, 8, 9), dtype=F32, preprocessing=Preprocessing(mean=(0.0,)))
    gray = np.asarray(Image.fromarray(pixels(8, 9, 3)).convert("L"), np.float32) / np.float32(255)
    np.testing.assert_array_equal(everything(data)[0, 0], gray)


# Layouts


@pytest.mark.parametrize(
    ("stored", "model", "layout", "order"),
    [
        ((3, 4, 5), (3, 4, 5), None, (0, 1, 2)),
        ((4, 5, 3), (4, 5, 3), None, (0, 1, 2)),
        ((3, 4, 5), (4, 5, 3), None, (1, 2, 0)),
        ((4, 5, 3), (3, 4, 5), None, (2, 0, 1)),
        ((8, 8, 16), (16, 8, 8), None, (2, 0, 1)),
        ((3, 4, 3), (3, 4, 3), None, (0, 1, 2)),
        ((1, 7, 7), (7, 7, 1), "nchw", (1, 2, 0)),
        ((3, 3, 3), (3, 3, 3), "nchw", (0, 1, 2)),
        ((3, 3, 3), (3, 3, 3), "nhwc", (2, 0, 1)),
        ((7,), (7,), None, (0,)),
        ((2, 3), (2, 3), None, (0, 1)),
        ((3, 2, 4, 4), (3, 2, 4, 4), None, (0, 1, 2, 3)),
    ],
)
def test_data_is_brought_to_the_models_layout(
    load: Make, stored: tuple[int, ...], model: tuple[int, ...], layout: str | None, order: tuple[int, ...]
) -> None:
    x = np.random.default_rng(0).normal(size=(2, *stored)).astype(np.float32)
    found = everything(load(x, model, data_layout=layout))
    np.testing.assert_array_equal(found, x.transpose(0, *(axis + 1 for axis in order)))
    assert found.flags.c_contiguous


# What is refused

SOME = pixels(4, 3, 6, 8)
FLOATS = SOME.astype(np.float32)
HOLED = FLOATS.copy()
HOLED[2, 1, 0, 0] = np.nan
CUBE = np.ones((2, 3, 3, 3), np.float32)


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


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"preset": "cifar"}, "`preset`: expected one of cifar10, cifar100, gtsrb, imagenet-torch"),
        ({"preset": "cifar"}, "imagenet-identity, found 'cifar'"),
        ({"preset": "cifar10", "mean": (0.5,)}, "give `preset`, or `mean` and `std`"),
        ({"mean": (1, 2), "std": (1, 2, 3)}, "`mean` has 2 values and `std` 3"),
        ({"std": (1.0, 0.0)}, "a std above 0"),
        ({"mean": (float("nan"),)}, "expected finite numbers"),
        ({"mean": "0.5"}, "`mean`: expected a tuple of numbers, found '0.5'"),
        ({"mean": 0.5}, "`mean`: expected a tuple of numbers, found 0.5"),
        ({"std": ("1",)}, "`std`: expected a tuple of numbers, found ('1',)"),
        ({"resize": (0, 4)}, "`resize`: expected a height and a width of at least 1, found (0, 4)"),
        ({"resize": (4,)}, "`resize`: expected a height and a width of at least 1, found (4,)"),
        ({"resize": (4.5, 4)}, "`resize`: expected a tuple of whole numbers, found (4.5, 4)"),
        ({"resize": "4,4"}, "`resize`: expected a tuple of whole numbers, found '4,4'"),
        ({"data_layout": "NCHW"}, "`data_layout`: expected nchw or nhwc, found 'NCHW'"),
        ({"data_layout": "channels first"}, "`data_layout`: expected nchw or nhwc, found 'channels first'"),
    ],
)
def test_options_that_contradict_themselves_are_refused(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(DataError) as caught:
        Preprocessing(**options)
    assert complaint in str(caught.value)


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


# Reference data


@reference.needed
def test_cifar10_reference() -> None:
    data = load_dataset(
        reference.IMAGES, input_shape=(3, 32, 32), dtype=F32, preprocessing=Preprocessing(preset="cifar10")
    )
    found = everything(data)
    assert (found.dtype, found.shape) == (F32, (846, 3, 32, 32))
    with np.load(reference.IMAGES) as archive:
        x, y = archive["x"], archive["y"]
    assert found[0].tobytes() == hand(x[:1], *NORMALISED["cifar10"])[0].tobytes()
    np.testing.assert_array_equal(found, hand(x, *NORMALISED["cifar10"]))
    np.testing.assert_array_equal(data.labels, y)


def test_every_preset_is_tested_here() -> None:
    assert set(PRESETS) == {*NORMALISED, "imagenet-tf", "imagenet-caffe", "imagenet-identity"}
