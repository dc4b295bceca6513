"""Resolving neuron faults: the exact element and bits, or an error that says what would fit."""

from typing import Any

import numpy as np
import pytest

from bitswap_onnx.errors import FaultListError
from bitswap_onnx.faults.fault import Fault, Injection, Kind, Site
from bitswap_onnx.graph.edits import ALL_INPUTS
from bitswap_onnx.graph.model import from_proto
from bitswap_onnx.graph.receipts import NeuronReceipt
from bitswap_onnx.graph.resolve import Resolver
from bitswap_onnx.graph.sites import find_sites
from bitswap_onnx.graph.slices import Slicer
from tests.builders import build, cnn

MODEL = from_proto(cnn())
EVERY = 0xFFFFFFFF


def resolver(**options: Any) -> Resolver:
    return Resolver(MODEL, slicer=Slicer(MODEL, "scores", 4, (1, 6, 6)), inputs=20, **options)


def fault(layer: str, index: tuple[int, ...], bit: int | None = 3, **options: Any) -> Fault:
    return Fault(layer, index, bit, **{"site": Site.OUTPUT, "where": "f.csv:7"} | options)


def receipts(*faults: Fault, **options: Any) -> tuple[NeuronReceipt, ...]:
    return resolver(**options).resolve(Injection("i", faults)).neurons


@pytest.mark.parametrize(
    ("given", "key", "element", "edit"),
    [
        (fault("conv", (2, 3, 1)), "@output:a", 2 * 16 + 3 * 4 + 1, (ALL_INPUTS, EVERY, 8)),
        (fault("conv", (0, 5, 5), site=Site.INPUT, input=19), "@input:a", 35, (19, EVERY, 8)),
        (fault("fc", (3,), 31), "@output:scores", 3, (ALL_INPUTS, EVERY, 1 << 31)),
        (fault("x", (0, 0, 0), 0, input=0), "@output:x", 0, (0, EVERY, 1)),
        (fault("c", (1, 0, 0), 30, kind=Kind.STUCK_AT_0), "@output:c", 16, (ALL_INPUTS, EVERY ^ (1 << 30), 0)),
        (fault("c", (1, 0, 0), 30, kind=Kind.STUCK_AT_1), "@output:c", 16, (ALL_INPUTS, EVERY ^ (1 << 30), 1 << 30)),
        (fault("c", (1, 0, 0), None, kind=Kind.MASK, value="0x81"), "@output:c", 16, (ALL_INPUTS, EVERY, 0x81)),
        (fault("c", (1, 0, 0), None, kind=Kind.SET, value="-2.5"), "@output:c", 16, (ALL_INPUTS, 0, 0xC0200000)),
        (fault("c", (1, 0, 0), None, kind=Kind.SET, value="0x7fa00001"), "@output:c", 16, (ALL_INPUTS, 0, 0x7FA00001)),
    ],
)
def test_what_a_fault_does(given: Fault, key: str, element: int, edit: tuple[int, int, int]) -> None:
    (receipt,) = receipts(given)
    number, keep, toggle = edit
    assert (receipt.site.key, receipt.edit) == (key, (number, element, keep, toggle))
    assert (receipt.clean_bits, receipt.faulty_bits, receipt.effect) == (None, None, "per input")


def test_bits_may_count_from_the_sign() -> None:
    (receipt,) = receipts(fault("fc", (0,), 0), bit_order="msb")
    assert (receipt.bit, receipt.toggle) == (31, 1 << 31)


def test_what_an_injection_is() -> None:
    neurons = [
        fault("fc", (0,), input=7),
        fault("conv", (0, 0, 0), site=Site.INPUT, input=3),
        fault("fc", (1,), input=7),
    ]
    weight = Fault("fc", (0, 0), 3)
    plain = resolver().resolve(Injection("i", (*neurons,)))
    assert (plain.path, plain.inputs, plain.changes) == (("@input:a", "@output:scores"), (3, 7), True)
    mixed = resolver().resolve(Injection("i", (neurons[0], weight, *neurons[1:])))
    assert (mixed.path, mixed.inputs) == (("@input:a", "@output:scores", "fc.weight"), None)
    assert [type(row).__name__ for row in mixed.rows] == ["NeuronReceipt", "Receipt", "NeuronReceipt", "NeuronReceipt"]
    assert [row.fault for row in mixed.rows] == [neurons[0], weight, *neurons[1:]]
    assert mixed.edits.neurons["@output:scores"] == [(7, 0, EVERY, 8), (7, 1, EVERY, 8)]
    every = resolver().resolve(Injection("i", (neurons[0], fault("fc", (2,)))))
    assert every.inputs is None


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            fault("cnov", (0, 0, 0)),
            r"f.csv:7: no layer 'cnov' with an output that has a row per input; the nearest are conv",
        ),
        (fault("bn", (0, 0, 0), site=Site.INPUT), "no layer 'bn' with an input"),
        (fault("conv", (3, 0, 0)), r"index \(3, 0, 0\) is outside the output of conv, whose shape is \(3, 4, 4\)"),
        (fault("conv", (1, 5, 5), site=Site.INPUT), r"outside the input of conv, whose shape is \(1, 6, 6\)"),
        (fault("conv", (0, 0)), r"index \(0, 0\) is outside the output of conv"),
        (fault("conv", (0, 0, 0, 0)), "is outside the output of conv"),
        (fault("conv", (-1, 0, 0)), "is outside the output of conv"),
        (fault("fc", (0,), input=20), "input 20 is outside the data, whose inputs are 0-19"),
        (fault("fc", (0,), input=-1), "input -1 is outside the data"),
        (fault("fc", (0,), 32), r"bit 32 is outside float32 \(0-31\) for the output of fc"),
        (fault("fc", (0,), None), "bit None is outside float32"),
        (fault("fc", (0,), None, kind=Kind.MASK, value="0x0"), "the fault changes nothing"),
        (fault("fc", (0,), None, kind=Kind.MASK, value="0x100000000"), "does not fit the 32 bits of float32"),
        (fault("fc", (0,), None, kind=Kind.MASK, value="5"), "a mask is written like 0x80000001"),
        (fault("fc", (0,), None, kind=Kind.SET, value="1e60"), "beyond the range of float32"),
    ],
)
def test_wrong_faults(wrong: Fault, message: str) -> None:
    with pytest.raises(FaultListError, match=message):
        receipts(wrong)


ALL, THIS, OTHER = None, 3, 4


@pytest.mark.parametrize(
    ("first", "second", "refused"),
    [
        ((ALL, 5), (ALL, 5), True),
        ((ALL, 5), (THIS, 5), True),
        ((THIS, 5), (ALL, 5), True),
        ((THIS, 5), (THIS, 5), True),
        ((THIS, 5), (OTHER, 5), False),
        ((ALL, 5), (ALL, 6), False),
        ((THIS, 5), (ALL, 6), False),
        ((THIS, None), (THIS, 6), True),
        ((THIS, None), (ALL, 6), True),
        ((ALL, 6), (THIS, None), True),
        ((THIS, None), (OTHER, None), False),
    ],
)
def test_two_faults_on_one_bit(first: tuple[int | None, int], second: tuple[int | None, int], refused: bool) -> None:
    """A fault of all inputs overlaps one of a single input; a set fault (None) takes all bits of its neuron."""
    kinds: list[dict[str, Any]] = [
        {"kind": Kind.FLIP} if bit is not None else {"kind": Kind.SET, "value": "1"} for _, bit in (first, second)
    ]
    faults = [
        fault("fc", (0,), bit, input=which, **kind) for (which, bit), kind in zip((first, second), kinds, strict=True)
    ]
    other = fault("fc", (1,), 5, input=THIS)
    if refused:
        with pytest.raises(FaultListError, match=r"f.csv:7: injection i has two faults on one bit"):
            receipts(faults[0], other, faults[1])
    else:
        assert len(receipts(faults[0], other, faults[1])) == 3


def test_two_names_of_one_site_are_one() -> None:
    with pytest.raises(FaultListError, match="two faults on one bit"):
        receipts(fault("conv", (0, 0, 0)), fault("a", (0, 0, 0)))
    assert len(receipts(fault("conv", (0, 0, 0), site=Site.INPUT), fault("x", (0, 0, 0)))) == 2


def test_a_site_is_no_tensor_of_the_same_place() -> None:
    """A fault in a weight and a fault in a neuron never overlap."""
    resolved = resolver().resolve(Injection("i", (Fault("fc", (0, 0), 3), fault("fc", (0,), 3))))
    assert (len(resolved.receipts), len(resolved.neurons)) == (1, 1)


def test_integers_have_bits_of_their_own() -> None:
    text = "net (uint8[N, 3] x) => (float[N, 3] y) {\n a = Cast <to = 3> (x)\n y = Cast <to = 1> (a)\n}"
    model = from_proto(build(text))
    own = Resolver(model, slicer=Slicer(model, "y", 4, (3,)))
    dtypes = {(s.layer, s.site.value): s.dtype for s in find_sites(Slicer(model, "y", 4, (3,)))}
    assert dtypes["x", "output"] == dtypes["a", "input"] == "uint8"
    assert (dtypes["a", "output"], dtypes["y", "output"]) == ("int8", "float32")
    (receipt,) = own.resolve(Injection("i", (fault("a", (2,), None, kind=Kind.SET, value="-3"),))).neurons
    assert receipt.toggle == 0xFD
    with pytest.raises(FaultListError, match=r"bit 8 is outside uint8 \(0-7\) for the output of x"):
        own.resolve(Injection("i", (fault("x", (2,), 8),)))


def test_an_input_below_zero_is_refused_without_data_too() -> None:
    with pytest.raises(FaultListError, match="input -1"):
        Resolver(MODEL).resolve(Injection("i", (fault("fc", (0,), input=-1),)))


def test_numbers_of_numpy_are_numbers() -> None:
    (receipt,) = receipts(fault("fc", (np.int64(3),), np.int8(31), input=np.int32(4)))  # type: ignore[arg-type]
    assert receipt.edit == (4, 3, EVERY, 1 << 31)
