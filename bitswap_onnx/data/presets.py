"""How pixels are scaled and sized, and the presets of datasets and networks."""

from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True)
class Recipe:
    """Resize to ``size`` (by the shorter side and a centre crop if that is set), then (x / divisor - mean) / std.

    All in float32, as PyTorch and Keras compute. ``double``: x / divisor in float32, the rest in float64, then rounded to
    float32.
    """

    mean: tuple[float, ...] | None = None  # None: values stay as they are
    std: tuple[float, ...] = (1.0,)
    divisor: float = 255.0
    bgr: bool = False
    size: tuple[int, int] | Literal["model"] | None = None
    shorter_side: int | None = None
    double: bool = False

    @property
    def channels(self) -> int:
        """The number of channels that mean and std are for; 1: any number."""
        return max(len(self.mean or (0.0,)), len(self.std))


_AS_TORCH = {
    "cifar10": Recipe((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "cifar100": Recipe(
        (0.5070751592371323, 0.48654887331495095, 0.4409178433670343),
        (0.2673342858792401, 0.2564384629170883, 0.27615047132568404),
    ),
    "gtsrb": Recipe((0.3403, 0.3121, 0.3214), (0.2724, 0.2608, 0.2669), size=(50, 50)),
    "imagenet-torch": Recipe((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), size=(224, 224), shorter_side=256),
}
PRESETS = {
    **_AS_TORCH,
    # As numpy computes with a mean and a std of Python's numbers, the formula that tf_injector documents.
    **{f"{name}-numpy": replace(recipe, double=True) for name, recipe in _AS_TORCH.items()},
    # As Keras computes, in float32 with numpy too.
    "imagenet-tf": Recipe((1.0, 1.0, 1.0), divisor=127.5, size="model"),
    "imagenet-caffe": Recipe((103.939, 116.779, 123.68), divisor=1.0, bgr=True, size="model"),
    "imagenet-identity": Recipe((0.0, 0.0, 0.0), divisor=1.0, size="model"),
}
