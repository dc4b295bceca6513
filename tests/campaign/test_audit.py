"""The audit of a campaign: what is run again, and that it is."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from bitswap_onnx.campaign.options import Audit, Progress, RunOptions, parse_audit
from bitswap_onnx.campaign.run_directory import reading
from bitswap_onnx.campaign.settings import Settings
from bitswap_onnx.data import chunks
from bitswap_onnx.errors import BitswapError, ControlFailedError, RunError
from bitswap_onnx.faults.fault import Fault, Injection, Site
from bitswap_onnx.runtime.reference import ReferenceEngine
from tests.builders import cnn, save
from tests.campaign.small_campaign import rows, run


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save(cnn(), tmp_path / "cnn.onnx")


#: 100 inputs in chunks of four batches.
NOISE, SETTINGS = Settings(data="synthetic", batch_size=8), Settings(data="synthetic:100", batch_size=8)
BATCHES = {(first, min(first + 8, 100)) for first in range(0, 100, 8)}
CHUNKS = {(0, 32), (32, 64), (64, 96), (96, 100)}


@pytest.fixture(autouse=True)
def several_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "BATCHES_PER_CHUNK", 4)


def change(folder: Path, *statements: str) -> None:
    with closing(sqlite3.connect(folder / "campaign.sqlite")) as db, db:
        for statement in statements:
            db.execute(statement)


def audited(folder: Path) -> list[str]:
    found = json.loads((folder / "golden.json").read_text())["audit"]
    return list(found["checked"]) if found else []


def flips() -> list[Injection]:
    """Flips of mantissa bits in every layer, and of the top exponent bit in one place of each."""
    places = {"conv": (0, 0, 0, 0), "fc": (0, 0)}
    return [
        Injection(f"{layer}-{bit}", (Fault(layer, index, bit),))
        for layer, index in places.items()
        for bit in (*range(12), 30)
    ]


@pytest.mark.parametrize(
    ("text", "size"), [("0", 0), ("7", 7), ("500", 200), ("5%", 10), ("0.1%", 1), ("100%", 200), ("0%", 0)]
)
def test_sizes(text: str, size: int) -> None:
    assert parse_audit(text).size(200) == size


@pytest.mark.parametrize("text", ["", "x", "-1", "101%", "5 %", "1.5", "%"])
def test_wrong_sizes(text: str) -> None:
    with pytest.raises(BitswapError, match="`audit`: expected a number of injections"):
        parse_audit(text)


def test_the_most_telling_injections_are_run_again_first(model: Path, tmp_path: Path) -> None:
    run(model, tmp_path / "run", flips(), audit=Audit(2), settings=NOISE)
    assert audited(tmp_path / "run")[0] in ("conv-30", "fc-30")
    assert {name.split("-")[0] for name in audited(tmp_path / "run")} == {"conv", "fc"}


def test_all_can_be_run_again(model: Path, tmp_path: Path) -> None:
    run(model, tmp_path / "run", flips(), audit=Audit(share=1.0), settings=NOISE)
    assert sorted(audited(tmp_path / "run")) == sorted(row["Injection"] for row in rows(tmp_path / "run"))


def test_an_audit_is_made_once_and_a_larger_one_again(model: Path, tmp_path: Path) -> None:
    def stages(**options: Any) -> list[str]:
        seen: list[Progress] = []
        run(model, tmp_path / "run", flips(), on_progress=seen.append, **options, settings=NOISE)
        return sorted({progress.stage for progress in seen})

    assert stages() == ["audit", "injections"]
    assert stages(resume=True) == []
    assert stages(resume=True, audit=Audit(0)) == []
    assert stages(resume=True, audit=Audit(15)) == ["audit"]
    assert len(audited(tmp_path / "run")) == 15


def test_an_audit_that_fails_takes_the_results_of_an_earlier_end_away(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run(model, folder, flips(), audit=Audit(0), save_outputs=True, settings=NOISE)
    change(folder, "UPDATE outcome SET sdc_5 = inputs - sdc_5")
    with pytest.raises(ControlFailedError, match=r"the audit failed: .* injection (conv|fc)-30 over the inputs"):
        run(model, folder, flips(), audit=Audit(2), resume=True, save_outputs=True, settings=NOISE)
    assert {path.name for path in folder.iterdir()} == {"campaign.sqlite", "campaign.lock"}
    with pytest.raises(ControlFailedError, match="this run is invalid"):
        run(model, folder, flips(), resume=True, save_outputs=True, settings=NOISE)
    with pytest.raises(RunError, match="its audit failed"), reading(folder) as store:
        store.check_complete()


@pytest.fixture
def ranges(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The inputs of each injection that the reference engine runs, first and stop."""
    seen: list[tuple[int, int]] = []
    engine_run = ReferenceEngine.run_all

    def watched(self: Any, work: Any, first: int, stop: int) -> Any:
        seen.append((first, stop))
        return engine_run(self, work, first, stop)

    monkeypatch.setattr(ReferenceEngine, "run_all", watched)
    return seen


def test_without_time_four_run_over_a_batch_each(model: Path, tmp_path: Path, ranges: list[tuple[int, int]]) -> None:
    """In several batches, the last one of the last chunk first; a resume is content with them."""
    seen: list[Progress] = []
    options: dict[str, Any] = {"audit": Audit(time=1e-9), "workers": 0, "settings": SETTINGS}
    run(model, tmp_path / "run", flips(), on_progress=seen.append, **options)
    assert len(ranges) == 4
    assert set(ranges) <= BATCHES
    assert ranges[0] == (96, 100)
    assert len(set(ranges)) >= 3
    assert len(set(audited(tmp_path / "run"))) == 4
    assert [(p.done, p.total) for p in seen if p.stage == "audit"] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    run(model, tmp_path / "run", flips(), resume=True, **options)
    assert len(ranges) == 4


def test_with_time_six_more_run_over_a_chunk_each(model: Path, tmp_path: Path, ranges: list[tuple[int, int]]) -> None:
    run(model, tmp_path / "run", flips(), audit=Audit(time=1e9), workers=0, settings=SETTINGS)
    assert set(ranges[:4]) <= BATCHES
    assert set(ranges[4:]) <= CHUNKS
    assert len(ranges) == len(set(audited(tmp_path / "run"))) == 10


def test_the_default_takes_a_twentieth_of_the_time() -> None:
    assert (RunOptions().audit_size.time, RunOptions().audit_size.size(1000)) == (0.05, 10)


def test_fewer_injections_than_the_least(model: Path, tmp_path: Path) -> None:
    run(model, tmp_path / "run", flips()[:3], audit=Audit(time=1e-9), settings=NOISE)
    assert len(set(audited(tmp_path / "run"))) == 3


def test_a_store_without_fingerprints_is_audited_over_chunks(
    model: Path, tmp_path: Path, ranges: list[tuple[int, int]]
) -> None:
    """As versions left it that kept none."""
    run(model, tmp_path / "run", flips(), audit=Audit(0), settings=SETTINGS)
    change(tmp_path / "run", "DELETE FROM measure")
    run(model, tmp_path / "run", flips(), audit=Audit(time=1e-9), workers=0, settings=SETTINGS, resume=True)
    assert set(ranges) <= CHUNKS
    assert len(ranges) == 4


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE measure SET value = value + 1",
        "UPDATE outcome SET sdc_5 = inputs - sdc_5",
        "UPDATE outcome SET per_input = zeroblob(inputs)",
        "UPDATE outcome SET scores = zeroblob(LENGTH(scores))",
    ],
)
def test_what_is_stored_must_agree_with_a_batch(damage: str, model: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"settings": SETTINGS, "records": ["scores", "per_input"]}
    run(model, tmp_path / "run", flips(), audit=Audit(0), **options)
    run(model, tmp_path / "run", flips(), audit=Audit(time=1e-9), resume=True, **options)
    change(tmp_path / "run", damage, "DELETE FROM setting WHERE key = 'audit'")
    with pytest.raises(ControlFailedError, match="the audit failed"):
        run(model, tmp_path / "run", flips(), audit=Audit(time=1e-9), resume=True, **options)


def test_neuron_faults_of_single_inputs(model: Path, tmp_path: Path) -> None:
    """A batch may hold none of an injection's inputs; its records are those of the inputs that it names."""
    each = [
        Injection(
            f"n{i}", tuple(Fault("fc", (j % 4,), 20 + j % 11, site=Site.OUTPUT, input=j) for j in range(i, i + 3))
        )
        for i in range(0, 90, 3)
    ]
    options: dict[str, Any] = {"settings": SETTINGS, "records": ["scores", "per_input"]}
    run(model, tmp_path / "run", each, audit=Audit(time=1e9), **options)
    assert len(set(audited(tmp_path / "run"))) == 10


def test_whole_models_need_no_audit(model: Path, tmp_path: Path) -> None:
    run(model, tmp_path / "run", flips(), engine="reference", settings=NOISE)
    assert audited(tmp_path / "run") == []


def test_nothing_to_run_again(model: Path, tmp_path: Path) -> None:
    run(model, tmp_path / "run", flips(), audit=Audit(0), settings=Settings(data="synthetic:3"))
    assert audited(tmp_path / "run") == []
