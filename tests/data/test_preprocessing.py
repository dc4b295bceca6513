"""What the values of a dataset become: presets, scaling, sizes and layouts, against PyTorch, torchvision and by hand."""

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

from bitswap_onnx.data.dataset import load_dataset
from bitswap_onnx.data.images import Decoding, read_image
from bitswap_onnx.data.preprocessing import Preprocessing, resize_bilinear
from bitswap_onnx.data.presets import PRESETS
from bitswap_onnx.errors import DataError
from tests import reference
from tests.datasets import F32, NORMALISED, Make, everything, hand, images_in, pixels

SIZES = {"gtsrb": 50, "imagenet-torch": 224}


@pytest.mark.parametrize("preset", NORMALISED)
@pytest.mark.parametrize("kind", [np.uint8, np.int64, np.float32, np.float64])
def test_presets_that_normalise(load: Make, preset: str, kind: type) -> None:
    side = SIZES.get(preset, 32)
    x = pixels(4, 3, side, side)
    found = everything(load(x.astype(kind), (3, side, side), preset=preset))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, hand(x, *NORMALISED[preset]))


#: Every pixel value in every channel.
VALUES = np.broadcast_to(np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16), (1, 3, 16, 16))


def every_value(side: int) -> NDArray[np.uint8]:
    """Return images (1, 3, side, side) that hold every pixel value in every channel."""
    return np.tile(VALUES, (1, 1, 14, 14))[:, :, :side, :side].copy()


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_to_the_last_bit(load: Make, preset: str) -> None:
    """The plain presets as torch computes them, those of numpy in its arithmetic with numbers of Python."""
    side = SIZES.get(preset.removesuffix("-numpy"), 32)
    x, recipe = every_value(side), PRESETS[preset]
    assert recipe.mean is not None
    found = everything(load(x, (3, side, side), preset=preset))
    if preset.endswith("-numpy"):
        image = x[0].transpose(1, 2, 0) / np.float32(255.0)
        scaled = (image - NORMALISED[preset[:-6]][0]) / NORMALISED[preset[:-6]][1]
        assert scaled.dtype == np.float64
        expected = scaled.astype(np.float32).transpose(2, 0, 1)[None]
    else:
        mean, std = (torch.tensor(values, dtype=torch.float32).view(-1, 1, 1) for values in (recipe.mean, recipe.std))
        pixels_in_order = torch.from_numpy(x[:, ::-1].copy() if recipe.bgr else x)
        expected = pixels_in_order.float().div(recipe.divisor).sub(mean).div(std).numpy()
    assert found.tobytes() == np.ascontiguousarray(expected).tobytes()


@pytest.mark.parametrize("preset", NORMALISED)
def test_numpy_and_torch_differ_in_the_last_bit_alone(load: Make, preset: str) -> None:
    side = SIZES.get(preset, 32)
    plain, double = (
        everything(load(every_value(side), (3, side, side), preset=name)) for name in (preset, f"{preset}-numpy")
    )
    assert (plain != double).any()
    np.testing.assert_array_almost_equal_nulp(np.abs(plain) + np.float32(1), np.abs(double) + np.float32(1), 2)


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


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"preset": "cifar"}, "`preset`: expected one of cifar10, cifar100, gtsrb, imagenet-torch"),
        ({"preset": "cifar"}, "imagenet-identity, found 'cifar'"),
        ({"preset": "cifar10", "mean": (0.5,)}, "give `preset`, or `mean` and `std`"),
        ({"mean": (1, 2), "std": (1, 2, 3)}, "`mean` has 2 values and `std` 3"),
        ({"std": (1.0, 0.0)}, "a std above 0"),
        ({"mean": (float("nan"),)}, "expected finite numbers"),
        ({"mean": "0.5;1"}, "`mean`: expected numbers separated by commas, found '0.5;1'"),
        ({"mean": {0.5}}, "`mean`: expected a tuple of numbers, found {0.5}"),
        ({"std": ("1",)}, "`std`: expected a tuple of numbers, found ('1',)"),
        ({"resize": (0, 4)}, "`resize`: expected a height and a width of at least 1, found (0, 4)"),
        ({"resize": (4,)}, "`resize`: expected a height and a width of at least 1, found (4,)"),
        ({"resize": (4.5, 4)}, "`resize`: expected a tuple of whole numbers, found (4.5, 4)"),
        ({"resize": "4x4"}, "`resize`: expected numbers separated by commas, found '4x4'"),
        ({"data_layout": "NCHW"}, "`data_layout`: expected nchw or nhwc, found 'NCHW'"),
        ({"data_layout": "channels first"}, "`data_layout`: expected nchw or nhwc, found 'channels first'"),
    ],
)
def test_options_that_contradict_themselves_are_refused(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(DataError) as caught:
        Preprocessing(**options)
    assert complaint in str(caught.value)


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
    others = ("imagenet-tf", "imagenet-caffe", "imagenet-identity")
    assert set(PRESETS) == {*NORMALISED, *(f"{name}-numpy" for name in NORMALISED), *others}
