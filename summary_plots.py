"""One picture of a cube: where it lies on the sky, its spectrum, images in six wavelength ranges, what was corrected.

In: a `*_s3d.fits` cube, navigated or not. Out: a PNG (`plot_file`) or a matplotlib figure (`plot_cube`).
The body's outline and grid come from its SPICE geometry, as `navigate` computes it, in a frame of offsets on the sky
from the body's centre (from the field's centre where there is no geometry). Images share one robust stretch. The
numbers are those of `cube_summary`.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from command_line import ArgumentParser, run_command
from cube_summary import (
    CorrectionSummary,
    brightness_temperature,
    correction_notes,
    correction_summaries,
    dither_label,
    invalid_fractions,
    invalid_spaxels,
    mean_spectrum,
    observation_words,
    range_images,
    robust_range,
    summed_image,
    surface_brightness_factor,
    with_gaps,
)
from cubes import Cube, read_cube, spaxel_scale
from errors import KernelError
from files import written_whole
from sky_frame import body_extent, draw_body, edge, frame_of, sky_directions

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from body_geometry import ObservationGeometry

IMAGES = 6
# Perceptually uniform and colour-blind safe: cividis (Nunez et al. 2018, PLoS ONE 13, e0199239), berlin (Crameri et al.
# 2020, Nat. Commun. 11, 5444) for what goes both ways; lines are of Okabe & Ito's palette.
COLOUR_MAP = "cividis"
DIVERGING_COLOUR_MAP = "berlin"
LINE_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
EMPTY_COLOUR = "0.85"

_WIDTH = 15.0
# Heights [inch]: title, field and spectrum, images, a row of correction summaries, a line of notes, margin below.
_TITLE, _UPPER, _IMAGES, _CORRECTIONS, _NOTE, _MARGIN = 0.95, 4.9, 3.4, 2.4, 0.165, 0.25
_NOTE_CHARACTERS = 190


def plot_file(
    path_in: Path, path_out: Path, *, dpi: int = 100, kernel_path: str | Path | None = None
) -> dict[str, Any]:
    """Plot the cube in a file to a PNG.

    Parameters
    ----------
    path_in, path_out
        Cube and picture.
    dpi
        Pixels per inch; the picture is 15 inches wide and 10 or more high.
    kernel_path
        Folder of SPICE kernels for the outline of the body; the picture has none where there are no kernels.

    Raises
    ------
    FileFormatError
        If the input is no cube.
    """
    cube = read_cube(path_in)
    geometry, warnings = outline_geometry(cube, kernel_path)
    figure = plot_cube(cube, geometry)
    with written_whole(path_out) as temporary:
        figure.savefig(temporary, dpi=dpi)
    return {"warnings": warnings}


def outline_geometry(cube: Cube, kernel_path: str | Path | None) -> tuple[ObservationGeometry | None, list[str]]:
    """Geometry of a navigated cube's observation, or None and why not.

    Parameters
    ----------
    cube
        With backplanes; without them, or with RA and DEC only, there is no geometry and nothing to be warned of.
    kernel_path
        Folder of SPICE kernels, or None for the usual one.
    """
    if "LAT_GRAPHIC" not in cube.hdul:
        return None, []
    from navigate import cube_geometry

    try:
        return cube_geometry(cube, kernel_path=kernel_path), []
    except KernelError as error:
        return None, [f"no outline of the body in the picture: {error}"]


def plot_cube(cube: Cube, geometry: ObservationGeometry | None = None) -> Figure:
    """Make the figure of a cube; it is not registered with pyplot.

    Parameters
    ----------
    cube
        The cube; voxels that must not be used are not shown.
    geometry
        Geometry of the observation (`outline_geometry`), for the outline of the body.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    summaries = correction_summaries(cube)
    notes = _wrapped_notes(cube)
    height = _TITLE + _UPPER + _IMAGES + _CORRECTIONS * bool(summaries) + _NOTE * len(notes) + _MARGIN
    figure = Figure(figsize=(_WIDTH, height))
    FigureCanvasAgg(figure)

    # Places are given, since finding them (constrained layout) would take a third of the whole time.
    def axes_at(left: float, down: float, width: float, tall: float, **kwargs: Any) -> Axes:
        return figure.add_axes((left / _WIDTH, 1 - (down + tall) / height, width / _WIDTH, tall / height), **kwargs)

    sci = np.where(cube.good, cube.sci, np.nan)
    wavelength = cube.wavelength
    unit = str(cube.sci_header.get("BUNIT", ""))
    corners = _plot_context(axes_at(0.7, _TITLE, 4.9, 4.2), cube, geometry, summed_image(sci))
    _plot_spectra(axes_at, cube, sci, wavelength, unit)
    down = _TITLE + _UPPER
    _plot_images(axes_at, down, sci, wavelength, unit, corners)
    down += _IMAGES
    if summaries:
        _plot_corrections(axes_at, down, summaries, wavelength)
    figure.text(0.15 / _WIDTH, 1 - 0.12 / height, _title(cube, geometry), va="top", fontsize=12, linespacing=1.4)
    figure.text(0.15 / _WIDTH, 0.08 / height, "\n".join(notes), va="bottom", fontsize=8)
    return figure


# --- words ----------------------------------------------------------------------------------------------------------


def _title(cube: Cube, geometry: ObservationGeometry | None) -> str:
    first = f"{observation_words(cube.header)}   {dither_label(cube)}   {cube.path.parent.name}/{cube.path.name}"
    if geometry is None:
        return first
    from surface_positions import sub_observer_point

    longitude, latitude = sub_observer_point(geometry)
    direction = "E" if geometry.graphic_sign > 0 else "W"
    return (
        f"{first}\n{geometry.target.capitalize()}: sub-observer point {longitude:.1f}° {direction}, "
        f"{abs(latitude):.1f}° {'N' if latitude >= 0 else 'S'} (planetographic), "
        f"equatorial diameter {2 * geometry.angular_radius:.3g}″"
    )


def _wrapped_notes(cube: Cube) -> list[str]:
    lines = [line for note in correction_notes(cube.header) for line in textwrap.wrap(note, _NOTE_CHARACTERS)]
    return lines or ["no corrections beyond those of the jwst pipeline"]


# --- panels ---------------------------------------------------------------------------------------------------------


def _plot_context(
    axes: Axes, cube: Cube, geometry: ObservationGeometry | None, image: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Draw field and body on the sky; give the corners of the spaxels there."""
    frame = frame_of(cube.sci_header, geometry)
    corners = frame.corners(cube.sci_header)
    low, high = robust_range(image)
    axes.pcolormesh(*corners, image, cmap=COLOUR_MAP, vmin=low, vmax=high, rasterized=True)
    axes.plot(*edge(corners), color="#D55E00", linewidth=1.2)
    half = max(float(np.abs(corner).max()) for corner in corners)
    centre = "field's centre"
    if geometry is not None:
        draw_body(axes, frame, geometry, spaxel_scale(cube.sci_header))
        half = max(half, body_extent(geometry))
        centre = f"centre of {geometry.target.capitalize()}"
    half *= 1.06
    axes.set(
        xlim=(half, -half),
        ylim=(-half, half),
        aspect="equal",
        xlabel=f"east of the {centre} [arcsec]",
        ylabel="north [arcsec]",
        title="field on the sky",
    )
    axes.set_facecolor("#f4f4f2")
    return corners


def _plot_spectra(axes_at: Any, cube: Cube, sci: np.ndarray, wavelength: np.ndarray, unit: str) -> None:
    factor = surface_brightness_factor(unit, wavelength) if cube.header.get("INSTRUME") == "MIRI" else None
    left, width, thermal = 6.75, 8.0, 1.1 if factor is not None else 0.0
    spectrum = axes_at(left, _TITLE, width, 3.3 - thermal)
    counts = axes_at(left, _TITLE + 3.4, width, 0.8, sharex=spectrum)
    field, brightest = mean_spectrum(sci)
    lines = ((brightest, "mean of the brightest tenth", LINE_COLOURS[1]), (field, "mean of the field", LINE_COLOURS[0]))
    for values, label, colour in lines:
        spectrum.plot(*with_gaps(wavelength, values), color=colour, linewidth=0.8, label=label)
    if _spans_decades(field) or _spans_decades(brightest):
        _use_log_scale(spectrum)
    spectrum.set_ylabel(f"surface brightness\n[{unit}]" if unit else "surface brightness")
    spectrum.legend(frameon=False, fontsize=9, ncols=2, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0.2)
    spectrum.tick_params(labelbottom=False)
    if factor is not None:
        kelvin = axes_at(left, _TITLE + 3.4 - thermal, width, thermal - 0.1, sharex=spectrum)
        for values, _, colour in lines:
            temperature = brightness_temperature(values * factor, wavelength)
            kelvin.plot(*with_gaps(wavelength, temperature), color=colour, linewidth=0.8)
        kelvin.set_ylabel("brightness\ntemp. [K]")
        kelvin.tick_params(labelbottom=False)
    invalid, total = invalid_spaxels(sci)
    counts.fill_between(*with_gaps(wavelength, invalid), step="mid", color="0.5", linewidth=0.8)
    counts.set(xlabel="barycentric wavelength [µm]", ylabel="invalid\nspaxels", xlim=(wavelength[0], wavelength[-1]))
    counts.set_ylim(0, 1.05 * max(1, total))
    counts.text(0.995, 0.86, f"of {total} in the field", transform=counts.transAxes, ha="right", va="top", fontsize=9)


def _spans_decades(values: np.ndarray) -> bool:
    values = values[np.isfinite(values)]
    return values.size > 0 and values.min() > 0 and values.max() > 20 * values.min()


def _use_log_scale(axes: Axes) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def _plot_images(
    axes_at: Any,
    down: float,
    sci: np.ndarray,
    wavelength: np.ndarray,
    unit: str,
    corners: tuple[np.ndarray, np.ndarray],
) -> None:
    images, ranges = range_images(sci, wavelength, IMAGES)
    invalid = invalid_fractions(sci, IMAGES)
    low, high = robust_range(images)
    width = 2.2
    for number, (image, (first, last)) in enumerate(zip(images, ranges, strict=True)):
        axes = axes_at(0.6 + number * width, down + 0.45, width - 0.15, 2.4)
        picture = axes.imshow(image, origin="lower", cmap=COLOUR_MAP, vmin=low, vmax=high, interpolation="nearest")
        axes.set_facecolor(EMPTY_COLOUR)
        axes.set_title(f"{first:.3f} to {last:.3f} µm\n{100 * invalid[number]:.3g} % of voxels invalid", fontsize=9)
        axes.set_xlabel("x [spaxel]")
        if number == 0:
            axes.set_ylabel("y [spaxel]")
            _plot_arrows(axes, image.shape, corners)
        else:
            axes.tick_params(labelleft=False)
    axes.figure.colorbar(picture, cax=axes_at(13.95, down + 0.55, 0.16, 2.2), label=unit)


def _plot_arrows(axes: Axes, shape: tuple[int, int], corners: tuple[np.ndarray, np.ndarray]) -> None:
    from matplotlib.patheffects import withStroke

    ny, nx = shape
    start = np.array([0.3 * nx, 0.3 * ny])
    # White with a dark edge is seen on dark and on bright images, and on empty ones.
    seen = [withStroke(linewidth=3, foreground="0.1")]
    for vector, label in zip(sky_directions(corners), ("E", "N"), strict=True):
        end = start + 0.15 * min(nx, ny) * vector
        arrow = axes.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": "white", "linewidth": 1.3})
        arrow.arrow_patch.set_path_effects(seen)
        place = start + 0.2 * min(nx, ny) * vector
        axes.text(*place, label, color="white", ha="center", va="center", fontsize=9, path_effects=seen)


def _plot_corrections(
    axes_at: Any, down: float, summaries: Sequence[CorrectionSummary], wavelength: np.ndarray
) -> None:
    """A map and a spectrum of what each correction did, side by side."""
    each = 4.85
    for number, summary in enumerate(summaries):
        left = 0.6 + number * each
        axes = axes_at(left, down + 0.3, 1.45, 1.55, anchor="NE")
        low, high = robust_range(summary.image)
        colours = COLOUR_MAP
        if summary.centre is not None:
            largest = max(abs(low - summary.centre), abs(high - summary.centre), 1e-6)
            low, high, colours = summary.centre - largest, summary.centre + largest, DIVERGING_COLOUR_MAP
        picture = axes.imshow(summary.image, origin="lower", cmap=colours, vmin=low, vmax=high, interpolation="nearest")
        axes.set_facecolor(EMPTY_COLOUR)
        bar = axes.figure.colorbar(picture, cax=axes_at(left + 1.5, down + 0.3, 0.1, 1.55))
        bar.ax.tick_params(labelsize=8)
        axes.set_title(f"{summary.title}\n", loc="left", fontsize=9, fontweight="bold", pad=-4)
        axes.text(0, 1.02, summary.image_label, transform=axes.transAxes, fontsize=8, va="bottom")
        axes.tick_params(labelsize=8)
        spectrum = axes_at(left + 2.35, down + 0.3, each - 2.65, 1.55)
        spectrum.plot(*with_gaps(wavelength, summary.spectrum), color=LINE_COLOURS[0], linewidth=0.7)
        spectrum.text(0, 1.02, summary.spectrum_label, transform=spectrum.transAxes, fontsize=8, va="bottom")
        spectrum.set_xlabel("wavelength [µm]", fontsize=8)
        spectrum.tick_params(labelsize=8)
        spectrum.set_xlim(wavelength[0], wavelength[-1])


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: `python summary_plots.py IN OUT.png`."""

    def command(argv: Sequence[str] | None) -> None:
        parser = ArgumentParser(prog="summary_plots.py", description="Plot an IFU cube: sky, spectrum and images.")
        parser.add_argument("path_in", metavar="IN", type=Path, help="cube, *_s3d.fits or *_s3d_nav.fits")
        parser.add_argument("path_out", metavar="OUT", type=Path, help="picture to write, PNG")
        parser.add_flag("dpi", type=int, default=100, help="pixels per inch")
        parser.add_flag("kernel_path", type=Path, help="folder of SPICE kernels")
        plot_file(**vars(parser.parse_args(argv)))

    return run_command(command, argv)


if __name__ == "__main__":
    sys.exit(main())
