"""Verdicts are kept in a folder that may be deleted, damaged or missing."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bitswap_onnx.graph.model import from_proto
from bitswap_onnx.graph.signature import ModelInput
from bitswap_onnx.runtime import chain, lane_search, layout, verdicts
from bitswap_onnx.runtime.chain_plan import ChainPlan, encode_plan, may_be_plan
from bitswap_onnx.runtime.failures import failure
from bitswap_onnx.runtime.layout import choose_layout
from bitswap_onnx.runtime.probe import Probe
from bitswap_onnx.runtime.session import Numerics
from tests.builders import cnn
from tests.runtime.engines import engines


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(verdicts.FOLDER_VARIABLE, str(tmp_path / "kept"))
    return tmp_path / "kept"


def images(seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((7, 1, 6, 6)).astype(np.float32)


def kept(facts: dict[str, Any], find: Any, may_be: Any = lambda _: True) -> Any:
    return verdicts.kept_verdict(facts, find, may_be)


def never() -> None:
    raise AssertionError("it was kept")


def test_a_verdict_is_found_once(folder: Path) -> None:
    assert kept({"model": "a"}, lambda: [1, None]) == [1, None]
    assert kept({"model": "a"}, never) == [1, None]
    assert kept({"model": "b"}, lambda: None) is None
    assert kept({"model": "b"}, never) is None
    assert len(list(folder.iterdir())) == 2


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", "\x00", "[" * 100_000])
def test_a_damaged_verdict_is_found_again(content: str, folder: Path) -> None:
    kept({"model": "a"}, lambda: 1)
    (path,) = folder.iterdir()
    path.write_text(content)
    assert kept({"model": "a"}, lambda: 2) == 2
    assert json.loads(path.read_text())["verdict"] == 2


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv(verdicts.FOLDER_VARIABLE, str(tmp_path / "file" / "kept"))
    assert kept({"model": "a"}, lambda: 1) == 1
    monkeypatch.setenv(verdicts.FOLDER_VARIABLE, "")
    assert kept({"model": "a"}, lambda: 2) == 2


@pytest.mark.usefixtures("folder")
def test_another_runtime_is_another_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    kept({"model": "a"}, lambda: 1)
    monkeypatch.setattr(verdicts, "versions", lambda: {"onnxruntime": "0"})
    assert kept({"model": "a"}, lambda: 2) == 2


@pytest.mark.usefixtures("folder")
def test_what_failed_for_want_of_memory_is_found_again() -> None:
    """A trial swallows the runtime's errors; the next campaign may have the memory."""

    def short() -> bool:
        failure("cannot run a part of the model", RuntimeError("Failed to allocate memory for requested buffer"))
        return False

    assert kept({"model": "a"}, short) is False
    assert kept({"model": "a"}, lambda: True) is True
    assert kept({"model": "a"}, never) is True


def test_a_user_without_a_home_keeps_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in (verdicts.FOLDER_VARIABLE, "LOCALAPPDATA", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    assert [kept({"model": "a"}, iter(pair).__next__) for pair in ([1], [2])] == [1, 2]


@pytest.mark.usefixtures("folder", "divided")
@pytest.mark.parametrize("blocked", [True, False])
def test_a_layout_and_its_chain_are_kept(blocked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = ChainPlan((("x",), ("a", "b"), ("scores",)), (1,)) if blocked else None
    arguments = (
        from_proto(cnn()),
        Numerics(batch_size=4),
        "scores",
        ModelInput("x", np.dtype(np.float32), (1, 6, 6), None),
    )
    monkeypatch.setattr(layout, "_blocked_chain", lambda *arguments: plan)
    first = choose_layout(*arguments)
    assert first == (Numerics(batch_size=4, layout="blocked" if blocked else "plain"), plan)
    monkeypatch.setattr(layout, "_blocked_chain", lambda *arguments: never())
    assert choose_layout(*arguments) == first


@pytest.mark.usefixtures("folder", "either_way")
@pytest.mark.parametrize("refused", [False, True])
def test_the_lane_of_a_layer_is_kept(refused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the same inputs alone: others may show what these did not."""
    tried: list[str] = []
    accepts = Probe.accepts

    def watched(self: Probe, lane: Any, stages: Any) -> bool:
        tried.extend(stages.path)
        return not refused and accepts(self, lane, stages)

    def lane_kinds(seed: int) -> list[str]:
        _, engine = engines(
            cnn(), inputs=images(seed), paths={("conv.weight",): 999, ("fc.weight",): 999}, min_batches=0
        )
        return [engine.lane_kind(path) for path in engine.paths]

    monkeypatch.setattr(Probe, "accepts", watched)
    found = lane_kinds(0)
    assert set(tried) == {"conv.weight", "fc.weight"}
    tried.clear()
    assert (lane_kinds(0), tried) == (found, [])
    assert ("packed" in found) != refused
    lane_kinds(1)
    assert set(tried) == {"conv.weight", "fc.weight"}


@pytest.mark.usefixtures("folder", "divided")
def test_a_chain_is_kept_for_its_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no layout was chosen, as in a resumed run or with plain kernels, each engine finds its chain itself."""
    found: list[int] = []
    find = chain.find_chain

    def watched(*arguments: Any) -> Any:
        made = find(*arguments)
        found.append(made.count)
        return made

    monkeypatch.setattr(lane_search, "find_chain", watched)
    counts = [engines(cnn(), inputs=images(seed))[1].chain.count for seed in (0, 0, 1)]
    assert found == [counts[0], counts[2]]
    assert min(counts) > 1


@pytest.mark.usefixtures("folder")
def test_a_verdict_of_another_form_is_found_again() -> None:
    """As another version, or another hand, may have written it."""
    plan = encode_plan(ChainPlan((("x",), ("a", "b"), ("scores",)), (1,)))
    assert may_be_plan(None)
    assert may_be_plan(json.loads(json.dumps(plan)))
    wrong: list[Any] = [[], {}, 5, "x", {"borders": [], "blocked": []}, {"borders": [["x"], [1]], "blocked": []}]
    wrong += [{"borders": [["x"], ["y"]], "blocked": [True]}, {"borders": "xy", "blocked": []}]
    for number, verdict in enumerate(wrong):
        assert not may_be_plan(verdict)
        kept({"model": "a", "number": number}, lambda verdict=verdict: verdict)
        assert kept({"model": "a", "number": number}, lambda: plan, may_be_plan) == plan
        assert kept({"model": "a", "number": number}, never, may_be_plan) == json.loads(json.dumps(plan))
