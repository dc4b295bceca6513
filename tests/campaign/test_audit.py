"""The audit of a campaign: what is run again, and that it is."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from bitswap_onnx.campaign.options import Audit, Progress, parse_audit
from bitswap_onnx.campaign.run_directory import reading
from bitswap_onnx.campaign.settings import Settings
from bitswap_onnx.errors import BitswapError, ControlFailedError, RunError
from bitswap_onnx.faults.fault import Fault, Injection
from tests.builders import cnn, save
from tests.campaign.small_campaign import rows, run


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save(cnn(), tmp_path / "cnn.onnx")


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
    run(model, tmp_path / "run", flips(), audit=Audit(2))
    assert audited(tmp_path / "run")[0] in ("conv-30", "fc-30")
    assert {name.split("-")[0] for name in audited(tmp_path / "run")} == {"conv", "fc"}


def test_all_can_be_run_again(model: Path, tmp_path: Path) -> None:
    run(model, tmp_path / "run", flips(), audit=Audit(share=1.0))
    assert sorted(audited(tmp_path / "run")) == sorted(row["Injection"] for row in rows(tmp_path / "run"))


def test_an_audit_is_made_once_and_a_larger_one_again(model: Path, tmp_path: Path) -> None:
    def stages(**options: Any) -> list[str]:
        seen: list[Progress] = []
        run(model, tmp_path / "run", flips(), on_progress=seen.append, **options)
        return sorted({progress.stage for progress in seen})

    assert stages() == ["audit", "injections"]
    assert stages(resume=True) == []
    assert stages(resume=True, audit=Audit(0)) == []
    assert stages(resume=True, audit=Audit(15)) == ["audit"]
    assert len(audited(tmp_path / "run")) == 15


def test_an_audit_that_fails_takes_the_results_of_an_earlier_end_away(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run(model, folder, flips(), audit=Audit(0), save_outputs=True)
    with closing(sqlite3.connect(folder / "campaign.sqlite")) as db, db:
        db.execute("UPDATE outcome SET sdc_5 = inputs - sdc_5")
    with pytest.raises(ControlFailedError, match=r"the audit failed: .* injection (conv|fc)-30 over the inputs"):
        run(model, folder, flips(), audit=Audit(2), resume=True, save_outputs=True)
    assert {path.name for path in folder.iterdir()} == {"campaign.sqlite", "campaign.lock"}
    with pytest.raises(ControlFailedError, match="this run is invalid"):
        run(model, folder, flips(), resume=True, save_outputs=True)
    with pytest.raises(RunError, match="its audit failed"), reading(folder) as store:
        store.check_complete()


def test_whole_models_need_no_audit(model: Path, tmp_path: Path) -> None:
    run(model, tmp_path / "run", flips(), engine="reference")
    assert audited(tmp_path / "run") == []


def test_nothing_to_run_again(model: Path, tmp_path: Path) -> None:
    run(model, tmp_path / "run", flips(), audit=Audit(0), settings=Settings(first=3))
    assert audited(tmp_path / "run") == []
