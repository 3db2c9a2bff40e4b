"""The pictures of an animation, one after the other, drawn into one array of pixels.

What does not change (axes, outlines, spectra, labels) is drawn by matplotlib once, on black and on white panels, which
tells for each pixel the colour C and the opacity A of the lines over the image. A frame then has, in the pixels of each
panel, C + (1 - A) * colour(P v), with v the values of the cube's spaxels, P the projection to pixels (a sparse matrix)
and colour a look-up table. Only cursor and numbers are drawn anew: many times faster than drawing the figure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import csr_array, vstack

from animation_panels import AnimatedCube, Layout, Panel, Rectangle
from cube_summary import with_gaps
from cubes import spaxel_scale
from sky_frame import GRID_STEP_DEG, draw_body, edge

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_EMPTY_GREY = 217
_LINE_COLOUR = "0.6"
# Of the colour bar, where it has numbers.
_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
_ROW_LABELS = {
    "ifu": "IFU frame\ny [spaxel]",
    "target": "target, pole up\n[arcsec]",
    "zoom": "aligned zoom\n[arcsec]",
    "map": "map\nlatitude [deg]",
}


@dataclass(frozen=True)
class Words:
    """What is written in the pictures.

    Attributes
    ----------
    title
        Target, date, instrument, band.
    quantity
        What is shown, with its unit.
    spectrum
        What the spectra show, with their unit.
    frames
        One line for each frame: wavelength, plane.
    """

    title: str
    quantity: str
    spectrum: str
    frames: Sequence[str]


class FrameDrawer:
    """Draws the frames of one animation.

    Parameters
    ----------
    cubes, layout
        What is shown where.
    wavelength
        (frames,) [um].
    ranges
        (frames, 2) values of the first and last colour; NaN where there is nothing to show.
    colours
        Name of a matplotlib colour map.
    words
        What is written.
    """

    def __init__(
        self,
        cubes: Sequence[AnimatedCube],
        layout: Layout,
        wavelength: np.ndarray,
        ranges: np.ndarray,
        colours: str,
        words: Words,
    ) -> None:
        from matplotlib import colormaps

        self.cubes, self.layout, self.words = cubes, layout, words
        self.wavelength, self.ranges = wavelength, ranges
        self.colours = (colormaps[colours](np.linspace(0, 1, 256)) * 255).round().astype(np.uint8)
        figure, panels = draw_figure(cubes, layout, self.colours, words)
        self._make_moving_artists(figure, layout, panels)
        self.pixels, self._lines, opacity = _split_layers(figure, panels, layout)
        self._background = self._lines.copy()
        for panel in layout.panels:
            region = _slices(panel.place)
            empty = np.round(_EMPTY_GREY * (1 - opacity[region]))[..., None]
            self._background[region][..., :3] += empty.astype(np.uint8)
        self._renderer = figure.canvas.get_renderer()
        self._parts = [_Part.of(number, cubes, layout, self._lines, opacity) for number in range(len(cubes))]

    def _make_moving_artists(self, figure: Figure, layout: Layout, panels: Sequence[Axes]) -> None:
        spectrum, bar = figure.axes[0], figure.axes[1]
        self._cursor = spectrum.axvline(self.wavelength[0], color="0.2", linewidth=1, animated=True)
        style = {"fontsize": 8, "animated": True, "va": "center"}
        self._numbers = [bar.text(1.25, height, "", transform=bar.transAxes, **style) for height in _SHARES]
        self._caption = figure.text(
            (layout.spectrum.left + layout.spectrum.width) / layout.width,
            1 - 0.42 * layout.dpi / layout.height,
            "",
            ha="right",
            va="center",
            fontsize=12,
            fontweight="bold",
            animated=True,
        )

    def draw(self, number: int) -> np.ndarray:
        """Draw one frame.

        Parameters
        ----------
        number
            Of the frame, from 0.

        Returns
        -------
        numpy.ndarray
            (height, width, 4) uint8 RGBA; the next call changes it.
        """
        self.pixels[:] = self._background
        low, high = self.ranges[number]
        for part in self._parts:
            part.paint(self.pixels, self.cubes[part.cube].values[number], low, high, self.colours)
        self._cursor.set_xdata([self.wavelength[number]] * 2)
        is_empty = not np.isfinite(low)
        for text, share in zip(self._numbers, _SHARES, strict=True):
            text.set_text("" if is_empty else f"{low + share * (high - low):.4g}")
        self._caption.set_text(f"{self.words.frames[number]}{'   no data' if is_empty else ''}")
        for artist in (self._cursor, *self._numbers, self._caption):
            artist.draw(self._renderer)
        return self.pixels

    def __iter__(self) -> Iterator[np.ndarray]:
        """All frames, in order, each in the same array."""
        return (self.draw(number) for number in range(self.wavelength.size))


@dataclass(frozen=True)
class _Part:
    """All pixels that show one cube: their flat indices, their projection, and the lines over some of them."""

    cube: int
    pixels: np.ndarray
    matrix: csr_array
    covered: np.ndarray  # which of them have a line over them
    lines: np.ndarray
    transparency: np.ndarray

    @classmethod
    def of(
        cls, number: int, cubes: Sequence[AnimatedCube], layout: Layout, lines: np.ndarray, opacity: np.ndarray
    ) -> _Part:
        pixels, matrices = [], []
        for panel in layout.panels:
            rows, columns = np.mgrid[_slices(panel.place)]
            flat = (rows * layout.width + columns).ravel()
            for source, projection in panel.sources:
                if source == number:
                    pixels.append(flat[projection.points])
                    matrices.append(projection.matrix)
        pixels, matrix = np.concatenate(pixels), csr_array(vstack(matrices, format="csr"))
        # Pixels that never have a value (outside the field) need not be looked at.
        blind = (~np.isfinite(cubes[number].values)).all(axis=0).astype(np.float32)
        kept = np.flatnonzero(matrix @ blind == 0)
        pixels, matrix = pixels[kept], matrix[kept].astype(np.float32)
        covered = np.flatnonzero(opacity.ravel()[pixels] > 0)
        under = pixels[covered]
        return cls(
            number,
            pixels,
            matrix,
            covered,
            lines.reshape(-1, 4)[under, :3],
            (1 - opacity.ravel()[under])[:, None].astype(np.float32),
        )

    def paint(self, pixels: np.ndarray, values: np.ndarray, low: float, high: float, colours: np.ndarray) -> None:
        """Colour these pixels; those without a value stay as they are."""
        if not np.isfinite(low):
            return
        scaled = self.matrix @ ((values - np.float32(low)) * np.float32(255.999 / (high - low)))
        missing = ~np.isfinite(scaled)
        index = np.clip(np.nan_to_num(scaled, copy=False), 0, 255).astype(np.uint8)
        colour = colours.view(np.uint32)[:, 0][index]
        if missing.any():
            before = pixels.view(np.uint32).reshape(-1)[self.pixels[missing]]
        shown = colour.view(np.uint8).reshape(-1, 4)
        shown[self.covered, :3] = self.lines + (shown[self.covered, :3] * self.transparency).astype(np.uint8)
        if missing.any():
            colour[missing] = before
        pixels.view(np.uint32).reshape(-1)[self.pixels] = colour


# --- what stays -----------------------------------------------------------------------------------------------------


def _slices(place: Rectangle) -> tuple[slice, slice]:
    return slice(place.top, place.top + place.height), slice(place.left, place.left + place.width)


def _split_layers(figure: Figure, panels: Sequence[Axes], layout: Layout) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The figure's live pixels, what is drawn on black panels, and the opacity of the lines over the panels."""
    layers = []
    for colour in ("white", "black"):
        for axes in panels:
            axes.set_facecolor(colour)
        figure.canvas.draw()
        layers.append(np.array(figure.canvas.buffer_rgba()))
    white, black = layers
    opacity = np.zeros(white.shape[:2], np.float32)
    for panel in layout.panels:
        region = _slices(panel.place)
        opacity[region] = 1 - (white[region][..., 1].astype(np.float32) - black[region][..., 1]) / 255
    return np.asarray(figure.canvas.buffer_rgba()), black, opacity


def draw_figure(
    cubes: Sequence[AnimatedCube], layout: Layout, colours: np.ndarray, words: Words
) -> tuple[Figure, list[Axes]]:
    """Draw all that stays.

    Parameters
    ----------
    cubes, layout, words
        As for `FrameDrawer`.
    colours
        (256, 4) uint8 RGBA of the colour map.

    Returns
    -------
    figure : matplotlib.figure.Figure
        Its first axes are the spectrum's and the colour bar's.
    panels : list of matplotlib.axes.Axes
        Those of the layout's panels.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(layout.width / layout.dpi, layout.height / layout.dpi), dpi=layout.dpi)
    FigureCanvasAgg(figure)

    def axes_at(place: Rectangle, **kwargs: Any) -> Axes:
        bottom = layout.height - place.top - place.height
        share = (place.left / layout.width, bottom / layout.height)
        axes = figure.add_axes((*share, place.width / layout.width, place.height / layout.height), **kwargs)
        axes.tick_params(labelsize=8)
        return axes

    _draw_spectrum(axes_at(layout.spectrum), cubes, layout.columns, words)
    bar = axes_at(layout.colour_bar)
    bar.imshow(colours[::-1, None, :], aspect="auto", interpolation="nearest")
    bar.set(xticks=[], yticks=[])
    bar.text(0, -0.04, words.quantity, transform=bar.transAxes, rotation=90, va="top", fontsize=9)
    figure.text(
        layout.spectrum.left / layout.width, 1 - 0.2 * layout.dpi / layout.height, words.title, va="center", fontsize=12
    )
    panels = [axes_at(panel.place, xlim=panel.xlim, ylim=panel.ylim) for panel in layout.panels]
    for panel, axes in zip(layout.panels, panels, strict=True):
        _draw_panel(axes, panel, cubes)
        if panel.kind == "zoom":
            above = 1 - (layout.colour_bar.top - 0.06 * layout.dpi) / layout.height
            left = panel.place.left if panel.column else layout.spectrum.left
            figure.text(left / layout.width, above, layout.columns[panel.column], fontsize=11)
    return figure, panels


def _draw_spectrum(axes: Axes, cubes: Sequence[AnimatedCube], columns: Sequence[str], words: Words) -> None:
    from summary_plots import LINE_COLOURS

    labelled = set()
    for cube in cubes:
        colour = LINE_COLOURS[columns.index(cube.label) % len(LINE_COLOURS)]
        label = None if cube.label in labelled else cube.label
        labelled.add(cube.label)
        axes.plot(*with_gaps(*cube.spectrum), color=colour, linewidth=0.9, label=label)
    first, last = min(cube.spectrum[0][0] for cube in cubes), max(cube.spectrum[0][-1] for cube in cubes)
    if last > first:
        axes.set_xlim(first, last)
    axes.set_xlabel("barycentric wavelength [µm]", fontsize=9)
    axes.set_ylabel(words.spectrum, fontsize=9)
    axes.legend(fontsize=8, frameon=False, ncols=8, loc="lower left", bbox_to_anchor=(0, 0.97), borderaxespad=0.2)


def _draw_panel(axes: Axes, panel: Panel, cubes: Sequence[AnimatedCube]) -> None:
    axes.set_autoscale_on(False)
    axes.locator_params(nbins=4)
    if panel.column == 0 and panel.sources[0][0] == 0:
        axes.set_ylabel(_ROW_LABELS[panel.kind], fontsize=9)
    else:
        axes.tick_params(labelleft=False)
    if panel.kind == "map":
        _draw_map_grid(axes, cubes[panel.sources[0][0]], panel)
    elif panel.kind in ("target", "zoom"):
        first = cubes[panel.sources[0][0]]
        if first.geometry is not None:
            draw_body(axes, first.frame, first.geometry, spaxel_scale(first.header), colour=_LINE_COLOUR)
        for number, _ in panel.sources:
            axes.plot(*edge(cubes[number].frame.corners(cubes[number].header)), color="#D55E00", linewidth=0.8)


def _draw_map_grid(axes: Axes, cube: AnimatedCube, panel: Panel) -> None:
    from matplotlib.ticker import FuncFormatter, MultipleLocator

    west, extent = cube.geometry.graphic_sign < 0, abs(panel.xlim[1] - panel.xlim[0])
    step = next((step for step in (5, 10, 15, 30, 60, 90) if extent / step <= 5), 90)
    axes.xaxis.set_major_locator(MultipleLocator(step))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value % 360:.0f}°{'W' if west else 'E'}"))
    low = GRID_STEP_DEG * np.floor(min(panel.xlim) / GRID_STEP_DEG)
    for longitude in np.arange(low, max(panel.xlim), GRID_STEP_DEG):
        axes.axvline(longitude, color=_LINE_COLOUR, linewidth=0.5)
    for latitude in range(-90, 91, GRID_STEP_DEG):
        axes.axhline(latitude, color=_LINE_COLOUR, linewidth=0.5)
