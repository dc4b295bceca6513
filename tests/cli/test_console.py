"""Progress lines: rate, time left and running critical share, by a clock of our own."""

import pytest

from bitswap_onnx.campaign.options import Progress
from bitswap_onnx.cli import console


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Show two stages, the second resumed at 40 of 100 units, with a step every five seconds."""
    clock = iter(range(0, 1000, 5))
    now = [0]

    def monotonic() -> float:
        return now[0]

    monkeypatch.setattr("bitswap_onnx.cli.console.time.monotonic", monotonic)
    with console.progress() as show:
        for progress in (
            *(Progress("null controls", done, 2) for done in (1, 2)),
            *(Progress("injections", done, 100, 10 * done, done) for done in (40, 50, 60, 70)),
        ):
            now[0] = next(clock)
            show(progress)
    return capsys.readouterr().err.splitlines()


def test_time_left_is_of_all_that_has_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Four chunks of each of two injections: after a quarter of the second, 3 of 8 chunks are left, of 10 s each."""
    seconds = iter(range(0, 1000, 10))
    now = next(seconds)
    monkeypatch.setattr("bitswap_onnx.cli.console.time.monotonic", lambda: now)
    with console.progress() as show:
        for chunk in range(1, 6):
            now = next(seconds)
            show(Progress("injections", chunk * 2 // 8, 2, chunk, 0, chunk * 2 / 8))
    assert capsys.readouterr().err.splitlines()[-1] == "injections: 1/2, 0 inferences/s, ETA 30 s, critical 0.00 %"


def test_lines(lines: list[str]) -> None:
    assert lines == [
        "null controls: 2/2, ETA 0 s",
        "injections: 50/100, 20 inferences/s, ETA 25 s, critical 10.00 %",
        "injections: 70/100, 20 inferences/s, ETA 15 s, critical 10.00 %",
    ]


def test_names_bring_no_escape_to_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """A layer's name may be anything; tables and lines show what is in it."""
    table = console.table("Targets of \x1b]0;title\x07", "Layer")
    table.add_row("conv\x1b[31m")
    console.out.print(table)
    console.out.print("conv\x1b[31m\nnext line")
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert "\x07" not in printed
    assert printed.count("conv\\x1b[31m") == 2
    assert printed.endswith("\nnext line\n")


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [
        *(
            (0, 9, "0.00 %"),
            (1, 30_000, "< 0.01 %"),
            (1, 8, "12.50 %"),
            (29_999, 30_000, "> 99.99 %"),
            (9, 9, "100.00 %"),
        ),
        *((None, 9, "-"), (0, 0, "-"), (3, None, "-")),
    ],
)
def test_a_share_that_is_not_none_is_not_shown_as_none(part: int | None, whole: int | None, text: str) -> None:
    assert console.share(part, whole) == text
