"""The lanes that the incremental engine finds, keeps and gives up."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bitswap_onnx.runtime.lane_cache import LaneCache
from bitswap_onnx.runtime.model_lanes import FaultyModel, StagesLane, WholeLane
from bitswap_onnx.runtime.packed import PackedLane
from bitswap_onnx.runtime.probe import Probe
from tests.builders import cnn
from tests.networks import MODELS
from tests.runtime.engines import PLAIN, assert_equal, engines, lanes_of


@pytest.mark.usefixtures("divided")
def test_the_lanes_that_are_meant_really_run() -> None:
    """Without this test, an engine that always ran whole models would pass the comparison with the reference engine."""
    _, engine = engines(cnn())
    *alone, together = engine.paths
    assert lanes_of(engine) == {**dict.fromkeys(alone, PackedLane), together: WholeLane}
    _, engine = engines(MODELS["residual"], replace(PLAIN, layout="blocked"))
    assert lanes_of(engine)[("d.weight",)] is PackedLane
    _, engine = engines(MODELS["shared"])
    assert lanes_of(engine) == {
        ("t.weight",): PackedLane,
        ("w.bias",): PackedLane,
        ("w.weight",): StagesLane,
        ("t.weight", "w.bias", "w.weight"): StagesLane,
    }


@pytest.mark.usefixtures("divided")
def test_few_inferences_run_in_the_stages_themselves() -> None:
    path = ("conv.weight",)
    reference, engine = engines(cnn(), min_batches=8, paths={path: 7}, count=8)
    assert engine.lane_kind(path) == "stages"
    assert_equal(reference, engine, [path])
    engine.expect({path: 8})
    assert engine.lane_kind(path) == "packed"
    lane = engine.lane(path)
    engine.expect({path: 9, ("fc.weight",): 9})
    assert engine.lane(path) is lane
    _, engine = engines(cnn(), min_batches=8, paths={path: 8}, count=8)
    assert engine.lane_kind(path) == "packed"


@pytest.mark.usefixtures("divided")
def test_a_path_that_is_given_up_runs_as_whole_models() -> None:
    path = ("conv.weight",)
    reference, engine = engines(cnn())
    assert engine.lane_kind(path) == "packed"
    engine.give_up(path)
    assert engine.lane_kind(path) == "whole"
    assert_equal(reference, engine, [path])


@pytest.mark.usefixtures("divided")
def test_stages_that_are_loaded_together_have_a_control(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are another sub-model than the stages of the chain, which may round otherwise."""
    path = ("w.weight",)
    _, engine = engines(MODELS["shared"])
    lane, inputs = engine.lane(path), len(engine.inputs)
    assert isinstance(lane, StagesLane)
    assert lane.last - lane.first > 1
    assert engine.control(path, 0, inputs) == inputs
    run = FaultyModel.run

    def rounded(self: FaultyModel, *arguments: Any) -> Any:
        for start, rows, made in run(self, *arguments):
            yield start, rows, [np.nextafter(array, np.float32(9)) for array in made]

    monkeypatch.setattr(FaultyModel, "run", rounded)
    assert engine.control(path, 0, inputs) == 0


@pytest.mark.usefixtures("either_way")
def test_every_lane_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where the probe refuses all faster lanes."""
    monkeypatch.setattr(Probe, "is_exact", lambda self, lane: False)
    reference, engine = engines(cnn())
    kinds = {engine.lane_kind(path) for path in engine.paths}
    assert kinds == ({"whole"} if engine.chain.count == 1 else {"stages", "whole"})
    assert_equal(reference, engine, list(engine.paths))


@pytest.mark.usefixtures("either_way")
def test_lanes_are_forgotten_where_the_memory_is_short() -> None:
    reference, engine = engines(MODELS["residual"], PLAIN, memory=1)
    assert_equal(reference, engine, list(engine.paths))
    assert len(engine.cache.lanes) == 1
    assert_equal(reference, engine, list(engine.paths)[:3])


def loads(size: int) -> Any:
    """Return a function that makes a lane of ``size`` bytes."""
    return lambda: SimpleNamespace(loaded_bytes=size)


def test_the_cache_forgets_the_lanes_that_were_not_used_for_longest() -> None:
    cache: LaneCache[Any] = LaneCache(memory=10)
    lanes = {name: cache.get((name,), loads(4)) for name in "ab"}
    assert cache.get(("a",), loads(4)) is lanes["a"]
    cache.get(("c",), loads(4))
    assert list(cache.lanes) == [("a",), ("c",)]
    cache.get(("d",), loads(11))
    assert list(cache.lanes) == [("d",)]
    cache.drop(("d",))
    cache.drop(("d",))
    assert not cache.lanes
