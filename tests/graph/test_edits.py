"""The inputs that an injection runs over, as its edits name them."""

import pytest

from bitswap_onnx.graph.edits import ALL_INPUTS, InjectionEdits, NeuronEdit, WeightEdit


def at(*inputs: int) -> list[NeuronEdit]:
    return [NeuronEdit(number, 0, 0, 1) for number in inputs]


@pytest.mark.parametrize(
    ("edits", "inputs"),
    [
        (InjectionEdits(neurons={"@output:a": at(5, 2, 5), "@input:b": at(9)}), [2, 5, 9]),
        (InjectionEdits(neurons={"@output:a": at(5, ALL_INPUTS)}), None),
        (InjectionEdits(neurons={"@output:a": at(5), "@output:b": at(ALL_INPUTS)}), None),
        (InjectionEdits({"w": [WeightEdit(0, 1)]}, {"@output:a": at(5)}), None),
        (InjectionEdits({"w": []}, {"@output:a": at(5)}), None),
        (InjectionEdits({"w": [WeightEdit(0, 1)]}), None),
        (InjectionEdits(neurons={"@output:a": []}), None),
        (InjectionEdits(), None),
    ],
)
def test_neurons_alone_name_inputs(edits: InjectionEdits, inputs: list[int] | None) -> None:
    assert edits.inputs() == inputs
