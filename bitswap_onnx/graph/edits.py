"""The changes that one injection makes, as engines take them: bits of stored tensors, and bits of neurons."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

#: As the input of a `NeuronEdit`: every input of the dataset.
ALL_INPUTS = -1


class WeightEdit(NamedTuple):
    """A change of one stored element: ``mask`` is XORed onto its bits. ``element`` is its flat position (row-major)."""

    element: int
    mask: int


class NeuronEdit(NamedTuple):
    """A change of one neuron: its bits become (bits & ``keep``) ^ ``toggle``.

    ``input`` is the place of an input in the dataset, or `ALL_INPUTS`. ``element`` is the flat position in a row of the
    site's value.
    """

    input: int
    element: int
    keep: int
    toggle: int


#: Key of a stored tensor → changes of its elements; none: the tensor is rewritten with the bits that it has.
WeightEdits = Mapping[str, Sequence[WeightEdit]]

#: Key of a neuron site → changes of its neurons.
NeuronEdits = Mapping[str, Sequence[NeuronEdit]]


@dataclass(frozen=True, slots=True)
class InjectionEdits:
    """All changes of one injection: of stored tensors (``weights``) and of ``neurons``, both by key."""

    weights: WeightEdits = field(default_factory=dict)
    neurons: NeuronEdits = field(default_factory=dict)

    def inputs(self) -> list[int] | None:
        """Return the inputs of the dataset that the injection runs over, sorted; None: all of them.

        An injection of neuron edits that all name their input runs over these inputs alone.
        """
        named = {edit.input for edits in self.neurons.values() for edit in edits}
        return sorted(named) if named and not self.weights and ALL_INPUTS not in named else None
