"""The files that the pages of the documentation speak of, small: models, checkpoints, images, lists.

Each function writes its files into an empty folder; `FILES` names those that a page needs before its first command.
"""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

SEED = 4

#: A network as a reader has it, and the checkpoint of its training.
_NET = """
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, stride=2, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.linear = nn.Linear(36, 10)

    def forward(self, x):
        x = self.bn1(self.conv1(x)).relu()
        return self.linear(nn.functional.max_pool2d(x, 4).flatten(1))


def build():
    return Net()
"""

_TEXT = """
from torch import nn


class Text(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(50, 8)
        self.linear = nn.Linear(8, 3)

    def forward(self, tokens):
        return self.linear(self.embedding(tokens).mean(1))


def build():
    return Text()
"""


def images(folder: Path) -> None:
    """Write test.npz: eight images as CIFAR stores them, with labels."""
    rng = np.random.default_rng(SEED)
    np.savez(folder / "test.npz", x=rng.integers(0, 256, (8, 3, 32, 32), dtype=np.uint8), y=np.arange(8) % 10)


def torch_files(folder: Path) -> None:
    """Write net.py with its checkpoint and program, text.py with its checkpoint, and the checkpoint of a ResNet20."""
    import torch

    from bitswap_onnx.models.zoo import build

    torch.manual_seed(SEED)
    for name, source in (("net", _NET), ("text", _TEXT)):
        (folder / f"{name}.py").write_text(source)
        namespace: dict[str, Callable[[], torch.nn.Module]] = {}
        exec(compile(source, f"{name}.py", "exec"), namespace)
        network = namespace["build"]().eval()
        torch.save(network.state_dict(), folder / f"{name}.pth")
        if name == "net":
            sizes = ({0: torch.export.Dim("batch")},)
            program = torch.export.export(network, (torch.zeros(2, 3, 32, 32),), dynamic_shapes=sizes)
            torch.export.save(program, folder / "net.pt2")
    torch.save(build("ResNet20", "CIFAR10").state_dict(), folder / "ResNet20.th")


def keras_file(folder: Path) -> None:
    """Write model.keras, which takes images with the channels last."""
    import keras

    layers = keras.layers
    keras.utils.set_random_seed(SEED)
    stack = [keras.Input((32, 32, 3)), layers.Conv2D(4, 3, strides=2), layers.BatchNormalization(), layers.ReLU()]
    keras.Sequential([*stack, layers.GlobalAveragePooling2D(), layers.Dense(10)]).save(folder / "model.keras")


def resnet_list(folder: Path) -> None:
    """Write faults.csv: three faults of ResNet20."""
    rows = '0,conv1,"(0, 0, 0, 0)",30\n1,layer2.0.conv1,"(1, 2, 0, 0)",20\n2,linear,"(3, 4)",31\n'
    (folder / "faults.csv").write_text("Injection,Layer,TensorIndex,Bit\n" + rows)


def ranking(folder: Path) -> None:
    """Write mine.json: layers of the network, the most critical first."""
    (folder / "mine.json").write_text(json.dumps(["linear", "conv1"]))


def forms_of_data(folder: Path) -> None:
    """Write the images of test.npz in other forms: net.npz, scaled to 0-1; raw.npz; images/, a folder per class."""
    from PIL import Image

    with np.load(folder / "test.npz") as data:
        pixels, labels = data["x"], data["y"]
    np.savez(folder / "raw.npz", x=pixels, y=labels)
    np.savez(folder / "net.npz", x=(pixels / 255).astype(np.float32), y=labels)
    for label in range(10):
        (folder / f"images/class{label}").mkdir(parents=True)
    for image, label in zip(pixels, labels, strict=True):
        Image.fromarray(image.transpose(1, 2, 0)).save(folder / f"images/class{label}/0.png")


#: Page → what writes the files that it begins with.
FILES: dict[str, tuple[Callable[[Path], None], ...]] = {
    "README.md": (images, torch_files, keras_file),
    "docs/models.md": (torch_files, keras_file, resnet_list),
    "docs/studies.md": (images, ranking),
    "docs/statistics.md": (images,),
    "docs/agreement.md": (images, resnet_list),
    "docs/howto.md": (images, forms_of_data),
}
