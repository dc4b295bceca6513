"""docs/quickstart.ipynb runs from top to bottom, and is stored as it ran."""

import json
from pathlib import Path
from typing import Any

import pytest

REPO = Path(__file__).parent.parent
NOTEBOOK = REPO / "docs" / "quickstart.ipynb"
CELLS: list[dict[str, Any]] = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
CODE = [cell for cell in CELLS if cell["cell_type"] == "code"]


@pytest.mark.torch
def test_the_cells_run_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    space: dict[str, Any] = {}
    for number, cell in enumerate(CODE, 1):
        exec(compile("".join(cell["source"]), f"cell {number}", "exec"), space)
    frame = space["campaign"].frame()
    stored = "".join(line for cell in CODE for output in cell["outputs"] for line in output["data"]["text/plain"])
    assert f"{len(frame):,} injections" in stored
    assert frame.critical.max() > 20
    assert (tmp_path / "rates.svg").stat().st_size > 5_000


def test_it_is_stored_with_small_outputs_of_no_machine() -> None:
    assert NOTEBOOK.stat().st_size < 200_000
    assert len(CODE) <= 9
    assert [cell["execution_count"] for cell in CODE] == list(range(1, len(CODE) + 1))
    assert all(output["output_type"] == "execute_result" for cell in CODE for output in cell["outputs"])
    assert any("image/png" in output["data"] for output in CODE[-1]["outputs"])
    texts = [line for cell in CODE for output in cell["outputs"] for line in output["data"].get("text/html", [])]
    texts += [line for cell in CODE for output in cell["outputs"] for line in output["data"]["text/plain"]]
    assert not [text for text in texts if "/home" in text or "/tmp" in text or "/root" in text]
    assert not [text for cell in CELLS if cell["cell_type"] == "markdown" for text in cell["source"] if len(text) > 320]
