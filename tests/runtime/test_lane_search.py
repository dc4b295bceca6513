"""The lanes that the incremental engine finds, adopts, keeps and gives up."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from bitswap_onnx.runtime.candidates import WHOLE
from bitswap_onnx.runtime.device import DeviceLane
from bitswap_onnx.runtime.lane_cache import LaneCache
from bitswap_onnx.runtime.lanes import Lane
from bitswap_onnx.runtime.model_lanes import ConeLane, WholeLane
from bitswap_onnx.runtime.packed import PackedLane
from bitswap_onnx.runtime.probe import Probe
from bitswap_onnx.runtime.session import Numerics
from tests.builders import cnn
from tests.networks import MODELS
from tests.runtime.engines import NUMERICS, PLAIN, assert_equal, engines, lanes_of


def test_the_lanes_that_are_meant_really_run() -> None:
    """Without this test, an engine that always ran whole models would pass the comparison with the reference engine."""
    _, engine = engines(cnn())
    *alone, together = engine.paths
    assert lanes_of(engine) == {**dict.fromkeys(alone, PackedLane), together: ConeLane}
    _, engine = engines(MODELS["residual"], replace(PLAIN, layout="blocked"))
    assert lanes_of(engine)[("d.weight",)] is PackedLane
    _, engine = engines(MODELS["shared"])
    assert lanes_of(engine) == {
        ("t.weight",): PackedLane,
        ("w.bias",): PackedLane,
        ("w.weight",): ConeLane,
        ("t.weight", "w.bias", "w.weight"): ConeLane,
    }


def test_few_inferences_are_not_worth_a_search() -> None:
    path = ("conv.weight",)
    _, engine = engines(cnn(), min_batches=8, paths={path: 7}, count=8)
    assert engine.lane_number(path) == WHOLE
    engine.expect({path: 8})
    assert engine.lane_number(path) == 0
    lane = engine.lane(path)
    other = ("fc.weight",)
    assert engine.shared_values == lane.values
    engine.expect({path: 9, other: 9})
    assert engine.lane(path) is lane
    assert engine.shared_values == lane.values | engine.lane(other).values > lane.values
    _, engine = engines(cnn(), min_batches=8, paths={path: 8}, count=8)
    assert engine.lane_number(path) == 0


def test_what_one_engine_found_another_one_trusts() -> None:
    reference, engine = engines(MODELS["shared"])
    _, other = engines(MODELS["shared"])
    for path in engine.paths:
        other.adopt_lane(path, engine.lane_number(path))
        assert other.lane_number(path) == engine.lane_number(path)
    assert lanes_of(other) == lanes_of(engine)
    assert_equal(reference, other, list(other.paths))


def test_what_is_found_already_stays() -> None:
    _, engine = engines(cnn())
    path = ("conv.weight",)
    lane = engine.lane(path)
    engine.adopt_lane(path, WHOLE)
    assert engine.lane(path) is lane
    _, other = engines(cnn())
    other.adopt_lane(path, WHOLE)
    assert isinstance(other.lane(path), WholeLane)


@pytest.mark.parametrize("exact", [(), (ConeLane,), (PackedLane,)])
def test_every_lane_gives_the_same(exact: tuple[type, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where the probe refuses some kinds of lanes."""
    judge = Probe.is_exact

    def refusing(self: Probe, lane: Lane) -> bool:
        return isinstance(lane, exact) and judge(self, lane)

    monkeypatch.setattr(Probe, "is_exact", refusing)
    reference, engine = engines(cnn())
    *alone, together = engine.paths
    assert {type(engine.lane(path)) for path in alone} == {exact[0] if exact else WholeLane}
    assert type(engine.lane(together)) is (ConeLane if ConeLane in exact else WholeLane)
    assert_equal(reference, engine, list(engine.paths))


@pytest.mark.parametrize("numerics", NUMERICS, ids=lambda n: f"{n.fusion}-{n.layout}")
@pytest.mark.parametrize("name", ["cnn", "residual", "mobile"])
def test_golden_values_on_a_device(name: str, numerics: Numerics) -> None:
    """What runs on a GPU, with the CPU as the device."""
    reference, engine = engines(MODELS[name], numerics, device="cpu")
    assert_equal(reference, engine, list(engine.paths))
    assert any(isinstance(engine.lane(path), DeviceLane) for path in engine.paths)


def test_lanes_are_forgotten_where_the_memory_is_short() -> None:
    reference, engine = engines(MODELS["residual"], PLAIN, memory=1)
    assert_equal(reference, engine, list(engine.paths))
    assert len(engine.cache.lanes) == 1
    assert_equal(reference, engine, list(engine.paths)[:3])


def loads(size: int) -> Any:
    """Return a function that makes a lane of ``size`` bytes."""
    return lambda: SimpleNamespace(loaded_bytes=size)


def test_the_cache_forgets_the_lanes_that_were_not_used_for_longest() -> None:
    cache = LaneCache(memory=10)
    lanes = {name: cache.get((name,), loads(4)) for name in "ab"}
    assert cache.get(("a",), loads(4)) is lanes["a"]
    cache.get(("c",), loads(4))
    assert list(cache.lanes) == [("a",), ("c",)]
    cache.get(("d",), loads(11))
    assert list(cache.lanes) == [("d",)]
    cache.drop(("d",))
    cache.drop(("d",))
    assert not cache.lanes
