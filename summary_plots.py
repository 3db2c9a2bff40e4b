"""One picture of a cube: where it lies on the sky, its spectrum, and images in six wavelength ranges.

In: a `*_s3d.fits` cube, navigated or not. Out: a PNG (`plot_file`) or a matplotlib figure (`plot_cube`).
The body's outline and grid come from its SPICE geometry, as `navigate` computes it, in a frame of offsets on the sky
from the body's centre (from the field's centre where there is no geometry). Images share one robust stretch.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from command_line import ArgumentParser, run_command
from cubes import Cube, celestial_wcs, read_cube
from errors import KernelError
from files import written_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from body_geometry import ObservationGeometry

IMAGES = 6
COLOUR_MAP = "cividis"
SPECTRUM_COLOURS = ("#0072B2", "#D55E00")
# Seen on the image and on its empty edge.
ARROW_COLOUR = "#E69F00"
GRID_STEP_DEG = 30
WIREFRAME_POINTS = 200
# Edges of Saturn's main rings [km]: C, B and A, inner and outer (Cuzzi et al. 2018, ISBN 9781107113824, ch. 3).
SATURN_RING_EDGES_KM = (74658, 91975, 117507, 122340, 136780)


def plot_file(
    path_in: Path, path_out: Path, *, dpi: int = 100, kernel_path: str | Path | None = None
) -> dict[str, Any]:
    """Plot the cube in a file to a PNG.

    Parameters
    ----------
    path_in, path_out
        Cube and picture.
    dpi
        Pixels per inch; the picture is 15 x 9.5 inches.
    kernel_path
        Folder of SPICE kernels for the outline of the body; the picture has none where there are no kernels.

    Raises
    ------
    FileFormatError
        If the input is no cube.
    """
    cube = read_cube(path_in)
    geometry, warnings = None, []
    if "LAT_GRAPHIC" in cube.hdul:
        try:
            geometry = _geometry(cube, kernel_path)
        except KernelError as error:
            warnings.append(f"no outline of the body in the plot: {error}")
    figure = plot_cube(cube, geometry)
    with written_whole(path_out) as temporary:
        figure.savefig(temporary, dpi=dpi)
    return {"warnings": warnings}


def _geometry(cube: Cube, kernel_path: str | Path | None) -> ObservationGeometry:
    from navigate import cube_geometry

    return cube_geometry(cube, kernel_path=kernel_path)


def plot_cube(cube: Cube, geometry: ObservationGeometry | None = None) -> Figure:
    """Make the figure of a cube; it is not registered with pyplot.

    Parameters
    ----------
    cube
        The cube; voxels that must not be used are not shown.
    geometry
        Geometry of the observation, for the outline of the body.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Places are given, since finding them (constrained layout) would take a third of the whole time.
    figure = Figure(figsize=(15, 9.5))
    FigureCanvasAgg(figure)
    sky = figure.add_axes((0.045, 0.42, 0.33, 0.47))
    spectrum = figure.add_axes((0.45, 0.52, 0.535, 0.37))
    counts = figure.add_axes((0.45, 0.42, 0.535, 0.085), sharex=spectrum)
    sci = np.where(cube.good, cube.sci, np.nan)
    wavelength = cube.wavelength
    unit = cube.sci_header.get("BUNIT", "")
    images, ranges = range_images(sci, wavelength, IMAGES)
    frame = SkyFrame(cube, geometry)
    _plot_context(sky, frame, summed_image(sci))
    _plot_spectrum((spectrum, counts), sci, wavelength, unit)
    _plot_images(figure, images, ranges, unit, frame)
    figure.text(0.01, 0.985, _title(cube, geometry), ha="left", va="top", fontsize=12)
    return figure


# --- what is plotted ------------------------------------------------------------------------------------------------


def summed_image(sci: np.ndarray) -> np.ndarray:
    """Mean over wavelength of the planes, each divided by its own mean, so that none outweighs the others.

    Parameters
    ----------
    sci
        (wavelength, y, x), NaN where there is no value.

    Returns
    -------
    numpy.ndarray
        (y, x), NaN where no plane has a value.
    """
    return _nanmean(sci / _nanmean(np.abs(sci), axis=(1, 2), keepdims=True), axis=0)


def mean_spectrum(sci: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean over the field and over its brightest tenth.

    Parameters
    ----------
    sci
        (wavelength, y, x), NaN where there is no value.

    Returns
    -------
    field, brightest : numpy.ndarray
        (wavelength,) each, without spikes (see `without_spikes`); NaN where a plane is empty.
    """
    flat = without_spikes(sci).reshape(len(sci), -1)
    order = summed_image(sci).ravel()
    seen = np.flatnonzero(np.isfinite(order))
    if seen.size == 0:
        return np.full(len(sci), np.nan), np.full(len(sci), np.nan)
    brightest = seen[order[seen] >= np.quantile(order[seen], 0.9)]
    return _nanmean(flat[:, seen], axis=1), _nanmean(flat[:, brightest], axis=1)


def without_spikes(sci: np.ndarray, limit: float = 20.0) -> np.ndarray:
    """Leave out values that stand out from the two neighbouring planes, unless the whole field does.

    Parameters
    ----------
    sci
        (wavelength, y, x), NaN where there is no value.
    limit
        In units of the spaxel's own scatter about the median of three planes.

    Returns
    -------
    numpy.ndarray
        A copy with NaN for spikes. A narrow line stays: it stands out by the same share of the brightness everywhere.
    """
    if len(sci) < 3:
        return sci.copy()
    before, middle, after = sci[:-2], sci[1:-1], sci[2:]
    median = np.fmax(np.fmin(before, after), np.fmin(np.fmax(before, after), middle))
    excess = middle - median
    brightness = _nanmean(sci, axis=0)
    seen = np.isfinite(brightness)
    bright = seen & (brightness >= np.median(brightness[seen])) if seen.any() else seen
    if bright.any():
        share = _nanmedian(excess[:, bright] / brightness[bright])
        excess = excess - np.nan_to_num(share)[:, None, None] * brightness
    deviation = np.abs(excess)
    scatter = 1.4826 * _nanmedian(np.where(deviation > 0, deviation, np.nan).reshape(len(deviation), -1).T)
    cleaned = sci.copy()
    cleaned[1:-1][deviation > limit * scatter.reshape(sci.shape[1:])] = np.nan
    return cleaned


def range_images(sci: np.ndarray, wavelength: np.ndarray, count: int) -> tuple[np.ndarray, list[tuple[float, float]]]:
    """Images in `count` wavelength ranges with the same number of planes.

    Returns
    -------
    images : numpy.ndarray
        (count, y, x) mean surface brightness, NaN where a range has no value.
    ranges : list of (float, float)
        First and last wavelength of each [um].
    """
    parts = [part for part in np.array_split(np.arange(len(sci)), count) if part.size]
    images = np.stack([_nanmean(sci[part], axis=0) for part in parts])
    return images, [(float(wavelength[part[0]]), float(wavelength[part[-1]])) for part in parts]


def _nanmean(values: np.ndarray, axis: Any, keepdims: bool = False) -> np.ndarray:
    # np.nanmean warns of empty slices; here they simply give NaN.
    valid = np.isfinite(values)
    count = valid.sum(axis=axis, keepdims=keepdims)
    total = np.where(valid, values, 0).sum(axis=axis, keepdims=keepdims, dtype=float)
    return np.divide(total, count, out=np.full(np.shape(total), np.nan), where=count > 0)


def _nanmedian(values: np.ndarray) -> np.ndarray:
    # Sorting puts NaN last; the middle of the valid ones is then found by counting.
    ordered = np.sort(values, axis=1)
    count = np.isfinite(values).sum(axis=1)
    rows = np.arange(len(values))
    low, high = np.maximum(count - 1, 0) // 2, np.minimum(count // 2, values.shape[1] - 1)
    return np.where(count > 0, (ordered[rows, low] + ordered[rows, high]) / 2, np.nan)


class SkyFrame:
    """Offsets on the sky [arcsec], east and north, from the body's centre or else the field's.

    Attributes
    ----------
    east, north
        (ny + 1, nx + 1) corners of the spaxels.
    geometry
        Of the observation, or None.
    """

    def __init__(self, cube: Cube, geometry: ObservationGeometry | None) -> None:
        header = cube.sci_header
        _, ny, nx = cube.shape
        y, x = np.mgrid[: ny + 1, : nx + 1] - 0.5
        wcs = celestial_wcs(header)
        ra, dec = wcs.all_pix2world(x, y, 0)
        centre = wcs.all_pix2world((nx - 1) / 2, (ny - 1) / 2, 0)
        self.geometry = geometry
        self.ra0, self.dec0 = (float(c) for c in centre) if geometry is None else geometry.target_radec
        self.east = ((ra - self.ra0 + 180) % 360 - 180) * np.cos(np.radians(self.dec0)) * 3600
        self.north = (dec - self.dec0) * 3600

    @property
    def outline(self) -> tuple[np.ndarray, np.ndarray]:
        """East and north of the field's edge, closed."""
        return tuple(np.concatenate([a[0], a[1:, -1], a[-1, -2::-1], a[-2::-1, 0]]) for a in (self.east, self.north))

    def directions(self) -> tuple[np.ndarray, np.ndarray]:
        """East and north as unit vectors in the image's x and y, at the centre of the field."""
        derivatives = np.array(
            [
                [np.mean(np.diff(self.east, axis=1)), np.mean(np.diff(self.east, axis=0))],
                [np.mean(np.diff(self.north, axis=1)), np.mean(np.diff(self.north, axis=0))],
            ]
        )
        inverse = np.linalg.inv(derivatives)
        return inverse[:, 0] / np.linalg.norm(inverse[:, 0]), inverse[:, 1] / np.linalg.norm(inverse[:, 1])


# --- how it is drawn ------------------------------------------------------------------------------------------------


def _title(cube: Cube, geometry: ObservationGeometry | None) -> str:
    header = cube.header
    target = header.get("TARGPROP") or header.get("TARGNAME") or "unknown target"
    keys = ("NAVTIME", "DATE-AVG", "DATE-BEG", "DATE-OBS")
    time = str(next((header[key] for key in keys if header.get(key)), ""))[:19]
    words = [str(target), time.replace("T", " ") + " UTC", str(header.get("INSTRUME", ""))]
    if header.get("INSTRUME") == "MIRI":
        words.append(f"channel {header.get('CHANNEL', '?')} {str(header.get('BAND', '')).lower()}")
    else:
        words.append(f"{header.get('GRATING', '')} {header.get('FILTER', '')}")
    words.append(f"{cube.path.parent.name}/{cube.path.name}")
    notes = [str(header[key]) for key in header if key.startswith("REDUCT") and key[6:].isdigit()]
    second = []
    if geometry is not None:
        second.append(f"{geometry.target.capitalize()}: equatorial diameter {2 * geometry.angular_radius:.2f}″")
    second.append(f"corrections: {', '.join(notes) if notes else 'none'}")
    return "   ".join(words) + "\n" + "   ".join(second)


def _stretch(image: np.ndarray) -> tuple[float, float]:
    """A robust range of values: the 1st to 99th percentile, from 0 on where the image has hardly a negative value."""
    values = image[np.isfinite(image)]
    if values.size == 0:
        return 0.0, 1.0
    low, high = np.percentile(values, [1, 99])
    return (min(float(low), 0.0) if low < 0.2 * high else float(low)), float(high) if high > low else float(low) + 1


def _plot_context(axes: Axes, frame: SkyFrame, image: np.ndarray) -> None:
    low, high = _stretch(image)
    axes.pcolormesh(frame.east, frame.north, image, cmap=COLOUR_MAP, vmin=low, vmax=high, rasterized=True)
    axes.plot(*frame.outline, color="#D55E00", linewidth=1.2)
    half_widths = [np.abs(frame.east).max(), np.abs(frame.north).max()]
    if frame.geometry is not None:
        half_widths.append(_plot_wireframe(axes, frame))
    half = 1.08 * max(half_widths)
    axes.set(
        xlim=(half, -half),
        ylim=(-half, half),
        aspect="equal",
        xlabel="east of the centre [arcsec]",
        ylabel="north [arcsec]",
        title="field on the sky",
    )
    axes.set_facecolor("#f4f4f2")


def _plot_wireframe(axes: Axes, frame: SkyFrame) -> float:
    """Draw limb, terminator, rings and grid; give the half-width that shows them all [arcsec]."""
    from body_geometry import backplanes

    geometry = frame.geometry
    is_saturn = geometry.target.upper() == "SATURN"
    extent = SATURN_RING_EDGES_KM[-1] / geometry.radii[0] if is_saturn else 1.0
    half = extent * geometry.angular_radius
    step = np.linspace(-1.04 * half, 1.04 * half, WIREFRAME_POINTS)
    east, north = np.meshgrid(step, step)
    ra = frame.ra0 + east / 3600 / np.cos(np.radians(frame.dec0))
    planes = backplanes(ra, frame.dec0 + north / 3600, geometry)

    def contour(values: np.ndarray, levels: Sequence[float], colour: str, width: float, style: str = "solid") -> None:
        inside = [level for level in levels if np.nanmin(values) < level < np.nanmax(values)]
        if inside:
            axes.contour(east, north, values, levels=inside, colors=colour, linewidths=width, linestyles=style)

    latitude, longitude = planes["LAT_GRAPHIC"], np.radians(planes["LON_GRAPHIC"])
    contour(latitude, np.arange(-60, 61, GRID_STEP_DEG), "0.45", 0.5)
    for meridian in np.radians(np.arange(0, 360, GRID_STEP_DEG)):
        # The sine has no seam at 0/360. Its zero on the opposite meridian is left out, and so are the poles.
        away = (np.cos(longitude - meridian) < 0) | (np.abs(latitude) > 80)
        values = np.where(away, np.nan, np.sin(longitude - meridian))
        if np.isfinite(values).any():
            contour(values, [0], "0.45", 0.5)
    contour(planes["INCIDENCE"], [90], "0.2", 0.8, "dashed")
    contour(planes["DISTANCE_LIMB"], [0], "0.1", 1.0)
    if is_saturn:
        contour(planes["DISTANCE_RINGS"], SATURN_RING_EDGES_KM, "0.3", 0.6)
    return half


def _plot_spectrum(axes: Sequence[Axes], sci: np.ndarray, wavelength: np.ndarray, unit: str) -> None:
    spectrum, counts = axes
    field, brightest = mean_spectrum(sci)
    for values, label, colour in (
        (brightest, "brightest tenth", SPECTRUM_COLOURS[1]),
        (field, "field", SPECTRUM_COLOURS[0]),
    ):
        spectrum.plot(wavelength, values, color=colour, linewidth=0.8, label=label)
    shown = np.concatenate([field, brightest])
    positive = shown[np.isfinite(shown)]
    if positive.size and positive.min() > 0 and positive.max() > 30 * positive.min():
        spectrum.set_yscale("log")
    spectrum.set(ylabel=f"surface brightness [{unit}]", title="mean spectrum")
    spectrum.legend(frameon=False)
    seen = np.isfinite(sci).any(axis=0)
    invalid = (~np.isfinite(sci))[:, seen].sum(axis=1)
    counts.plot(wavelength, invalid, color="0.3", linewidth=0.8, drawstyle="steps-mid")
    spectrum.tick_params(labelbottom=False)
    counts.set(xlabel="barycentric wavelength [µm]", ylabel="invalid\nspaxels", xlim=(wavelength[0], wavelength[-1]))
    counts.set_ylim(0, max(1, int(seen.sum())))
    counts.text(0.995, 0.9, f"of {int(seen.sum())} in the field", transform=counts.transAxes, ha="right", va="top")


def _plot_images(
    figure: Any, images: np.ndarray, ranges: Sequence[tuple[float, float]], unit: str, frame: SkyFrame
) -> None:
    width = 0.148
    axes = [figure.add_axes((0.04 + number * width, 0.06, width - 0.012, 0.26)) for number in range(len(images))]
    low, high = _stretch(images)
    for number, (ax, image, (first, last)) in enumerate(zip(axes, images, ranges, strict=True)):
        picture = ax.imshow(image, origin="lower", cmap=COLOUR_MAP, vmin=low, vmax=high, interpolation="nearest")
        ax.set_facecolor("0.85")
        invalid = 100 * np.mean(~np.isfinite(image))
        ax.set_title(f"{first:.3f} to {last:.3f} µm\n{invalid:.0f} % empty", fontsize=9)
        ax.set_xlabel("x [spaxel]")
        if number == 0:
            ax.set_ylabel("y [spaxel]")
            _plot_arrows(ax, image.shape, frame)
        else:
            ax.tick_params(labelleft=False)
    figure.colorbar(picture, cax=figure.add_axes((0.935, 0.07, 0.012, 0.24)), label=unit)


def _plot_arrows(axes: Axes, shape: tuple[int, int], frame: SkyFrame) -> None:
    ny, nx = shape
    start = np.array([0.28 * nx, 0.28 * ny])
    for vector, label in zip(frame.directions(), ("E", "N"), strict=True):
        end = start + 0.15 * min(nx, ny) * vector
        axes.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": ARROW_COLOUR, "linewidth": 1.4})
        axes.text(
            *(start + 0.2 * min(nx, ny) * vector), label, color=ARROW_COLOUR, ha="center", va="center", fontsize=9
        )


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
