"""Names of curves beside the curves, each where it covers least: no legend to look things up in."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Points = NDArray[np.float64]

#: In points: the height of a name as a part of its font size; the gap to its curve; the step along a curve.
_LINE_HEIGHT, _GAP, _STEP = 1.15, 2.0, 2.0
#: What a point of a curve under a name costs: of its own curve, of another named one, of a grey one; a band under it.
_OWN, _NAMED, _GREY, _BAND = 3.0, 12.0, 1.5, 2.0
#: What it costs if another named curve is nearer than the name's own, and if the name covers another name.
_DOUBTFUL, _COVERED = 80.0, 1000.0
#: Every so many points of a curve, a name is tried.
_EVERY = 3


class Labelled(NamedTuple):
    """A curve (`line_of`) with its name, the name's colour and its width in points."""

    name: str
    colour: str
    width: float
    line: Points


def line_of(x: ArrayLike, y: ArrayLike, low: ArrayLike | None, high: ArrayLike | None) -> Points:
    """Return a curve as x, y and the ends of its band, (points, 4); without a band, these are y."""
    ends = (y, y) if low is None or high is None else (low, high)
    return np.stack([np.asarray(column, np.float64) for column in (x, y, *ends)], axis=1)


def label_directly(ax: "Axes", labelled: Sequence[Labelled], grey: Sequence[Points], size: float) -> None:
    """Write the names of ``labelled`` curves into ``ax``, whose place in the figure is final.

    ``grey``: curves without a name (`line_of`). ``size``: of the font, in points. A curve without a finite point gets no
    name.
    """
    curves = [_dense(ax, curve.line[:, :2]) for curve in labelled]
    others = [_dense(ax, line[:, :2]) for line in grey]
    bands = [(_dense(ax, line[:, [0, 2]]), _dense(ax, line[:, [0, 3]])) for *_, line in labelled]
    frame = _in_points(ax, ax.transAxes.transform(np.array([[0.0, 0.0], [1.0, 1.0]])))
    taken: list[tuple[Points, Points]] = []
    for number, (curve, own) in enumerate(zip(labelled, curves, strict=True)):
        half = np.array([curve.width / 2 + 1, size * _LINE_HEIGHT / 2])
        middles = _beside(own, half, frame)
        if not len(middles):
            continue
        named = [points for other, points in enumerate(curves) if other != number and len(points)]
        costs = _costs(own, named, others, middles - half, middles + half)
        costs += _BAND * sum(_covered(*band, middles) for band in bands if len(band[0]))
        costs += _COVERED * sum(((middles - half < end) & (middles + half > start)).all(axis=1) for start, end in taken)
        best = middles[np.argmin(costs)]
        taken.append((best - half, best + half))
        corner = frame[0]
        ax.annotate(
            curve.name,
            xy=(0, 0),
            xycoords="axes fraction",
            xytext=tuple(best - corner),
            textcoords="offset points",
            color=curve.colour,
            fontsize=size,
            ha="center",
            va="center",
            zorder=4,
            in_layout=False,
            bbox={"facecolor": "white", "alpha": 0.75, "linewidth": 0, "pad": 0.4},
        )


def _in_points(ax: "Axes", pixels: Points) -> Points:
    figure = ax.get_figure(root=True)
    assert figure is not None
    return np.asarray(pixels * 72 / figure.dpi, np.float64)


def _dense(ax: "Axes", points: Points) -> Points:
    """Return the points of a curve in points of the figure, so many that no gap is longer than a step; (n, 2)."""
    finite = points[np.isfinite(points).all(axis=1)]
    if not len(finite):
        return np.empty((0, 2))
    shown = _in_points(ax, ax.transData.transform(finite))
    lengths = np.hypot(*np.diff(shown, axis=0).T)
    along = np.concatenate([[0.0], np.cumsum(lengths)])
    wanted = np.linspace(0.0, along[-1], max(2, int(along[-1] / _STEP) + 1))
    return np.stack([np.interp(wanted, along, shown[:, axis]) for axis in range(2)], axis=1)


def _beside(own: Points, half: Points, frame: Points) -> Points:
    """Return the middles of names of size 2 x ``half`` that lie beside a curve, within the ``frame``; (places, 2)."""
    beside = half + _GAP
    offsets = np.array([(x, y) for x in (0, beside[0], -beside[0]) for y in (beside[1], -beside[1])])
    middles = (own[::_EVERY, None] + offsets).reshape(-1, 2)
    within = ((middles - half >= frame[0] + 1) & (middles + half <= frame[1] - 1)).all(axis=1)
    return np.asarray(middles[within], np.float64)


def _costs(own: Points, named: Sequence[Points], grey: Sequence[Points], low: Points, high: Points) -> Points:
    """Return what each place from ``low`` to ``high`` (places, 2) hides, and whose name it seems to be; (places,)."""
    distances, inside = _distances(own, low, high)
    costs = _OWN * inside + sum(_GREY * _distances(points, low, high)[1] for points in grey)
    for points in named:
        others, inside = _distances(points, low, high)
        costs += _NAMED * inside + _DOUBTFUL * (others < 1.3 * distances + 0.5)
    return np.asarray(costs, np.float64)


def _distances(points: Points, low: Points, high: Points) -> tuple[Points, Points]:
    """Return, for each place, the distance of a curve from its edge, and the number of the curve's points inside."""
    beyond = np.maximum(np.maximum(low[:, None] - points, points - high[:, None]), 0.0)
    distances = np.hypot(beyond[..., 0], beyond[..., 1])
    return distances.min(axis=1), (distances < 0.5).sum(axis=1).astype(np.float64)


def _covered(low: Points, high: Points, middles: Points) -> Points:
    """Return whether a band with these edges covers each of the ``middles``, as 0 or 1."""
    start, end = (np.interp(middles[:, 0], edge[:, 0], edge[:, 1], left=np.nan, right=np.nan) for edge in (low, high))
    return ((start < middles[:, 1]) & (middles[:, 1] < end)).astype(np.float64)
