"""Plots for papers: curves with interval bands and dots with whiskers, as SVG and PNG, distinguishable without colour.

A figure does not depend on the user's matplotlib settings, needs no display and changes no global state. The same
panels give the same SVG, byte for byte, under the same matplotlib. Text in an SVG is text; names are not read as
mathematics.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bitswap_onnx.errors import MissingExtraError
from bitswap_onnx.files import replacing
from bitswap_onnx.report.axes import make_logarithmic, make_whole
from bitswap_onnx.report.direct_labels import Labelled, label_directly, line_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: How to draw the curves of each name: options of `Axes.plot`.
_Styles = dict[str, dict[str, Any]]

#: Changes to matplotlib's defaults. Sizes are in points, for a figure that is printed at its own size.
_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "bitswap-onnx",
    "text.parse_math": False,
    "font.size": 8,
    **dict.fromkeys(("axes.titlesize", "axes.labelsize"), 8),
    **dict.fromkeys(("xtick.labelsize", "ytick.labelsize", "legend.fontsize"), 7),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right"), False),
    "axes.axisbelow": True,
    "axes.xmargin": 0.03,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.4,
    **dict.fromkeys(("axes.linewidth", "xtick.major.width", "ytick.major.width"), 0.6),
    "xtick.minor.width": 0.4,
    "lines.linewidth": 1.0,
    "lines.markersize": 3.6,
    "lines.markeredgewidth": 0.7,
}
#: Dots per inch of the PNG.
_DPI = 300

#: Inches: a panel of curves; a row of bars and the space around the rows.
_WIDTH, _HEIGHT = 3.3, 2.5
_BAR_ROW, _BARS_AROUND = 0.14, 0.75

#: Curves of a panel that have a colour and a name; further ones are grey. More names would hide the curves.
_MOST_NAMED = 5
_GREY: dict[str, Any] = {"color": "#c4c4c4", "linewidth": 0.8}

#: Colours at least ten steps of lightness apart (CIE L* 22 to 71), dark beside light; 4 dashes and 9 markers: 36 pairs.
_COLOURS = ("#1f2f6f", "#da7530", "#9a1f47", "#62b8e0", "#0f8272")
_DASHES = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.2, 1.2, 1.2)))
_MARKERS = "os^DvPX<*"
_REFERENCE_DASHES = ((0, (6, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2, 1, 2)), "-")
#: A curve of at most so many points has a marker at each point; a longer curve has about so many markers in all.
_FEW_POINTS, _MARKERS_SHOWN = 16, 6


@dataclass(frozen=True, eq=False)
class Curve:
    """Points ``x``, ``y`` (n,), joined in their order; ``low`` and ``high`` (n,), if both are given, are drawn as a band.

    A ``reference`` (an oracle, a random order, a golden accuracy) is a black broken line without markers.
    """

    name: str
    x: NDArray[Any]
    y: NDArray[Any]
    low: NDArray[Any] | None = None
    high: NDArray[Any] | None = None
    reference: bool = False


@dataclass(frozen=True, eq=False)
class Panel:
    """Curves over the same axes; curves of the same name look the same in every panel of a figure.

    ``x_whole``: x counts something, so only whole numbers are marked. ``y_range``: the lowest and highest y to show; None
    fits the curves. Raises ValueError for x <= 0 with ``x_log``.
    """

    title: str
    x_label: str
    y_label: str
    curves: Sequence[Curve]
    x_log: bool = False
    x_whole: bool = False
    y_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.x_log and any(np.any(np.asarray(curve.x) <= 0) for curve in self.curves):
            raise ValueError(f"{self.title}: a logarithmic axis has no place for x <= 0; leave those points out")


@dataclass(frozen=True, eq=False)
class Bars:
    """One row per label, the first on top: a dot at ``values`` (n,), a whisker from ``low`` to ``high`` (n,)."""

    title: str
    x_label: str
    labels: Sequence[str]
    values: NDArray[Any]
    low: NDArray[Any]
    high: NDArray[Any]


def require_matplotlib() -> None:
    """Raise MissingExtraError where matplotlib is absent."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise MissingExtraError("plots need matplotlib: pip install 'bitswap-onnx[report]'") from None


def draw_figure(panels: Sequence[Panel | Bars]) -> "Figure":
    """Return the panels side by side, as matplotlib's figure; raises MissingExtraError without it."""
    require_matplotlib()
    with _our_settings():
        return _draw(panels)


def save_figure(stem: Path, panels: Sequence[Panel | Bars]) -> tuple[Path, Path]:
    """Draw the panels side by side; write ``<stem>.svg`` and ``<stem>.png``, whole, and return both.

    A ``.svg`` or ``.png`` at the end of ``stem`` is removed. The first five curves of a panel have their names beside them;
    further ones are grey, and the title says how many.

    Raises MissingExtraError without matplotlib, and RunError if a file cannot be written.
    """
    name = stem.stem if stem.suffix.lower() in (".svg", ".png") else stem.name
    files = stem.with_name(f"{name}.svg"), stem.with_name(f"{name}.png")
    figure = draw_figure(panels)
    with _our_settings():
        pictures = [_render(figure, "svg", metadata={"Date": None}), _render(figure, "png", dpi=_DPI)]
    for path, picture in zip(files, pictures, strict=True):
        with replacing(path, "wb") as file:
            file.write(picture)
    return files


@contextmanager
def _our_settings() -> Iterator[None]:
    """Draw with matplotlib's defaults and `_SETTINGS`, whatever the process or its user has set."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)
        yield


def _render(figure: "Figure", kind: str, **options: Any) -> bytes:
    picture = BytesIO()
    figure.savefig(picture, format=kind, **options)
    return picture.getvalue()


def _draw(panels: Sequence[Panel | Bars]) -> "Figure":
    from matplotlib.figure import Figure

    width = sum(_WIDTH + (_text_inches(panel.labels) if isinstance(panel, Bars) else 0) for panel in panels)
    figure = Figure(figsize=(width, max(map(_height, panels))), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    styles, most = _styles(panels), max((len(panel.labels) for panel in panels if isinstance(panel, Bars)), default=0)
    for panel, ax in zip(panels, axes, strict=True):
        ax.set_xlabel(_shown(panel.x_label))
        if isinstance(panel, Panel):
            _draw_curves(ax, panel, styles)
        else:
            ax.set_title(_shown(panel.title))
            _draw_bars(ax, panel, most)
    figure.draw_without_rendering()  # from here on, axes have their place
    for panel, ax in zip(panels, axes, strict=True):
        if isinstance(panel, Panel):
            _label_curves(ax, panel, styles)
    return figure


def _draw_curves(ax: "Axes", panel: Panel, styles: _Styles) -> None:
    grey = max(0, len(panel.curves) - _MOST_NAMED)
    ax.set_title(_shown(panel.title) + (f" (grey: {grey} more)" if grey else ""))
    ax.set_ylabel(_shown(panel.y_label))
    ax.grid(True)
    for place, curve in enumerate(panel.curves):
        if place >= _MOST_NAMED:
            ax.plot(curve.x, curve.y, zorder=1.5, **_GREY)
            continue
        style = styles[curve.name]
        if curve.low is not None and curve.high is not None:
            ax.fill_between(curve.x, curve.low, curve.high, color=style["color"], alpha=0.15, linewidth=0)
        # Markers start at different points, so that they do not cover each other where curves do.
        step = len(curve.x) // _MARKERS_SHOWN if len(curve.x) > _FEW_POINTS else 1
        every = int(place * 0.382 % 1 * step), step
        ax.plot(curve.x, curve.y, markevery=every, zorder=3 if curve.reference else 2, **style)
    if panel.x_log:
        make_logarithmic(ax)
    if panel.x_whole:
        make_whole(ax)
    if panel.y_range is not None:
        low, high = panel.y_range
        ax.set_ylim(low - 0.03 * (high - low), high + 0.03 * (high - low))


def _label_curves(ax: "Axes", panel: Panel, styles: _Styles) -> None:
    lines = [line_of(curve.x, curve.y, curve.low, curve.high) for curve in panel.curves]
    labelled = [
        Labelled(_shown(curve.name), styles[curve.name]["color"], 72 * _text_inches([curve.name]), line)
        for curve, line in zip(panel.curves[:_MOST_NAMED], lines, strict=False)
    ]
    label_directly(ax, labelled, lines[_MOST_NAMED:], _SETTINGS["legend.fontsize"])


def _draw_bars(ax: "Axes", bars: Bars, most: int) -> None:
    """Draw bars; where another panel has ``most`` rows, more than these, they keep the distance of its rows."""
    rows = np.arange(len(bars.labels))
    ax.grid(True)
    ax.axvline(0, color="black", linewidth=0.6)
    ax.hlines(rows, bars.low, bars.high, color="#777777", linewidth=1.2)
    ax.plot(bars.values, rows, "o", color="black", markersize=3)
    ax.set_yticks(rows, [_shown(label) for label in bars.labels])
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.set_ylim(len(rows) - 0.4, -0.6)
    if len(rows) < most:
        ax.set_anchor("N")
        ax.set_box_aspect(_BAR_ROW * max(len(rows), 2) / _WIDTH)


def _styles(panels: Sequence[Panel | Bars]) -> _Styles:
    """Return the style of the named curves, chosen in the order of first appearance."""
    curves = [curve for panel in panels if isinstance(panel, Panel) for curve in panel.curves[:_MOST_NAMED]]
    references = list(dict.fromkeys(curve.name for curve in curves if curve.reference))
    others = list(dict.fromkeys(curve.name for curve in curves if not curve.reference))
    styles = {name: _reference_style(place) for place, name in enumerate(references)}
    return styles | {name: _style(place) for place, name in enumerate(others)}


def _style(place: int) -> dict[str, Any]:
    colour = _COLOURS[place % len(_COLOURS)]
    return {
        "color": colour,
        "linestyle": _DASHES[place % len(_DASHES)],
        "marker": _MARKERS[place % len(_MARKERS)],
        "markerfacecolor": "white" if place % 2 else colour,
    }


def _reference_style(place: int) -> dict[str, Any]:
    return {"color": "black", "linestyle": _REFERENCE_DASHES[place % len(_REFERENCE_DASHES)], "linewidth": 1.2}


def _height(panel: Panel | Bars) -> float:
    return _BARS_AROUND + _BAR_ROW * len(panel.labels) if isinstance(panel, Bars) else _HEIGHT


def _text_inches(names: Sequence[str]) -> float:
    """Return the width of the widest name, in inches, in the font size of tick labels and legends."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextToPath

    font = FontProperties(size=_SETTINGS["legend.fontsize"])
    widths = (TextToPath().get_text_width_height_descent(_shown(name), font, ismath=False)[0] for name in names)
    return float(max(widths, default=0.0)) / 72


def _shown(name: str) -> str:
    """Return a name with a replacement character for each unprintable one, which XML may not hold."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in name)
