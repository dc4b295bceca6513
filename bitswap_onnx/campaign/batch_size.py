"""The one batch size of a campaign: asked for, fixed by the model, or chosen for the model and its data."""

from dataclasses import replace

from bitswap_onnx.campaign.settings import Settings
from bitswap_onnx.data.dataset import Dataset
from bitswap_onnx.errors import BitswapError, ModelError
from bitswap_onnx.graph.model import Model
from bitswap_onnx.graph.rows import refuse_random
from bitswap_onnx.graph.signature import ModelInput
from bitswap_onnx.graph.slices import Slicer
from bitswap_onnx.runtime.baked_batch import baked_batch
from bitswap_onnx.runtime.measure import why_one_at_a_time
from bitswap_onnx.runtime.session import choose_provider

#: The default batch size: as many inputs as there are, up to so many, and fewer where a value would have more bytes.
LARGEST_BATCH, _LARGEST_VALUE = 32, 1 << 25


def choose_batch(
    model: Model, settings: Settings, output: str, spec: ModelInput, dataset: Dataset
) -> tuple[ModelInput, int, tuple[str, ...]]:
    """Return the input, with the batch that the graph fixes, the batch size of all runs, and what to say of it.

    It is 1 where inputs of a batch see each other. Raises BitswapError for a ``batch_size`` that contradicts the model's,
    ModelError for a model whose inputs see each other in batches of a fixed size, or that draws at random.
    """
    size, notes = _wanted(model, settings, output, spec, dataset)
    refuse_random(Slicer(model, output, size, spec.shape))
    some, provider = dataset.batch(0, min(len(dataset), 3)), choose_provider(settings.provider)
    why = None if size == 1 else why_one_at_a_time(model, output, some, spec.batch, provider)
    is_doubtful = spec.batch is None and (size == 1 or why is not None)
    if is_doubtful and (baked := baked_batch(model, output, some, provider)):
        spec = replace(spec, batch=baked)
        size, _ = _wanted(model, settings, output, spec, dataset)
        notes = (f"batches of {baked} inputs: the graph fixes that size inside, though its input leaves it open",)
        why = why_one_at_a_time(model, output, some, baked, provider)
    if why is None:
        return spec, size, notes
    if spec.batch is not None:
        raise ModelError(
            f"{model.name}: inputs have to run one at a time ({why}), and its batch is fixed at {spec.batch}; export it "
            "again with an open batch or one of 1"
        )
    return spec, 1, (f"inputs run one at a time: {why}",)


def _wanted(
    model: Model, settings: Settings, output: str, spec: ModelInput, dataset: Dataset
) -> tuple[int, tuple[str, ...]]:
    """Return the size that is asked for or fixed, else a default; a size far beyond the inputs is cut to them."""
    size, inputs = settings.batch_size, len(dataset)
    if size is None:
        return spec.batch or _default_size(model, output, spec, inputs), ()
    if spec.batch not in (None, size):
        raise BitswapError(f"`batch_size` {size}: the model's batch dimension is fixed at {spec.batch}; leave it out")
    if spec.batch is None and size > 1 << (inputs - 1).bit_length():  # more than half of it would be padding
        return inputs, (f"batches of {inputs} inputs: there are no more, `batch_size` {size} would be padding",)
    return size, ()


def _default_size(model: Model, output: str, spec: ModelInput, inputs: int) -> int:
    """Return a batch size that suits the model and its data: a power of two, or all inputs."""
    slicer = Slicer(model, output, LARGEST_BATCH, spec.shape)
    made = {name for node in slicer.nodes for name in node.output if name and slicer.has_rows(name)}
    largest = max((slicer.row_bytes(name) for name in made), default=0)
    size = LARGEST_BATCH
    while size > 1 and size * largest > _LARGEST_VALUE:
        size //= 2
    return min(size, inputs)
