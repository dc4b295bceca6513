"""What the README lists is what the code has."""

from pathlib import Path

import pytest

REPO = Path(__file__).parent.parent
README = (REPO / "README.md").read_text(encoding="utf-8")


def test_operators_that_become_keras_layers() -> None:
    from bitswap_onnx.converters.onnx_to_keras import SUPPORTED

    for operator, layers in SUPPORTED.items():
        assert f"| `{operator}` | {layers} |" in README
    table = README.split("| ONNX operator | Keras layers |\n|---|---|\n")[1].split("\n\n")[0]
    assert len(table.splitlines()) == len(SUPPORTED)


def test_networks_of_the_zoo() -> None:
    from bitswap_onnx.models.zoo import ZOO

    for name, datasets in ZOO.items():
        for dataset in datasets:
            (row,) = (line for line in README.splitlines() if line.startswith(f"| {dataset} "))
            assert name in row


@pytest.mark.parametrize(
    "command",
    [
        "inspect",
        "evaluate",
        "inject",
        "rewrite",
        "neurons",
        "sweep",
        "rank",
        "estimate",
        "faults generate",
        "export torch",
        "crosscheck",
        "compare",
    ],
)
def test_commands(command: str) -> None:
    assert f"`{command} " in README or f"`{command}`" in README


def test_the_python_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    example = README.split("```python\n")[1].split("```")[0]
    for name in ("models", "fault_lists"):
        (tmp_path / name).symlink_to(REPO / name)
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {})
    assert (tmp_path / "run/results.csv").is_file()
