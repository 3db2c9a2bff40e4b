"""An animation through the wavelengths of a band that compares all dithers.

In: the cubes of one band, of several dithers and, if there are, tiles. Out: a video (MP4, or GIF) with a column for
each dither and one for all of them combined: the IFU's own frame, the target's frame, the same zoomed and aligned
between the columns, a longitude/latitude map; above them the spectra with a cursor. Shown are surface brightness,
brightness temperature or what is left of either after the zonal mean is taken off. Colours are stretched anew at each
wavelength, the same for all columns. Cubes with RA and Dec only have neither target frame nor map.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from command_line import ArgumentParser, run_command
from cube_summary import (
    brightness_temperature,
    dither_label,
    mean_spectrum,
    observation_words,
    robust_range,
    surface_brightness_factor,
)
from cubes import Cube, read_cube
from errors import InputError
from map_projection import MapGrid, map_projection, zonal_deviation, zonal_means, zonal_weights
from sky_frame import frame_of, target_frame
from summary_plots import COLOUR_MAP, DIVERGING_COLOUR_MAP, outline_geometry

if TYPE_CHECKING:
    from animation_frames import FrameDrawer
    from animation_panels import AnimatedCube

# As many frames as there are by default.
FRAMES = 100
# Beyond this emission angle limb darkening, not the zone, makes the difference (Fletcher et al. 2023 cut there).
ZONAL_EMISSION_DEG = 75.0


@dataclass(frozen=True)
class AnimationSettings:
    """What is shown, and how.

    Attributes
    ----------
    wavelength_step
        Every how many planes there is a frame; None: as many as make about 100 frames.
    map_interval
        Side of the map's cells [deg].
    interpolation
        'nearest' or 'linear', between spaxels.
    percentiles
        Of the values at a wavelength, where the colours end.
    dpi
        Pixels per inch; four dithers and their combination make 13 x 13 inches.
    radius_factor
        Half-width of the target frame in equatorial radii.
    brightness_temperature
        Show brightness temperature instead of surface brightness.
    zonal_average
        Show the difference to the zonal mean of all dithers.
    """

    wavelength_step: int | None = None
    map_interval: float = 1.0
    interpolation: str = "nearest"
    percentiles: tuple[float, float] = (1.0, 99.5)
    dpi: int = 80
    radius_factor: float = 1.3
    brightness_temperature: bool = False
    zonal_average: bool = False


def animate_files(
    paths_in: Sequence[str | Path],
    path_out: str | Path,
    *,
    fps: float = 10.0,
    gif: bool = False,
    kernel_path: str | Path | None = None,
    wavelength_step: int | None = None,
    map_interval: float = 1.0,
    interpolation: str = "nearest",
    percentiles: tuple[float, float] = (1.0, 99.5),
    dpi: int = 80,
    radius_factor: float = 1.3,
    brightness_temperature: bool = False,
    zonal_average: bool = False,
) -> dict[str, Any]:
    """Animate the cubes of one band.

    Parameters
    ----------
    paths_in
        Cubes of one band: dithers, their combination, tiles. Columns are in the order of the dithers, combined last.
    path_out
        Video to write, '*.mp4' or '*.gif'.
    fps
        Frames per second.
    gif
        Write a GIF beside the MP4, too.
    kernel_path
        Folder of SPICE kernels; without kernels there are neither target frame nor map.
    wavelength_step, map_interval, interpolation, percentiles, dpi, radius_factor, brightness_temperature, zonal_average
        See `AnimationSettings`.

    Returns
    -------
    dict
        'frames', 'columns' (their labels), 'warnings'.

    Raises
    ------
    FileFormatError
        If an input is no cube.
    InputError
        If an option makes no sense for these cubes, or there is no FFmpeg.
    """
    from video import write_video

    settings = AnimationSettings(
        wavelength_step,
        map_interval,
        interpolation,
        tuple(percentiles),
        dpi,
        radius_factor,
        brightness_temperature,
        zonal_average,
    )
    paths_out = [Path(path_out)] + ([Path(path_out).with_suffix(".gif")] if gif else [])
    drawer, warnings = make_drawer([Path(path) for path in paths_in], settings, kernel_path)
    height, width = drawer.pixels.shape[:2]
    for path in dict.fromkeys(paths_out):
        count = write_video(drawer, path, (width, height), fps)
    return {"frames": count, "columns": list(drawer.layout.columns), "warnings": warnings}


def make_drawer(
    paths: Sequence[Path], settings: AnimationSettings, kernel_path: str | Path | None = None
) -> tuple[FrameDrawer, list[str]]:
    """What draws the frames, and warnings.

    Parameters
    ----------
    paths
        Cubes of one band.
    settings
        What is shown.
    kernel_path
        Folder of SPICE kernels, or None for the usual one.

    Raises
    ------
    FileFormatError, InputError
        As in `animate_files`.
    """
    from animation_frames import FrameDrawer, Words
    from animation_panels import make_layout

    _check_settings(settings)
    cubes, wavelength, words, warnings = _load(paths, settings, kernel_path)
    title, unit, plane_words = words
    if settings.zonal_average:
        cubes = _zonal_deviations(cubes, settings)
    layout = make_layout(
        cubes,
        dpi=settings.dpi,
        interpolation=settings.interpolation,
        map_interval=settings.map_interval,
        radius_factor=settings.radius_factor,
    )
    name = "brightness temperature" if settings.brightness_temperature else "surface brightness"
    label = f"{name} [{unit}]" if unit else name
    drawer = FrameDrawer(
        cubes,
        layout,
        wavelength,
        colour_ranges([cube.values for cube in cubes], settings.percentiles, symmetric=settings.zonal_average),
        DIVERGING_COLOUR_MAP if settings.zonal_average else COLOUR_MAP,
        Words(title, f"{label}\nminus zonal mean" if settings.zonal_average else label, f"mean\n[{unit}]", plane_words),
    )
    return drawer, warnings


# --- what is shown --------------------------------------------------------------------------------------------------


def colour_ranges(
    values: Sequence[np.ndarray], percentiles: tuple[float, float], *, symmetric: bool = False
) -> np.ndarray:
    """First and last value of the colours in each frame.

    Parameters
    ----------
    values
        (frames, spaxels) of each cube.
    percentiles
        Of all values of a frame.
    symmetric
        About zero.

    Returns
    -------
    numpy.ndarray
        (frames, 2); NaN for frames without a value.
    """
    ranges = []
    for planes in zip(*values, strict=True):
        everything = np.concatenate(planes)
        low, high = robust_range(everything, percentiles) if np.isfinite(everything).any() else (np.nan, np.nan)
        largest = max(abs(low), abs(high))
        ranges.append((-largest, largest) if symmetric else (low, high))
    return np.array(ranges)


def _check_settings(settings: AnimationSettings) -> None:
    low, high = settings.percentiles
    wrong = {
        "wavelength_step": settings.wavelength_step is not None and settings.wavelength_step < 1,
        "map_interval": not 0 < settings.map_interval <= 90,
        "percentiles": not 0 <= low < high <= 100,
        "dpi": settings.dpi < 10,
        "radius_factor": settings.radius_factor <= 0,
    }
    for name in (name for name, is_wrong in wrong.items() if is_wrong):
        raise InputError(f"{name} is {getattr(settings, name)}, which makes no picture.")


def _load(
    paths: Sequence[Path], settings: AnimationSettings, kernel_path: str | Path | None
) -> tuple[list[AnimatedCube], np.ndarray, tuple[str, str, list[str]], list[str]]:
    """Read the cubes one after the other, and keep of each what the frames need."""
    if not paths:
        raise InputError("no cube to animate: give at least one '*_s3d.fits'.")
    loaded, warnings = [], []
    wavelength: np.ndarray | None = None
    for path in paths:
        cube = read_cube(path)
        if wavelength is None:
            planes = frame_planes(cube.shape[0], settings.wavelength_step)
            wavelength = cube.wavelength[planes]
            unit = str(cube.sci_header.get("BUNIT", ""))
            title = observation_words(cube.header)
            total = cube.shape[0]
            words = [
                f"{wave:.4f} µm   plane {plane + 1} of {total}" for wave, plane in zip(wavelength, planes, strict=True)
            ]
        geometry, problems = outline_geometry(cube, kernel_path)
        warnings += [problem for problem in problems if problem not in warnings]
        loaded.append(_animated_cube(cube, geometry, wavelength, settings))
    if any(cube.geometry is None for cube in loaded):
        loaded = _without_geometry(loaded)
    loaded.sort(key=lambda cube: (cube.label == "combined", len(cube.label), cube.label))
    return loaded, wavelength, (title, "K" if settings.brightness_temperature else unit, words), warnings


def _without_geometry(cubes: Sequence[AnimatedCube]) -> list[AnimatedCube]:
    # Frames about different centres cannot be compared: all have the expected target's, or else the first field's.
    frames = [target_frame(cube.header) for cube in cubes]
    if any(frame is None for frame in frames):
        frames = [frame_of(cubes[0].header, None)] * len(cubes)
    return [replace(cube, geometry=None, frame=frame) for cube, frame in zip(cubes, frames, strict=True)]


def frame_planes(count: int, step: int | None) -> np.ndarray:
    """Numbers of the planes that have a frame.

    Parameters
    ----------
    count
        Of all planes.
    step
        Every how many; None: the smallest that makes at most `FRAMES`.
    """
    return np.arange(0, count, step or int(np.ceil(count / FRAMES)))


def _animated_cube(cube: Cube, geometry: Any, wavelength: np.ndarray, settings: AnimationSettings) -> AnimatedCube:
    from animation_panels import AnimatedCube

    own = cube.wavelength
    planes = np.abs(own[None, :] - wavelength[:, None]).argmin(axis=1)
    step = np.median(np.abs(np.diff(own))) if own.size > 1 else np.inf
    missing = np.abs(own[planes] - wavelength) > step
    sci = np.where(cube.good, cube.sci, np.nan)
    spectrum = mean_spectrum(sci)[0]
    values = sci[planes].reshape(planes.size, -1)
    values[missing] = np.nan
    if settings.brightness_temperature:
        factor = surface_brightness_factor(str(cube.sci_header.get("BUNIT", "")), own)
        if factor is None:
            raise InputError(f"the values of {cube.path} have no brightness temperature: BUNIT is no brightness.")
        values = brightness_temperature(values * factor[planes, None], own[planes, None]).astype(np.float32)
        spectrum = brightness_temperature(spectrum * factor, own)
    return AnimatedCube(
        label=dither_label(cube),
        name=cube.path.name,
        header=cube.sci_header,
        values=values,
        spectrum=(own, spectrum),
        geometry=geometry,
        frame=frame_of(cube.sci_header, geometry, pole_up=True),
    )


def _zonal_deviations(cubes: Sequence[AnimatedCube], settings: AnimationSettings) -> list[AnimatedCube]:
    from body_geometry import backplanes
    from cubes import sky_coordinates

    if any(cube.geometry is None for cube in cubes):
        raise InputError("--zonal_average needs navigated cubes and SPICE kernels: leave it out, or navigate first.")
    grid = MapGrid(settings.map_interval)
    weights = [
        zonal_weights(
            map_projection(cube.header, cube.geometry, grid, "nearest"), cube.geometry, grid, ZONAL_EMISSION_DEG
        )
        for cube in cubes
    ]
    means = zonal_means([cube.values for cube in cubes], weights)
    result = []
    for cube in cubes:
        planes = backplanes(*sky_coordinates(cube.header), cube.geometry)
        latitude = np.where(planes["EMISSION"] <= ZONAL_EMISSION_DEG, planes["LAT_GRAPHIC"], np.nan).ravel()
        deviation = zonal_deviation(cube.values, latitude, means, grid).astype(np.float32)
        result.append(replace(cube, values=deviation))
    return result


def _command(argv: Sequence[str] | None) -> None:
    parser = ArgumentParser(
        prog="summary_animation.py", description="Animate the cubes of one band through wavelength, dithers compared."
    )
    default = AnimationSettings()
    parser.add_argument("paths_in", metavar="CUBE", type=Path, nargs="+", help="cubes of one band")
    parser.add_argument("path_out", metavar="OUT", type=Path, help="video to write, MP4 or GIF")
    parser.add_flag("fps", type=float, default=10.0, help="frames per second")
    parser.add_flag("gif", action="store_true", help="write a GIF beside the MP4, too")
    parser.add_flag("wavelength_step", type=int, help=f"every how many planes; by default at most {FRAMES} frames")
    parser.add_flag("map_interval", type=float, default=default.map_interval, help="side of the map's cells [deg]")
    parser.add_flag("interpolation", default=default.interpolation, help="between spaxels: nearest or linear")
    parser.add_flag(
        "percentiles", type=float, nargs=2, default=default.percentiles, help="of the values, where colours end"
    )
    parser.add_flag("dpi", type=int, default=default.dpi, help="pixels per inch")
    parser.add_flag(
        "radius_factor", type=float, default=default.radius_factor, help="half-width of the target frame [radii]"
    )
    parser.add_flag("brightness_temperature", action="store_true", help="show brightness temperature")
    parser.add_flag("zonal_average", action="store_true", help="show the difference to the zonal mean")
    parser.add_flag("kernel_path", type=Path, help="folder of SPICE kernels")
    result = animate_files(**vars(parser.parse_args(argv)))
    for warning in result["warnings"]:
        print(f"warning: {warning}", file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    """The command `python summary_animation.py CUBE... OUT.mp4 [options]`; returns its exit status."""
    return run_command(_command, argv)


if __name__ == "__main__":
    sys.exit(main())
