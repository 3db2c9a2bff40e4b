"""Where everything is in a frame of an animation, in pixels, and how each panel gets its values from the cubes.

There is a column for each dither (with all tiles of a mosaic in it) and one for all dithers combined; rows: the IFU's
own frame, the target's frame (its centre in the middle, its pole up), the same zoomed so that a place on the planet is
in the same place in every column, and a longitude/latitude map. A single column has its images two by two. Without
geometry there is no target frame and no map, and north is up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from astropy.io import fits

from cubes import sky_coordinates, spaxel_scale
from map_projection import MapGrid, Projection, map_projection, sky_projection, spaxel_projection
from sky_frame import SkyFrame

if TYPE_CHECKING:
    from body_geometry import ObservationGeometry

# Sizes [inch].
_TITLE, _SPECTRUM, _LEFT, _RIGHT, _BOTTOM = 0.62, 1.75, 0.95, 0.75, 0.45
_CELL, _GAP_X, _GAP_Y = 2.2, 0.16, 0.34
# Between images of one column that stand side by side, each with its own labels.
_GAP_LABELLED = 0.8
_LEAST_WIDTH, _GREATEST_WIDTH = 8.0, 20.0
_MAP_ASPECT = 0.62
_SMALL_BODY_SPAXELS = 3


@dataclass(frozen=True)
class AnimatedCube:
    """What an animation needs of one cube.

    Attributes
    ----------
    label
        Of its column: 'dither 1', 'combined'.
    name
        Of its file.
    header
        Of SCI.
    values
        (frames, spaxels) float32 of what is shown; NaN where there is nothing.
    spectrum
        Wavelengths [um] and mean of the field, (planes,) each, of all planes.
    geometry
        Of its observation, or None.
    frame
        Its target's frame on the sky.
    """

    label: str
    name: str
    header: fits.Header
    values: np.ndarray
    spectrum: tuple[np.ndarray, np.ndarray]
    geometry: ObservationGeometry | None
    frame: SkyFrame


@dataclass(frozen=True)
class Rectangle:
    """A part of the picture [pixel]: left and top edge, width and height."""

    left: int
    top: int
    width: int
    height: int


@dataclass(frozen=True)
class Panel:
    """One image in the picture.

    Attributes
    ----------
    kind
        'ifu', 'target', 'zoom' or 'map'.
    column
        Number of its column.
    place
        In the picture.
    xlim, ylim
        Coordinates of its left and right, lower and upper edge.
    sources
        The cubes shown, by number, and the projection of each to the panel's pixels, rows from the top.
    """

    kind: str
    column: int
    place: Rectangle
    xlim: tuple[float, float]
    ylim: tuple[float, float]
    sources: tuple[tuple[int, Projection], ...]


@dataclass(frozen=True)
class Layout:
    """The whole picture.

    Attributes
    ----------
    width, height
        [pixel], both even, as video needs it.
    dpi
        Pixels per inch.
    columns
        Their labels.
    spectrum, colour_bar
        Places of these.
    panels
        All images.
    """

    width: int
    height: int
    dpi: int
    columns: tuple[str, ...]
    spectrum: Rectangle
    colour_bar: Rectangle
    panels: tuple[Panel, ...]


def make_layout(
    cubes: Sequence[AnimatedCube], *, dpi: int, interpolation: str, map_interval: float, radius_factor: float
) -> Layout:
    """Place the panels and make their projections.

    Parameters
    ----------
    cubes
        In the order of their columns; cubes of one label share a column.
    dpi
        Pixels per inch.
    interpolation
        'nearest' or 'linear', of all frames but the IFU's own.
    map_interval
        Side of the map's cells [deg].
    radius_factor
        Half-width of the target frame in equatorial radii.
    """
    columns = tuple(dict.fromkeys(cube.label for cube in cubes))
    has_geometry = all(cube.geometry is not None for cube in cubes)
    kinds = ("ifu", "target", "zoom", "map") if has_geometry else ("ifu", "zoom")
    # One dither alone would leave the right half empty: its images stand two by two.
    across, gap = (len(columns), _GAP_X) if len(columns) > 1 else (2, _GAP_LABELLED)
    margins = _LEFT + _GAP_X + _RIGHT
    least, greatest = ((width - margins + gap) / across - gap for width in (_LEAST_WIDTH, _GREATEST_WIDTH))
    cell = min(max(_CELL, min(least, 1.4 * _CELL)), greatest)
    width = max(_LEAST_WIDTH, margins - gap + across * (cell + gap))
    heights = {kind: cell * (_MAP_ASPECT if kind == "map" else 1) for kind in kinds}
    corners, top = {}, _TITLE + _SPECTRUM + 0.75
    per_row = across if len(columns) == 1 else 1
    for first in range(0, len(kinds), per_row):
        row = kinds[first : first + per_row]
        corners |= {kind: (_LEFT + order * (cell + gap), top) for order, kind in enumerate(row)}
        top += max(heights[kind] for kind in row) + _GAP_Y
    height = top - _GAP_Y + _BOTTOM

    def pixels(left: float, top: float, width: float, height: float) -> Rectangle:
        return Rectangle(*(round(size * dpi) for size in (left, top, width, height)))

    limits = _Limits.of(cubes, has_geometry, radius_factor, map_interval, interpolation)
    panels = []
    for column, label in enumerate(columns):
        members = [number for number, cube in enumerate(cubes) if cube.label == label]
        for kind in kinds:
            left, top = corners[kind]
            whole = pixels(left + column * (cell + gap), top, cell, heights[kind])
            if kind == "ifu":
                panels += _ifu_panels(cubes, members, column, whole)
            else:
                panels.append(_shared_panel(kind, cubes, members, column, whole, limits, interpolation))
    spectrum = pixels(_LEFT, _TITLE, width - _LEFT - _RIGHT, _SPECTRUM)
    bar = pixels(width - _RIGHT + 0.1, corners[kinds[0]][1], 0.14, heights[kinds[0]])
    return Layout(
        width=2 * round(width * dpi / 2),
        height=2 * round(height * dpi / 2),
        dpi=dpi,
        columns=columns,
        spectrum=spectrum,
        colour_bar=bar,
        panels=tuple(panels),
    )


# --- panels ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Limits:
    """Edges of the frames that all columns share."""

    target: float
    zoom: tuple[float, float, float]  # x and y of the middle, half-width
    longitude: tuple[float, float]
    latitude: tuple[float, float]
    grid: MapGrid
    maps: tuple[Projection, ...]

    @classmethod
    def of(
        cls,
        cubes: Sequence[AnimatedCube],
        has_geometry: bool,
        radius_factor: float,
        map_interval: float,
        interpolation: str,
    ) -> _Limits:
        spaxel = spaxel_scale(cubes[0].header)
        offsets = [_seen_offsets(cube) for cube in cubes]
        x, y = (np.concatenate(values) for values in zip(*offsets, strict=True))
        if x.size == 0:
            x = y = np.array([-spaxel, spaxel])
        half = max(np.ptp(x), np.ptp(y)) / 2 + 1.5 * spaxel
        zoom = (float(x.min() + x.max()) / 2, float(y.min() + y.max()) / 2, float(half))
        grid = MapGrid(map_interval)
        if not has_geometry:
            return cls(half, zoom, (0, 360), (-90, 90), grid, ())
        radius = max(cube.geometry.angular_radius for cube in cubes)
        target = max(radius_factor * radius, _SMALL_BODY_SPAXELS * spaxel)
        if not np.any((np.abs(x) < target) & (np.abs(y) < target)):
            target = float(max(np.abs(x).max(), np.abs(y).max())) + spaxel  # beside the body: rings, background
        maps = tuple(map_projection(cube.header, cube.geometry, grid, interpolation) for cube in cubes)
        longitude, latitude = map_limits(maps, grid)
        if cubes[0].geometry.graphic_sign < 0:
            longitude = longitude[::-1]  # east to the right
        return cls(target, zoom, longitude, latitude, grid, maps)


def _seen_offsets(cube: AnimatedCube) -> tuple[np.ndarray, np.ndarray]:
    seen = np.isfinite(cube.values).any(axis=0)
    x, y = cube.frame.offsets(*sky_coordinates(cube.header))
    return x.ravel()[seen], y.ravel()[seen]


def map_limits(maps: Sequence[Projection], grid: MapGrid) -> tuple[tuple[float, float], tuple[float, float]]:
    """First and last longitude and latitude of what is seen, with a little room.

    Parameters
    ----------
    maps
        Projections of all cubes.
    grid
        The map's cells.

    Returns
    -------
    longitude, latitude : (float, float)
        [deg]; the last longitude is larger than the first also where the seam at 0 lies between them. The whole map
        where nothing is seen.
    """
    seen = np.zeros(grid.shape, bool)
    for projection in maps:
        seen.ravel()[projection.points] = True
    if not seen.any():
        return (0.0, 360.0), (-90.0, 90.0)
    columns, rows = np.flatnonzero(seen.any(axis=0)), np.flatnonzero(seen.any(axis=1))
    # What is seen begins after the widest gap around the globe.
    gaps = np.diff(np.append(columns, columns[0] + grid.longitude.size))
    after = int(np.argmax(gaps))
    first = columns[(after + 1) % columns.size] * grid.interval
    extent = 360 - (gaps[after] - 1) * grid.interval
    room = min(0.04 * extent + grid.interval, (360 - extent) / 2)
    low, high = (rows[0] * grid.interval - 90, (rows[-1] + 1) * grid.interval - 90)
    margin = 0.04 * (high - low) + grid.interval
    latitude = max(low - margin, -90.0), min(high + margin, 90.0)
    return (float(first - room), float(first + extent + room)), (float(latitude[0]), float(latitude[1]))


def _ifu_panels(cubes: Sequence[AnimatedCube], members: Sequence[int], column: int, whole: Rectangle) -> list[Panel]:
    """The tiles of a column side by side, each as large as its share allows."""
    panels = []
    share = whole.width // len(members)
    for order, number in enumerate(members):
        ny, nx = cubes[number].header["NAXIS2"], cubes[number].header["NAXIS1"]
        scale = min((share - 2 * (len(members) > 1)) / nx, whole.height / ny)
        width, height = max(round(nx * scale), 1), max(round(ny * scale), 1)
        left = whole.left + order * share + (share - width) // 2
        place = Rectangle(left, whole.top + (whole.height - height) // 2, width, height)
        limits = (-0.5, nx - 0.5), (-0.5, ny - 0.5)
        projection = spaxel_projection(*_pixel_grid(place, *limits), (ny, nx), "nearest")
        panels.append(Panel("ifu", column, place, *limits, ((number, projection),)))
    return panels


def _shared_panel(
    kind: str,
    cubes: Sequence[AnimatedCube],
    members: Sequence[int],
    column: int,
    place: Rectangle,
    limits: _Limits,
    interpolation: str,
) -> Panel:
    if kind == "map":
        x, y = _pixel_grid(place, limits.longitude, limits.latitude)
        rows, columns = limits.grid.shape
        cell = np.clip((y + 90) // limits.grid.interval, 0, rows - 1) * columns
        cell = (cell + np.clip((x % 360) // limits.grid.interval, 0, columns - 1)).astype(int)
        sources = tuple((number, limits.maps[number].at(cell)) for number in members)
        return Panel(kind, column, place, limits.longitude, limits.latitude, sources)
    x0, y0, half = limits.zoom if kind == "zoom" else (0.0, 0.0, limits.target)
    xlim, ylim = (x0 + half, x0 - half), (y0 - half, y0 + half)
    x, y = _pixel_grid(place, xlim, ylim)
    sources = tuple(
        (number, sky_projection(*cubes[number].frame.positions(x, y), cubes[number].header, interpolation))
        for number in members
    )
    return Panel(kind, column, place, xlim, ylim, sources)


def _pixel_grid(
    place: Rectangle, xlim: tuple[float, float], ylim: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates of the centres of a panel's pixels, rows from the top."""
    x = xlim[0] + (np.arange(place.width) + 0.5) / place.width * (xlim[1] - xlim[0])
    y = ylim[1] - (np.arange(place.height) + 0.5) / place.height * (ylim[1] - ylim[0])
    return np.meshgrid(x, y)
