"""Flip nodes against numpy's view of the same bits: every bit, every kind of fault, every dtype, every place."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from bitswap_onnx.errors import ModelError
from bitswap_onnx.faults.bits import FORMATS, NEURON_FORMATS, BitFormat, edit, edit_one
from bitswap_onnx.faults.fault import Kind, Site
from bitswap_onnx.graph.edits import ALL_INPUTS, NeuronEdit
from bitswap_onnx.graph.model import Model, from_proto
from bitswap_onnx.graph.neurons import (
    bake,
    by_input,
    flips,
    instrument,
    operation,
    tap,
    tapped_value,
)
from bitswap_onnx.graph.sites import NeuronSite, find_sites
from bitswap_onnx.graph.slices import Slicer
from bitswap_onnx.runtime.session import Numerics, load, open_session
from tests.builders import build, normal
from tests.graph.moving_models import PLACES, ROWS, moving, patterns, run, session, site_of
from tests.networks import MODELS


def operands(kind: Kind, fmt: BitFormat) -> Sequence[int]:
    every = (1 << fmt.width) - 1
    if kind in (Kind.MASK, Kind.SET):
        return (every, 1, 0x8000_4000_A501_8001 & every, *(patterns(fmt)[-2:].tolist()))
    return range(fmt.width)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", NEURON_FORMATS)
def test_every_bit_of_every_dtype_in_every_place(name: str, place: str) -> None:
    fmt = FORMATS[name]
    row = patterns(fmt)
    model = moving(fmt, len(row))
    if name == "bfloat16" and place in ("@output:x", "@output:y"):
        place = {"@output:x": "@output:t", "@output:y": "@output:b"}[place]
    site = site_of(model, place, (len(row),))
    assert (site.dtype, site.elements) == (name, len(row))
    handle = session(instrument(model, [site]))
    clean = np.stack([np.roll(row, shift) for shift in range(ROWS)])
    x = clean if name == "bfloat16" else clean.view(fmt.dtype)
    assert run(handle, x, **flips({}, range(ROWS), site).feeds(site)).tobytes() == clean.tobytes()
    for kind in Kind:
        for operand in operands(kind, fmt):
            edits = [NeuronEdit(ALL_INPUTS, element, *operation(kind, operand, fmt)) for element in range(len(row))]
            found = run(handle, x, **flips(by_input(edits), range(ROWS), site).feeds(site))
            assert found.tobytes() == edit(clean, kind, operand).tobytes(), (kind, operand)


def test_chosen_elements_of_chosen_inputs() -> None:
    """Rows are dataset inputs in any order, some twice; an input without a fault keeps its bits."""
    fmt = FORMATS["float32"]
    row = patterns(fmt)
    model = moving(fmt, len(row))
    site = site_of(model, "@output:a", (len(row),))
    edits = [NeuronEdit(7, 2, *operation(Kind.FLIP, 3, fmt)), NeuronEdit(7, 2, *operation(Kind.STUCK_AT_1, 30, fmt))]
    edits += [
        NeuronEdit(9, 0, *operation(Kind.SET, 0x7FA00001, fmt)),
        NeuronEdit(ALL_INPUTS, 12, *operation(Kind.MASK, 0x101, fmt)),
    ]
    inputs = [9, 4, 7, 9]
    clean = np.tile(row, (len(inputs), 1))
    expected = clean.copy()
    expected[:, 12] ^= np.uint32(0x101)
    expected[2, 2] = (expected[2, 2] ^ np.uint32(8)) | np.uint32(1 << 30)
    expected[[0, 3], 0] = 0x7FA00001
    changes = flips(by_input(edits), inputs, site)
    found = run(session(instrument(model, [site])), clean.view(np.float32), **changes.feeds(site))
    assert found.tobytes() == expected.tobytes()
    bits = clean.copy()
    changes.apply(bits)
    assert bits.tobytes() == expected.tobytes()
    behind = np.concatenate([clean, clean])
    changes.behind(clean.size).apply(behind)
    assert behind.tobytes() == np.concatenate([clean, expected]).tobytes()


def formats(of: Callable[[str], bool] = lambda name: True) -> st.SearchStrategy[BitFormat]:
    return st.sampled_from([FORMATS[name] for name in NEURON_FORMATS if of(name)])


@given(st.data(), formats())
def test_changes_are_what_one_edit_after_the_other_makes(data: st.DataObject, fmt: BitFormat) -> None:
    width = st.integers(0, fmt.width - 1)
    number = st.integers(0, (1 << fmt.width) - 1)
    site = NeuronSite("l", "", "", "node", Site.OUTPUT, "@output:v", "v", (4,), fmt.name, (0, 1))
    drawn: list[tuple[int, int, Kind, int]] = []
    for _ in range(data.draw(st.integers(0, 6))):
        kind = data.draw(st.sampled_from(Kind))
        operand = data.draw(number if kind in (Kind.MASK, Kind.SET) else width)
        drawn.append((data.draw(st.sampled_from([ALL_INPUTS, 5, 6])), data.draw(st.integers(0, 3)), kind, operand))
    drawn.sort(key=lambda fault: fault[0] != ALL_INPUTS)  # those of all inputs come first
    edits = [NeuronEdit(which, place, *operation(kind, o, fmt)) for which, place, kind, o in drawn]
    rows = data.draw(st.lists(st.sampled_from([4, 5, 6]), max_size=4))
    clean = data.draw(st.lists(number, min_size=4 * len(rows), max_size=4 * len(rows)))
    bits = np.array(clean, fmt.view).reshape(len(rows), 4)
    changes = flips(by_input(edits), rows, site)
    assert len(set(changes.index.tolist())) == len(changes.index)
    changes.apply(bits)
    for row, which in enumerate(rows):
        for place in range(4):
            expected = clean[4 * row + place]
            for own, element, kind, operand in drawn:
                if element == place and own in (ALL_INPUTS, which):
                    expected = edit_one(expected, kind, operand, fmt)
            assert int(bits[row, place]) == expected


TWICE = """net (float[N, 4] x) => (float[N, 4] y, float[N, 4] z) {
    y = Neg (x)
    z = Neg (x)
}"""


def test_a_value_read_twice() -> None:
    """Only the node sees a fault in its input; all readers see a fault in a layer's output."""
    model = from_proto(build(TWICE))
    x = normal(2, 4)
    one = flips(
        by_input([NeuronEdit(1, 2, *operation(Kind.FLIP, 30, FORMATS["float32"]))]), range(2), _scores(model, "x")
    )
    hit = x.copy()
    hit.view(np.uint32)[1, 2] ^= np.uint32(1 << 30)
    for key, expected in {"@input:y": (-hit, -x), "@input:z": (-x, -hit), "@output:x": (-hit, -hit)}.items():
        site = site_of(model, key, (4,))
        found = session(instrument(model, [site])).run(None, {"x": x, **one.feeds(site)})
        assert [array.tobytes() for array in found] == [array.tobytes() for array in expected], key


def _scores(model: Model, value: str) -> NeuronSite:
    return site_of(model, f"@output:{value}", (4,))


def test_sites_of_one_value_and_one_node_together() -> None:
    """The model's input, the input of a node that reads it and the output of that node, all in one model."""
    model = from_proto(build(TWICE))
    sites = [site_of(model, key, (4,)) for key in ("@input:y", "@input:z", "@output:x", "@output:y")]
    x = np.ones((1, 4), np.float32)
    for chosen in (sites, sites[::-1]):
        fed: dict[str, NDArray[Any]] = {}
        for place, site in enumerate(sites):  # a sign each, at an element of its own
            fed |= flips(by_input([NeuronEdit(0, place, *operation(Kind.FLIP, 31, site.format))]), [0], site).feeds(
                site
            )
        y, z = session(instrument(model, chosen)).run(None, {"x": x, **fed})
        assert y.tolist() == [[1, -1, 1, 1]]
        assert z.tolist() == [[-1, 1, 1, -1]]


@pytest.mark.parametrize("name", [name for name in MODELS if name != "half"])
def test_no_fault_changes_no_bit(name: str) -> None:
    """With all flip nodes, with each one alone and with every tap, the scores have the clean model's bits."""
    proto = MODELS[name]
    model, output = from_proto(proto), proto.graph.output[0].name
    shape = tuple(dim.dim_value for dim in proto.graph.input[0].type.tensor_type.shape.dim[1:])
    numerics, x = Numerics(batch_size=4), normal(4, *shape, seed=7)
    source = proto.graph.input[0].name
    clean = open_session(model, numerics, output).run(x)
    sites = {site.key: site for site in find_sites(Slicer(model, output, 4, shape))}
    for chosen in ([*sites.values()], *([site] for site in sites.values())):
        fed = {key: array for site in chosen for key, array in flips({}, range(4), site).feeds(site).items()}
        (scores,) = load(instrument(model, chosen), numerics).run([output], {source: x, **fed})
        assert scores.reshape(4, -1).tobytes() == clean.tobytes(), [site.key for site in chosen]
    (tapped,) = load(tap(model, sites.values()), numerics).run([output], {source: x})
    assert tapped.reshape(4, -1).tobytes() == clean.tobytes()


def test_the_clean_model_is_never_changed() -> None:
    proto = MODELS["residual"]
    model = from_proto(proto)
    before = proto.SerializeToString(deterministic=True)
    sites = find_sites(Slicer(model, "y", 4, (3, 6, 6)))
    instrument(model, sites)
    tap(model, sites)
    bake(model, {"@output:d": [NeuronEdit(0, 0, 0, 0)]}, {site.key: site for site in sites})
    assert proto.SerializeToString(deterministic=True) == before


def test_a_tap_gives_one_reader_a_value_of_its_own() -> None:
    model = from_proto(build(TWICE))
    tapped = tap(model, [site_of(model, "@input:z", (4,))]).proto.graph
    assert [list(node.input) for node in tapped.node] == [["x"], ["x"], ["@input:z"]]
    assert (tapped_value("@input:z"), tapped_value("@output:z")) == ("@input:z", "z")


def test_the_metadata_stays() -> None:
    proto = build(TWICE)
    proto.metadata_props.add(key="bitswap_onnx", value='{"framework": "torch"}')
    model = from_proto(proto)
    assert instrument(model, [site_of(model, "@input:z", (4,))]).metadata == {"framework": "torch"}


FUNCTION = """<ir_version: 9, opset_import: ["" : 20, "f" : 1]>
net (float[N, 4] x) => (float[N, 4] y) { y = f.act (x) }
<domain: "f", opset_import: ["" : 20]> act (v) => (w) { w = Relu (v) }"""


def test_a_model_with_functions_is_refused_in_words() -> None:
    model = from_proto(onnx.parser.parse_model(FUNCTION))
    with pytest.raises(ModelError, match="function"):
        instrument(model, [site_of(model, "@output:x", (4,))])
