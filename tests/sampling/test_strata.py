"""Strata: which bits they hold, and the classes of bits that name them."""

from bitswap_onnx.sampling.strata import Region, bit_group, stratify

REGIONS = (
    Region("a", "a.weight", ("a", None), "float32", (2, 3), (0, 5, 31)),
    Region("a", "a.bias", ("a", "bias"), "float32", (4,), (7,)),
    Region("b", "scale", ("b", "scale"), "float32", (), (1, 2)),
)


def test_strata() -> None:
    strata = stratify(REGIONS, lambda region, bit: f"{region.layer} bit {bit}")
    assert {stratum.name: (stratum.slots, stratum.bits) for stratum in strata} == {
        "a bit 0": (6, (0,)),
        "a bit 5": (6, (5,)),
        "a bit 31": (6, (31,)),
        "a bit 7": (4, (7,)),
        "b bit 1": (1, (1,)),
        "b bit 2": (1, (2,)),
    }
    (layer, other) = stratify(REGIONS, lambda region, bit: region.layer)
    assert (layer.slots, layer.bits, other.regions) == (22, (0, 5, 7, 31), REGIONS[2:])


def test_groups_of_bits() -> None:
    groups = {
        ("float32", 30): "top exponent bit",
        ("float32", 29): "exponent",
        ("float16", 14): "top exponent bit",
        ("float32", 31): "sign",
        ("bfloat16", 6): "mantissa",
        ("int8", 7): "sign",
        ("int8", 6): "integer",
    }
    assert {key: bit_group(*key) for key in groups} == groups
