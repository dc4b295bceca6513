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
        run_campaign(setup, injections, options=options)
        rows_of_results.append((tmp_path / engine / "outputs/inj_0.npy").read_bytes())
    assert rows_of_results[0] == rows_of_results[1]


@pytest.mark.parametrize("asked", [1, 4])
def test_another_batch_than_the_baked_one_is_refused(tmp_path: Path, asked: int) -> None:
    message = f"`batch_size` {asked}: the model's batch dimension is fixed at 7; leave it out"
    with pytest.raises(BitswapError, match=message):
        prepare(saved(tmp_path, reshaped("N", 7)), Settings(batch_size=asked))


def test_one_input_fills_a_baked_batch(tmp_path: Path) -> None:
    setup = prepare(saved(tmp_path, reshaped("N", 7), X[:1]))
    assert setup.batch_size == 7
    np.testing.assert_allclose(
        setup.clean_run().golden.scores, scores(reshaped("N", 7), X[:1], 7), rtol=1e-5, atol=1e-6
    )


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


CONDITIONAL = """
net (float[N, 2, 3, 3] x) => (float[N, 4] y) {
    a = Conv (x, "conv.weight")
    b = Relu (a)
    sum = ReduceSum <keepdims = 0> (b)
    small = Less (sum, limit)
    d = If (small) <
        then_branch = kept () => (float[N, 6, 3, 3] kept_out) { kept_out = Identity (b) },
        else_branch = turned () => (float[N, 6, 3, 3] turned_out) { turned_out = Neg (b) }
    >
    flat = Flatten (d)
    y = Gemm <transB = 1> (flat, "fc.weight")
}
"""


def test_a_condition_on_all_inputs_of_a_batch_that_only_faults_meet(tmp_path: Path) -> None:
    """One input whose sum a fault makes large must not turn the others; a loop over single inputs is the oracle."""
    weights = {"conv__weight": normal(6, 2, 1, 1), "fc__weight": normal(4, 54, seed=1) * np.float32(0.3)}
    proto, x = build(CONDITIONAL, limit=np.float32(1e6), **weights), normal(24, 2, 3, 3, seed=2)
    model = saved(tmp_path, proto, x)
    faults = [(channel, bit) for channel in range(6) for bit in (30, 28, 22)]
    injections = [Injection(f"{c}-{bit}", (Fault("conv", (c, 0, 0, 0), bit),)) for c, bit in faults]
    found = []
    for engine in ("incremental", "reference"):
        setup = prepare(model)
        assert "inputs run one at a time: in a batch they would see each other, by ReduceSum" in " ".join(setup.notes)
        run_campaign(
            setup, injections, options=RunOptions(run=tmp_path / engine, workers=0, engine=engine, save_outputs=True)
        )
        found.append([np.load(tmp_path / engine / f"outputs/inj_{injection.id}.npy") for injection in injections])
    turned = 0
    for (channel, bit), incremental, reference in zip(faults, *found, strict=True):
        faulty = onnx.ModelProto()
        faulty.CopyFrom(proto)
        (kernel,) = (tensor for tensor in faulty.graph.initializer if tensor.name == "conv.weight")
        bits = weights["conv__weight"].view(np.uint32).copy()
        bits[channel, 0] ^= 1 << bit
        kernel.raw_data = bits.tobytes()
        alone = scores(faulty, x, 1)
        turned += int((alone.max(axis=1) > 1e5).sum() not in (0, len(x)))
        np.testing.assert_allclose(reference, alone, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(incremental, reference)
    assert turned
