"""The picture of `flserve bench bytes`: accuracy against cumulative bytes, one PNG a model.

Every seed is a thin line, their mean a bold one. Bytes are payload bytes both ways, on a logarithmic axis.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from flserve_app.errors import MissingExtra, StoreError
from flserve_app.experiments.byte_curve import Curve

DOTS_PER_INCH = 150
_BELOW, _ABOVE = 0.15, 0.01  # shown of the accuracy: below what plain ends with, and above the best


def check_plot() -> None:
    """Find out whether there is something to draw with.

    Raises:
        MissingExtra: If there is not.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise MissingExtra("matplotlib is not installed: pip install 'flserve[plot]'") from error


def plot(path: Path, model: str, curves: Mapping[str, Sequence[Curve]], *, goal: float, margin: float) -> None:
    """Draw one model's settings.

    Args:
        path: The PNG; what stands there is replaced.
        model: Name in the title.
        curves: Of each setting, its seeds.
        goal: Mean accuracy that plain FedAvg ends with.
        margin: How far below counts as good as that.

    Raises:
        MissingExtra: If matplotlib is not installed.
        StoreError: If the file cannot be written.
    """
    check_plot()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for number, (name, seeds) in enumerate(curves.items()):
        _draw(axes, name, seeds, f"C{number}")
    axes.axhline(goal - margin, color="grey", linewidth=0.8, linestyle="--")
    low = max(0.0, goal - _BELOW)
    shown = [sent for each in chain(*curves.values()) for sent, high in _points(each) if high >= low]
    axes.set_xscale("log")
    axes.set_xlim(left=min(shown, default=1.0) / 2)
    best = max(chain([goal], *(each.accuracy for each in chain(*curves.values()))))
    axes.set_ylim(low, min(1.0, best + _ABOVE))
    axes.set_xlabel("payload bytes up to the end of a round, both ways, MB")
    axes.set_ylabel("accuracy")
    axes.set_title(f"{model}: dashed is plain FedAvg's last accuracy less {100 * margin:g} points")
    axes.grid(visible=True, which="both", alpha=0.2)
    axes.legend()
    try:
        figure.savefig(path, dpi=DOTS_PER_INCH)
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error}") from error


def _draw(axes: Any, name: str, seeds: Sequence[Curve], colour: str) -> None:
    points = np.array([_points(each) for each in seeds])
    for each in points:
        axes.plot(*each.T, color=colour, linewidth=0.5, alpha=0.3)
    axes.plot(*points.mean(axis=0).T, color=colour, linewidth=1.8, label=f"{name} ({len(seeds)})")


def _points(curve: Curve) -> list[tuple[float, float]]:
    """Return megabytes and accuracy after each round."""
    return [(sent / 1e6, accuracy) for sent, accuracy in zip(curve.payload, curve.accuracy, strict=True)]
