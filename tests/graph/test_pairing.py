"""Pairing by content and converting lists: against published Keras lists, numpy's transpose, and receipts."""

import csv
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from onnx import numpy_helper

from bitswap_onnx.errors import FaultListError
from bitswap_onnx.faults.fault import Fault, Injection, Kind
from bitswap_onnx.faults.fault_list import read_fault_list, write_fault_list
from bitswap_onnx.graph.list_conversion import converted_faults
from bitswap_onnx.graph.model import Model, from_proto, load_model
from bitswap_onnx.graph.pairing import multiset_hash, pair_targets
from bitswap_onnx.graph.resolve import resolve
from bitswap_onnx.graph.targets import find_targets
from tests import reference
from tests.builders import cnn, normal, single
from tests.keras_layout import as_keras


def partners(a: onnx.ModelProto, b: onnx.ModelProto) -> dict[str, str]:
    return {tensor: pair.partner.tensor for tensor, pair in pair_targets(from_proto(a), from_proto(b)).pairs.items()}


def test_layers_of_two_frameworks() -> None:
    assert partners(cnn(), as_keras(cnn())) == {
        "conv.weight": "conv2d/kernel",
        "conv.bias": "conv2d/bias",
        "bn.weight": "batch_normalization/gamma",
        "bn.bias": "batch_normalization/beta",
        "bn.running_mean": "batch_normalization/moving_mean",
        "bn.running_var": "batch_normalization/moving_variance",
        "fc.weight": "dense/kernel",
        "fc.bias": "dense/bias",
    }


BITS = np.array([0x7FC00001, 0xFFC00000, 0x80000000, 0, 1, 0x7F800000], np.uint32).view(np.float32)


@pytest.mark.parametrize(
    ("a", "b", "index", "expected"),
    [
        (normal(2, 3, 4), normal(2, 3, 4).transpose(2, 0, 1), (1, 2, 3), (3, 1, 2)),
        (normal(5, 4, 1, 1), normal(5, 4).T, (3, 2, 0, 0), (2, 3)),
        (normal(6), normal(6).reshape(1, 6, 1), (4,), (0, 4, 0)),
        (normal(6, 1, 3, 3), normal(6, 1, 3, 3).transpose(2, 3, 1, 0), (5, 0, 1, 2), (1, 2, 0, 5)),
        (BITS.reshape(2, 3), BITS.reshape(2, 3).T, (1, 2), (2, 1)),
    ],
    ids=["permuted", "pointwise as dense", "unit axes", "depthwise", "NaN payloads and -0"],
)
def test_index(
    a: NDArray[np.float32], b: NDArray[np.float32], index: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    pairing = pair_targets(from_proto(single("a", x__w=a)), from_proto(single("b", y__w=b)))
    assert pairing.pairs["x.w"].index(index) == expected
    assert pairing.pairs["x.w"].note == ""
    assert a[index].tobytes() == b[expected].tobytes()


@given(
    arrays.array_shapes(min_dims=1, max_dims=4, max_side=4).flatmap(
        lambda shape: st.tuples(arrays.arrays(np.uint32, shape), st.permutations(range(len(shape))))
    )
)
def test_any_permutation_is_found_and_every_element_keeps_its_bits(drawn: tuple[NDArray[np.uint32], list[int]]) -> None:
    bits, order = drawn
    a, b = bits.view(np.float32), np.ascontiguousarray(bits.transpose(order)).view(np.float32)
    pair = pair_targets(from_proto(single("a", x__w=a)), from_proto(single("b", y__w=b))).pairs["x.w"]
    for index in np.ndindex(*bits.shape):
        assert a[index].tobytes() == b[pair.index(index)].tobytes()


def test_values_that_compare_equal_are_not_equal_bits() -> None:
    a, b = np.zeros((2, 2), np.float32), np.full((2, 2), -0.0, np.float32)
    pairing = pair_targets(from_proto(single("a", x__w=a)), from_proto(single("b", y__w=b)))
    assert pairing.pairs == {}
    assert pairing.unpaired == {"x.w": "no parameter with its bits"}


def test_same_elements_in_another_place_are_no_partner() -> None:
    a = normal(4, 4)
    b = a.copy()
    b[0, 0], b[1, 2] = a[1, 2], a[0, 0]
    assert multiset_hash(a.view(np.uint32)) == multiset_hash(b.view(np.uint32))
    assert partners(single("a", x__w=a), single("b", y__w=b)) == {}


def test_hash_of_a_multiset() -> None:
    bits = np.random.default_rng(0).integers(0, 1 << 32, (3, 700_000), np.uint32)
    assert multiset_hash(bits) == multiset_hash(bits.T)
    assert multiset_hash(np.array([1, 1, 2], np.uint8)) != multiset_hash(np.array([1, 2, 2], np.uint8))


def test_symmetric_tensors_follow_the_others_of_their_kind() -> None:
    """A symmetric kernel fits two axis orders; it gets the order that its neighbour needs."""
    other, symmetric = normal(3, 3, seed=1), np.arange(9, dtype=np.float32).reshape(3, 3)
    symmetric = symmetric + symmetric.T
    a = single("a", x__w=symmetric, y__w=other)
    b = single("b", p__w=symmetric.T, q__w=other.T)
    pairs = pair_targets(from_proto(a), from_proto(b)).pairs
    assert [pairs[name].axes for name in ("x.w", "y.w")] == [(1, 0), (1, 0)]
    assert pairs["x.w"].note == ""
    alone = pair_targets(from_proto(single("a", x__w=symmetric)), from_proto(single("b", p__w=symmetric))).pairs
    assert alone["x.w"].axes == (0, 1)
    assert alone["x.w"].note == "2 axis orders give these bits; took the first"


def test_equal_tensors_go_by_layer_then_by_order() -> None:
    ones, left, right = np.ones(3, np.float32), normal(3, seed=1), normal(3, seed=2)
    a = single("a", x__w=ones, x__v=left, y__w=ones, y__v=right)
    b = single("b", q__w=ones, q__v=right, p__w=ones, p__v=left)
    assert partners(a, b) == {"x.w": "p.w", "x.v": "p.v", "y.w": "q.w", "y.v": "q.v"}
    nothing_else = single("a", x__w=ones, y__w=ones), single("b", q__w=ones, p__w=ones)
    assert partners(*nothing_else) == {"x.w": "q.w", "y.w": "p.w"}
    notes = {pair.note for pair in pair_targets(*map(from_proto, nothing_else)).pairs.values()}
    assert notes == {"2 parameters hold these bits; paired in graph order"}


def test_equal_tensors_of_another_number_stay_apart() -> None:
    ones = np.ones(3, np.float32)
    a, b = single("a", x__w=ones, y__w=ones), single("b", q__w=ones)
    pairing = pair_targets(from_proto(a), from_proto(b))
    assert pairing.unpaired == dict.fromkeys(("x.w", "y.w"), "2 parameters with equal bits here, 1 there")


def everything() -> list[Injection]:
    return [
        Injection("a", (Fault("conv", (2, 0, 1, 2), 30),)),
        Injection("b", (Fault("bn", (1,), 3, Kind.STUCK_AT_1, parameter="running_var"), Fault("fc", (3, 40), 31))),
        Injection("c", (Fault("fc", (1, 7), None, Kind.SET, "0x7fc00000"),)),
        Injection("d", (Fault("conv", (2,), None, Kind.MASK, "0x81", parameter="bias"),)),
    ]


def test_conversion_keeps_everything_but_names_and_indices() -> None:
    a, b = from_proto(cnn()), from_proto(as_keras(cnn()))
    converted = converted_faults(iter(everything()), a, b)
    assert converted.injections == 4
    faults = [fault for injection in converted for fault in injection.faults]
    assert [(f.layer, f.index, f.parameter) for f in faults] == [
        ("conv2d", (1, 2, 0, 2), None),
        ("batch_normalization", (1,), "bn_var"),
        ("dense", (40, 3), None),
        ("dense", (7, 1), None),
        ("conv2d", (2,), "bias"),
    ]
    assert bits_of(b, converted) == bits_of(a, everything())
    assert bits_of(a, converted_faults(converted, b, a)) == bits_of(a, everything())


def bits_of(model: Model, faults: object) -> list[tuple[object, ...]]:
    """Id, kind, bit, value, and the element's bits without and with the fault."""
    return [
        (injection.id, r.fault.kind, r.fault.bit, r.fault.value, r.clean_bits, r.faulty_bits)
        for injection in resolve(model, faults)  # type: ignore[arg-type]
        for r in injection.receipts
    ]


def test_what_has_no_partner_is_named() -> None:
    changed = cnn()
    for tensor in changed.graph.initializer:
        if tensor.name in ("fc.weight", "conv.weight"):
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(2), tensor.name))
    with pytest.raises(FaultListError) as error:
        converted_faults(everything(), from_proto(cnn()), from_proto(changed, "other"))
    reason = "no parameter with its bits"
    assert str(error.value) == (
        f"expected the same weights in other, found no partner of conv.weight ({reason}), fc.weight ({reason}); "
        "lists are carried over between models with the same weights alone"
    )


def resnets(depth: int, folder: Path) -> tuple[Model, Model]:
    """A ResNet as PyTorch and as Keras store it; the published weights where they are, else random ones."""
    torch = pytest.importorskip("torch")
    from bitswap_onnx.converters.torch_checkpoint import load_state_dict_file
    from bitswap_onnx.converters.torch_to_onnx import export_torch
    from bitswap_onnx.models.resnet_cifar import resnet

    torch.manual_seed(0)
    network = resnet(depth)
    if reference.FOLDER.is_dir():
        network.load_state_dict(load_state_dict_file(reference.RESNET_FILES / f"ResNet{depth}.th"))
    export_torch(network.eval(), (3, 32, 32), folder / "torch.onnx")
    (folder / "keras.onnx").write_bytes(as_keras(onnx.load(folder / "torch.onnx")).SerializeToString())
    return load_model(folder / "torch.onnx"), load_model(folder / "keras.onnx")


@pytest.mark.torch
def test_every_parameter_of_resnet20_has_its_partner(tmp_path: Path) -> None:
    a, b = resnets(20, tmp_path)
    for source, partner in ((a, b), (b, a)):
        pairing = pair_targets(source, partner)
        assert (len(pairing.pairs), pairing.unpaired) == (97, {})
        for pair in pairing.pairs.values():
            axes = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}[len(pair.source.shape)]
            assert pair.axes == (tuple(np.argsort(axes)) if source is b else axes)
    kernels = [target.tensor for target in find_targets(a) if target.role == "weight"]
    pairs = pair_targets(a, b).pairs
    convolutions = ["conv2d", *(f"conv2d_{number}" for number in range(1, 19))]
    assert [pairs[kernel].partner.layer for kernel in kernels] == [*convolutions, "dense"]


@pytest.mark.torch
@reference.needed
@pytest.mark.parametrize(("depth", "faults"), [(20, 16_627), (32, 16_630)])
def test_published_keras_list_row_for_row_and_back(depth: int, faults: int, tmp_path: Path) -> None:
    torch_list = reference.RESNET_FILES / f"ResNet{depth}_FL.csv"
    keras_list = Path(str(reference.RESNET_FILES).replace("/torch/", "/tensorflow/"), f"ResNet{depth}_TF_FL.csv")
    a, b = resnets(depth, tmp_path)
    converted = converted_faults(read_fault_list(torch_list), a, b)
    assert (converted.injections, converted.notes) == (faults, ())
    write_fault_list(tmp_path / "keras.csv", converted)
    assert rows_of(tmp_path / "keras.csv") == rows_of(keras_list)
    write_fault_list(tmp_path / "torch.csv", converted_faults(read_fault_list(tmp_path / "keras.csv"), b, a))
    assert rows_of(tmp_path / "torch.csv") == [row[:4] for row in rows_of(torch_list)]


def rows_of(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


def test_metadata_does_not_matter() -> None:
    """Names in a converter's metadata lead to the same partners."""
    proto = as_keras(cnn())
    named = {"conv2d/kernel": {"layer": "first", "parameter": "kernel"}}
    names = {t.name: {"layer": "rest", "parameter": t.name} for t in proto.graph.initializer} | named
    proto.metadata_props.add(key="bitswap_onnx", value=json.dumps({"parameters": names}))
    assert partners(cnn(), proto) == partners(cnn(), as_keras(cnn()))
