"""Models with a fixed batch, a batch that the graph fixes inside, and open height and width, against plain sessions."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from bitswap_onnx.campaign.options import RunOptions
from bitswap_onnx.campaign.run import run_campaign
from bitswap_onnx.campaign.settings import Settings
from bitswap_onnx.campaign.setup import prepare
from bitswap_onnx.data.preprocessing import Preprocessing
from bitswap_onnx.errors import BitswapError
from bitswap_onnx.faults.fault import Fault, Injection
from tests.builders import build, normal, save

X = normal(20, 2, 5, 5, seed=3)
RESHAPED = """
net (float[{batch}, 2, 5, 5] x) => (float[{batch}, 4] y) {{
    h = Conv <pads = [1, 1, 1, 1]> (x, "c.weight")
    r = Relu (h)
    flat = Reshape (r, shape)
    y = Gemm <transB = 1> (flat, "fc.weight")
}}
"""
POOLED = """
net (float[N, {shape}] x) => (float[N, 4] y) {{
    {before}
    h = Conv (nchw, "c.weight")
    {norm}
    g = GlobalAveragePool (n)
    flat = Flatten (g)
    y = Gemm <transB = 1> (flat, "fc.weight")
}}
"""


def reshaped(batch: int | str, rows: int) -> onnx.ModelProto:
    """A model whose input declares ``batch`` and whose Reshape makes ``rows`` rows."""
    shape = np.array([rows, 150])
    weights = {"c__weight": normal(6, 2, 3, 3), "fc__weight": normal(4, 150, seed=1)}
    return build(RESHAPED.format(batch=batch), shape=shape, **weights)


def pooled(shape: str = "2, H, W", before: str = "nchw = Identity (x)", norm: str = "n = Relu (h)") -> onnx.ModelProto:
    stored = {"scale": np.ones(6), "bias": np.zeros(6), "mean": np.zeros(6), "var": np.ones(6)}
    weights = {"c__weight": normal(6, 2, 3, 3), "fc__weight": normal(4, 6, seed=1)}
    used = {name: values.astype(np.float32) for name, values in stored.items() if name in norm}
    return build(POOLED.format(shape=shape, before=before, norm=norm), **weights, **used)


def scores(proto: onnx.ModelProto, x: NDArray[Any], batch: int) -> NDArray[Any]:
    """Return what plain sessions give in batches of one size; the last one is padded with its last input."""
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    rows = np.minimum(np.arange(-(-len(x) // batch) * batch), len(x) - 1)
    return np.concatenate([session.run(["y"], {"x": x[part]})[0] for part in rows.reshape(-1, batch)])[: len(x)]


def saved(folder: Path, proto: onnx.ModelProto, x: NDArray[Any] = X) -> Path:
    np.savez(folder / "net.npz", x=x, y=np.arange(len(x)) % 4)
    return save(proto, folder / "net.onnx")


@pytest.mark.parametrize(("declared", "rows"), [(1, 1), (7, 7), ("N", 1), ("N", 7)])
@pytest.mark.parametrize("asked", [None, 7])
def test_a_fixed_batch_is_the_one_of_all_runs(
    tmp_path: Path, declared: int | str, rows: int, asked: int | None
) -> None:
    """Also where only a Reshape fixes it; the last batch, of 6 inputs, is padded."""
    proto, injections = reshaped(declared, rows), [Injection("0", (Fault("c", (1, 0, 1, 1), 30),))]
    model = saved(tmp_path, proto)
    if asked and declared == 1:
        with pytest.raises(
            BitswapError, match="`batch_size` 7: the model's batch dimension is fixed at 1; leave it out"
        ):
            prepare(model, Settings(batch_size=asked))
        return
    setup = prepare(model, Settings(batch_size=asked))
    assert setup.batch_size == rows
    np.testing.assert_allclose(setup.clean_run().golden.scores, scores(proto, X, rows), rtol=1e-5, atol=1e-6)
    rows_of_results = []
    for engine in ("incremental", "reference"):
        options = RunOptions(run=tmp_path / engine, workers=0, engine=engine, save_outputs=True)
        run_campaign(setup, injections, options)
        rows_of_results.append((tmp_path / engine / "outputs/inj_0.npy").read_bytes())
    assert rows_of_results[0] == rows_of_results[1]


def test_another_batch_than_the_baked_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BitswapError, match="`batch_size` 4: the model's batch dimension is fixed at 7; leave it out"):
        prepare(saved(tmp_path, reshaped("N", 7)), Settings(batch_size=4))


@pytest.mark.parametrize(("asked", "inputs", "used"), [(1_000_000, 20, 20), (33, 20, 20), (32, 20, 32), (2, 1, 1)])
def test_a_batch_far_beyond_the_inputs_is_cut_to_them(tmp_path: Path, asked: int, inputs: int, used: int) -> None:
    setup = prepare(saved(tmp_path, pooled(), X[:inputs]), Settings(batch_size=asked))
    assert setup.batch_size == used
    said = f"batches of {used} inputs: there are no more, `batch_size` {asked} would be padding"
    assert (said in setup.notes) == (used < asked)
    np.testing.assert_allclose(setup.clean_run().golden.scores, scores(pooled(), X[:inputs], 1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "before", "x", "settled"),
    [
        ("2, H, W", "nchw = Identity (x)", X, (2, 5, 5)),
        ("2, H, W", "nchw = Identity (x)", X.transpose(0, 2, 3, 1)[:, :4], (2, 4, 5)),
        ("H, W, 2", "nchw = Transpose <perm = [0, 3, 1, 2]> (x)", X[:, :, :4], (4, 5, 2)),
        ("2, 5, W", "nchw = Identity (x)", X, (2, 5, 5)),
        ("F", "nchw = Reshape (x, shape)", X.reshape(20, 50), (50,)),
    ],
)
def test_open_dimensions_have_the_size_of_the_data(
    tmp_path: Path, shape: str, before: str, x: NDArray[Any], settled: tuple[int, ...]
) -> None:
    proto = pooled(shape, before)
    if "shape)" in before:
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([-1, 2, 5, 5]), "shape"))
    setup = prepare(saved(tmp_path, proto, x))
    assert setup.spec.shape == setup.dataset.shape == settled
    assert f"input shape {','.join(map(str, settled))}: from the data, the model leaves it open" in setup.notes
    nhwc = settled[-1] == 2
    fed = x if x.shape[1:] == settled else x.transpose((0, 2, 3, 1) if nhwc else (0, 3, 1, 2))
    np.testing.assert_allclose(setup.clean_run().golden.scores, scores(proto, fed, 1), rtol=1e-5, atol=1e-6)


def test_resized_images_settle_open_dimensions(tmp_path: Path) -> None:
    model = saved(tmp_path, pooled(), X)
    assert prepare(model, Settings(preprocessing=Preprocessing(resize=(8, 6)))).spec.shape == (2, 8, 6)
    assert prepare(model, Settings(input_shape=(2, 5, 5))).spec.shape == (2, 5, 5)


def test_batch_norm_in_training_mode_runs_one_input_at_a_time(tmp_path: Path) -> None:
    norm = "n, m, v = BatchNormalization <training_mode = 1> (h, scale, bias, mean, var)"
    setup = prepare(saved(tmp_path, pooled(norm=norm)), Settings(batch_size=5))
    assert setup.batch_size == 1
    assert any(
        note.startswith("inputs run one at a time: in a batch they would see each other") for note in setup.notes
    )
