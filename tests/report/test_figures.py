"""Plots: whole files, text as text, the same bytes every time, readable without colour."""

import struct
import subprocess
import sys
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from bitswap_onnx.errors import MissingExtraError, RunError
from bitswap_onnx.report.figures import Bars, Curve, Panel, save_figure
from tests.report.panels import RATES, X, bars, rankings, sweep

ODD = ("$x_1$", "_hidden", "a < b & c > d", "100 %", r"\alpha {", "conv1.weight^2", "10⁻⁶ µ ü")


def texts(svg: Path) -> list[str]:
    return [element.text or "" for element in ElementTree.parse(svg).iter("{http://www.w3.org/2000/svg}text")]


def png_size(png: Path) -> tuple[int, int]:
    head = png.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", head[16:])
    return width, height


def drawn(monkeypatch: pytest.MonkeyPatch, folder: Path, *panels: Panel | Bars) -> Figure:
    """Return the figure that `save_figure` draws."""
    figures: list[Figure] = []
    render = Figure.savefig

    def keep(figure: Figure, *args: Any, **options: Any) -> None:
        figures.append(figure)
        render(figure, *args, **options)
        figure.draw_without_rendering()  # where things lie, at the figure's own resolution

    monkeypatch.setattr(Figure, "savefig", keep)
    save_figure(folder / "drawn", panels)
    return figures[0]


@pytest.mark.parametrize(
    ("panels", "inches"),
    [
        ([rankings()], (3.3, 2.5)),
        ([rankings(), rankings("Residual risk")], (6.6, 2.5)),
        ([sweep()], (3.3, 2.5)),
        ([bars(60)], (4.0, 9.15)),
        ([bars(3)], (4.0, 1.2)),
        ([sweep(), bars(5)], (7.3, 2.5)),
    ],
    ids=["rankings", "two panels", "sweep", "60 layers", "3 layers", "mixed"],
)
def test_figures_fit_a_page(tmp_path: Path, panels: list[Panel | Bars], inches: tuple[float, float]) -> None:
    svg, png = save_figure(tmp_path / "figure", panels)
    assert [svg, png] == [tmp_path / "figure.svg", tmp_path / "figure.png"]
    assert sorted(tmp_path.iterdir()) == [png, svg]
    assert np.array(png_size(png)) / 300 == pytest.approx(inches, rel=0.05)
    shown = texts(svg)
    for panel in panels:
        titles = {panel.title}
        if isinstance(panel, Panel):
            names, unnamed = [curve.name for curve in panel.curves[:5]], [curve.name for curve in panel.curves[5:]]
            titles = {f"{panel.title} (grey: {len(unnamed)} more)"} if unnamed else titles
            assert [shown.count(name) for name in names] == [len(panels) if unnamed else 1] * len(names), (
                "in each panel"
            )
            assert not set(unnamed) & set(shown)
        else:
            assert [shown.count(label) for label in panel.labels] == [1] * len(panel.labels)
        assert titles | {panel.x_label} <= set(shown)


def test_the_same_panels_give_the_same_bytes_whatever_the_settings(tmp_path: Path) -> None:
    panels: list[Panel | Bars] = [rankings(), sweep(), bars(4)]
    first = [path.read_bytes() for path in save_figure(tmp_path / "a", panels)]
    hostile: Any = {
        "font.size": 20,
        "axes.facecolor": "red",
        "svg.fonttype": "path",
        "lines.linewidth": 9,
        "axes.grid": True,
    }
    with matplotlib.rc_context(hostile):
        second = [path.read_bytes() for path in save_figure(tmp_path / "b", panels)]
        assert {name: matplotlib.rcParams[name] for name in hostile} == hostile
        assert matplotlib.rcParams["text.parse_math"]
    assert first == second


def test_no_display_and_no_global_figures() -> None:
    code = (
        "import sys, pathlib, tempfile\n"
        "from bitswap_onnx.report.figures import save_figure\n"
        "from tests.report.panels import sweep\n"
        "save_figure(pathlib.Path(tempfile.mkdtemp()) / 'a', [sweep()])\n"
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PATH": ""}, cwd=Path(__file__).parents[2])


def test_five_curves_differ_without_colour_and_others_are_grey(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    panel = rankings()
    random, oracle = panel.curves[-2:]
    panels = [replace(panel, title=title, curves=[random, oracle, *panel.curves[:-2]]) for title in ("S", "risk")]
    figure = drawn(monkeypatch, tmp_path, *panels)
    first, second = ([(vars(line)["_dash_pattern"], line.get_marker()) for line in ax.lines] for ax in figure.axes)
    assert len({str(look) for look in first[:5]}) == 5
    assert first == second, "a name looks the same in every panel"
    assert [line.get_color() for line in figure.axes[0].lines[:2]] == ["black", "black"]
    assert {line.get_marker() for line in figure.axes[0].lines[:2]} == {"None"}
    assert {(line.get_color(), line.get_linestyle()) for line in figure.axes[0].lines[5:]} == {("#c4c4c4", "-")}
    assert not figure.legends


def wandering() -> Panel:
    """Twelve random walks, which cross each other."""
    steps = np.random.default_rng(0).normal(size=(12, 21))
    curves = [Curve(f"curve number {number}", X, walk.cumsum()) for number, walk in enumerate(steps)]
    return Panel("walks", "step", "place", curves)


@pytest.mark.parametrize("panel", [rankings(), sweep(), wandering()], ids=["rankings", "sweep", "walks"])
def test_names_stand_apart_beside_their_curves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, panel: Panel) -> None:
    """No name covers another or leaves the axes. Where curves leave room, no other named one is nearer than its own."""
    figure = drawn(monkeypatch, tmp_path, panel)
    (ax,) = figure.axes
    frame, names = ax.get_window_extent(), [text for text in ax.texts if text.get_text()]
    named = panel.curves[:5]
    assert [text.get_text() for text in names] == [curve.name for curve in named]
    boxes = [text.get_window_extent() for text in names]
    assert not [1 for a, b in combinations(boxes, 2) if a.overlaps(b)]
    assert all(frame.x0 <= box.x0 < box.x1 <= frame.x1 and frame.y0 <= box.y0 < box.y1 <= frame.y1 for box in boxes)
    if panel.title == "S-curve":  # a fan of curves, closer to each other than a name is high
        return
    fine = np.linspace(0, len(X) - 1, 4000)
    for number, box in enumerate(boxes):
        distances = []
        for curve in named:
            columns = (np.log10(curve.x) if panel.x_log else curve.x), curve.y
            x, y = (np.interp(fine, np.arange(len(column)), column) for column in columns)
            pixels = ax.transData.transform(np.stack([10**x if panel.x_log else x, y], axis=1))
            outside = np.maximum(np.maximum([box.x0, box.y0] - pixels, pixels - [box.x1, box.y1]), 0)
            distances.append(np.hypot(*outside.T).min())
        assert distances[number] == min(distances)


def test_counts_have_no_halves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for layers in (1, 4, 20):
        curve = Curve("a", np.arange(1, layers + 1), np.linspace(1, 0.5, layers))
        figure = drawn(monkeypatch, tmp_path, Panel("t", "layers monitored", "accuracy", [curve], x_whole=True))
        low, high = figure.axes[0].get_xlim()
        marked = [tick for tick in figure.axes[0].get_xticks() if low <= tick <= high]
        assert marked
        assert all(float(tick).is_integer() for tick in marked)


def test_neighbouring_colours_differ_in_lightness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figure = drawn(monkeypatch, tmp_path, rankings())
    rgb = np.array([matplotlib.colors.to_rgb(line.get_color()) for line in figure.axes[0].lines[:5]])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    lightness = 116 * np.cbrt(linear @ [0.2126, 0.7152, 0.0722]) - 16
    assert np.diff(np.sort(lightness)).min() > 10
    assert lightness.max() < 75, "a line on white paper"


def test_names_are_shown_as_they_are(tmp_path: Path) -> None:
    curves = [Curve(name, X, X + place) for place, name in enumerate(ODD)]
    values = np.arange(len(ODD))
    panels: list[Panel | Bars] = [
        Panel("$a_b$ <i>", "$x$", "_y & z", curves[:4]),
        Panel("the others", "$x$", "_y & z", curves[4:]),
        Bars("$t$", "%$", ODD, values, values, values),
    ]
    shown = texts(save_figure(tmp_path / "odd", panels)[0])
    assert {"$a_b$ <i>", "$x$", "_y & z", "$t$", "%$"} <= set(shown)
    assert [shown.count(name) for name in ODD] == [2] * len(ODD)


def test_what_xml_cannot_hold_is_replaced(tmp_path: Path) -> None:
    svg, _ = save_figure(tmp_path / "odd", [Panel("a\x00b\nc", "x", "y", [Curve("\ud800d", X, X)])])
    assert {"a�b�c", "�d"} <= set(texts(svg))


@pytest.mark.parametrize(
    ("rates", "labels"),
    [
        ((1e-9, 1e-3), {"10⁻⁹", "10⁻⁶", "10⁻³"}),
        ((1e-4, 1.0), {"10⁻⁴", "10⁰"}),
        ((2e-6, 9e-5), {"3×10⁻⁶", "10⁻⁵", "3×10⁻⁵"}),
        ((2e-6, 4e-5), {"2×10⁻⁶", "5×10⁻⁶", "10⁻⁵", "2×10⁻⁵"}),
        ((2e-5, 9e-5), {"2×10⁻⁵", "4×10⁻⁵", "6×10⁻⁵", "8×10⁻⁵"}),
        ((5.2e-5, 5.9e-5), {"5.2×10⁻⁵", "5.4×10⁻⁵", "5.8×10⁻⁵"}),
        ((1e-5, 1e-5), {"10⁻⁵"}),
    ],
)
def test_rates_are_labelled_over_any_range(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rates: tuple[float, float], labels: set[str]
) -> None:
    panel = Panel("t", "rate", "accuracy", [Curve("a", np.array(rates), np.array([1.0, 0.5]))], x_log=True)
    figure = drawn(monkeypatch, tmp_path, panel)
    low, high = figure.axes[0].get_xlim()
    ticks = [tick for tick in vars(figure.axes[0].xaxis)["majorTicks"] if low <= tick.get_loc() <= high]
    assert labels <= {tick.label1.get_text() for tick in ticks}
    assert labels <= set(texts(tmp_path / "drawn.svg"))
    boxes = [tick.label1.get_window_extent() for tick in ticks]
    assert all(left.x1 + 2 < right.x0 for left, right in pairwise(boxes)), "labels do not overlap"


def test_a_rate_of_zero_has_no_place_on_a_logarithmic_axis() -> None:
    with pytest.raises(ValueError, match="Sweep: a logarithmic axis has no place for x <= 0"):
        Panel("Sweep", "rate", "accuracy", [Curve("a", np.array([0, 1e-6]), np.ones(2))], x_log=True)


def test_missing_values_leave_gaps(tmp_path: Path) -> None:
    none = np.full(21, np.nan)
    curves = [Curve("none", X, none), Curve("some", X, np.where(X > 0.5, X, np.nan), none, none)]
    panels: list[Panel | Bars] = [Panel("t", "x", "y", curves), Bars("b", "x", ["a"], none[:1], none[:1], none[:1])]
    shown = texts(save_figure(tmp_path / "gaps", panels)[0])
    assert {"some", "a"} <= set(shown)
    assert "none" not in shown, "a curve without a point has no place for its name"


def test_band_and_range(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figure = drawn(monkeypatch, tmp_path, sweep(), rankings())
    left, right = figure.axes
    band = left.collections[0].get_paths()[0].vertices
    assert set(np.round(np.asarray(band)[:, 0], 12)) == set(np.round(RATES, 12))
    assert not right.collections
    assert right.get_ylim() == pytest.approx((-0.03, 1.03)), "lines at the ends are drawn in full"


def test_rows_keep_their_order_and_start_at_zero(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figure = drawn(monkeypatch, tmp_path, bars(60))
    ax = figure.axes[0]
    assert [label.get_text() for label in ax.get_yticklabels()] == [f"block{i}.conv" for i in range(60)]
    assert ax.yaxis_inverted()
    assert ax.get_xlim()[0] <= 0
    boxes = [label.get_window_extent() for label in ax.get_yticklabels()]
    assert all(upper.y0 >= lower.y1 for upper, lower in pairwise(boxes)), "labels do not overlap"
    assert min(box.x0 for box in boxes) >= 0


def test_short_panels_are_not_stretched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figure = drawn(monkeypatch, tmp_path, bars(3), bars(40))
    short, tall = figure.axes
    heights = [ax.get_window_extent().height / len(ax.get_yticklabels()) for ax in (short, tall)]
    assert heights[0] == pytest.approx(heights[1], rel=0.5)
    assert short.get_window_extent().y1 == pytest.approx(tall.get_window_extent().y1, abs=2)


@pytest.mark.parametrize(("stem", "file"), [("run.v2", "run.v2.svg"), ("a.svg", "a.svg"), ("a.PNG", "a.svg")])
def test_a_stem_may_hold_dots_or_end_in_a_picture_s_suffix(tmp_path: Path, stem: str, file: str) -> None:
    assert save_figure(tmp_path / stem, [sweep()])[0].name == file


def test_old_files_are_replaced_whole(tmp_path: Path) -> None:
    for name in ("a.svg", "a.png"):
        (tmp_path / name).write_bytes(b"old" * 1_000_000)
    svg, png = save_figure(tmp_path / "a", [sweep()])
    assert "accuracy" in texts(svg)
    assert png_size(png)
    assert b"old" * 2 not in svg.read_bytes() + png.read_bytes()
    assert len(list(tmp_path.iterdir())) == 2


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"nowhere/a\.svg: cannot write: there is no folder .*; make it first") as caught:
        save_figure(tmp_path / "nowhere" / "a", [sweep()])
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_matplotlib_is_an_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"^plots need matplotlib: pip install 'bitswap-onnx\[report\]'$"):
        save_figure(tmp_path / "a", [sweep()])
    assert not list(tmp_path.iterdir())
