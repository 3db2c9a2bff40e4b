"""Cubes seen in other frames: a projection is made once per cube as a sparse matrix and used for every wavelength.

In: where points of the new frame lie in the cube's images, in spaxels. Out: `Projection`, which turns an image into
values at those points. The longitude/latitude map is PlanetMapper's 'rectangular' one (King & Fletcher 2023, JOSS 8,
5728): the same cells (always from longitude 0 up), and at nearest interpolation the same values as its `map_img`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from astropy.io import fits
from scipy.sparse import csr_array

from cubes import celestial_wcs
from errors import InputError

if TYPE_CHECKING:
    from body_geometry import ObservationGeometry

INTERPOLATIONS = ("nearest", "linear")


@dataclass(frozen=True)
class Projection:
    """A linear map from the spaxels of an image to points of another frame.

    Attributes
    ----------
    points
        (n,) flat indices of the points that the image has a value for.
    matrix
        (n, spaxels) weights, which add up to 1 for each point.
    shape
        Of the new frame.
    """

    points: np.ndarray
    matrix: csr_array
    shape: tuple[int, ...]

    def values(self, image: np.ndarray) -> np.ndarray:
        """Values at `points`, (n,); NaN where a spaxel with weight is NaN."""
        return self.matrix @ image.ravel()

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """The image in the new frame; NaN where there is no value."""
        projected = np.full(int(np.prod(self.shape)), np.nan)
        projected[self.points] = self.values(image)
        return projected.reshape(self.shape)

    def at(self, points: np.ndarray) -> Projection:
        """The projection to some of the points, in the order given.

        Parameters
        ----------
        points
            Flat indices into this frame, any shape; the new frame has that shape. Negative: nothing.
        """
        rows = np.full(int(np.prod(self.shape)) + 1, -1)  # the last is for negative indices
        rows[self.points] = np.arange(self.points.size)
        row = rows[np.ravel(points)]
        found = np.flatnonzero(row >= 0)
        return Projection(found, self.matrix[row[found]], np.shape(points))


def spaxel_projection(x: np.ndarray, y: np.ndarray, shape: tuple[int, int], interpolation: str) -> Projection:
    """The projection to points given by their place in the image.

    Parameters
    ----------
    x, y
        Places in spaxels, (0, 0) in the centre of the first; any one shape. NaN: nowhere.
    shape
        (ny, nx) of the image.
    interpolation
        'nearest': the value of the spaxel that the point lies in. 'linear': between the centres of four spaxels; no
        value outside the outermost centres.

    Raises
    ------
    InputError
        If the interpolation is unknown.
    """
    ny, nx = shape
    frame, x, y = np.shape(x), np.ravel(x), np.ravel(y)
    with np.errstate(invalid="ignore"):
        if interpolation == "nearest":
            points = np.flatnonzero((x > -0.5) & (x < nx - 0.5) & (y > -0.5) & (y < ny - 0.5))
        elif interpolation == "linear":
            points = np.flatnonzero((x >= 0) & (x <= nx - 1) & (y >= 0) & (y <= ny - 1))
        else:
            raise InputError(f"interpolation is {interpolation!r}; take one of {', '.join(INTERPOLATIONS)}.")
    x, y = x[points], y[points]
    rows = np.arange(points.size)
    if interpolation == "nearest":
        columns = np.round(y).astype(np.int32) * nx + np.round(x).astype(np.int32)
        weights = np.ones(points.size, np.float32)
    else:
        left, low = (np.clip(np.floor(value).astype(np.int32), 0, max(n - 2, 0)) for value, n in ((x, nx), (y, ny)))
        along, up = x - left, y - low
        corners = [(dy, dx) for dy in (0, 1) for dx in (0, 1)]
        columns = np.concatenate([(low + dy) * nx + left + dx for dy, dx in corners])
        weights = np.concatenate([(up if dy else 1 - up) * (along if dx else 1 - along) for dy, dx in corners])
        # Without its zeros a point in the centre of a spaxel does not see its neighbours, be they NaN or not there.
        rows = np.tile(rows, 4)[weights > 0]
        columns, weights = columns[weights > 0], weights[weights > 0].astype(np.float32)
    matrix = csr_array((weights, (rows, columns)), shape=(points.size, ny * nx))
    return Projection(points, matrix, frame)


def sky_projection(ra: np.ndarray, dec: np.ndarray, header: fits.Header, interpolation: str) -> Projection:
    """The projection to positions on the sky [deg], by the WCS of the SCI header.

    Parameters
    ----------
    ra, dec
        Any one shape; NaN: nowhere.
    header
        Of SCI.
    interpolation
        As in `spaxel_projection`.
    """
    known = np.isfinite(ra) & np.isfinite(dec)
    x, y = np.full(np.shape(ra), np.nan), np.full(np.shape(ra), np.nan)
    x[known], y[known] = celestial_wcs(header).all_world2pix(ra[known], dec[known], 0)
    return spaxel_projection(x, y, (header["NAXIS2"], header["NAXIS1"]), interpolation)


@dataclass(frozen=True)
class MapGrid:
    """Cells of a longitude/latitude map of the whole body.

    Attributes
    ----------
    interval
        Side of a cell [deg].
    """

    interval: float

    @property
    def longitude(self) -> np.ndarray:
        """Planetographic longitude of the columns' centres [deg], in the body's own direction, from 0 on."""
        return np.arange(self.interval / 2, 360, self.interval)

    @property
    def latitude(self) -> np.ndarray:
        """Planetographic latitude of the rows' centres [deg], from -90 on."""
        return np.arange(-90 + self.interval / 2, 90, self.interval)

    @property
    def shape(self) -> tuple[int, int]:
        """(latitude, longitude)."""
        return self.latitude.size, self.longitude.size


def map_projection(header: fits.Header, geometry: ObservationGeometry, grid: MapGrid, interpolation: str) -> Projection:
    """The projection to a longitude/latitude map of the body.

    Parameters
    ----------
    header
        Of SCI.
    geometry
        Of the observation.
    grid
        The map's cells; those that do not face the observer have no value.
    interpolation
        As in `spaxel_projection`.
    """
    from surface_positions import body_points, is_facing, sky_positions

    longitude, latitude = np.meshgrid(grid.longitude, grid.latitude)
    points = body_points(longitude, latitude, geometry)
    ra, dec = sky_positions(points, geometry)
    ra[~is_facing(points, geometry)] = np.nan
    return sky_projection(ra, dec, header, interpolation)


def zonal_weights(
    projection: Projection, geometry: ObservationGeometry, grid: MapGrid, greatest_emission: float
) -> csr_array:
    """How much each spaxel counts in the zonal mean of each row of a map.

    Parameters
    ----------
    projection
        To the map (`map_projection`).
    geometry, grid
        Of the map.
    greatest_emission
        Cells seen at larger emission angles [deg] do not count.

    Returns
    -------
    csr_array
        (latitude, spaxels): sums over the cells of each row, which all count alike.
    """
    from surface_positions import body_points, emission_angle

    emission = emission_angle(body_points(*np.meshgrid(grid.longitude, grid.latitude), geometry), geometry)
    counted = emission.ravel()[projection.points] <= greatest_emission
    rows = projection.points // grid.longitude.size
    points = np.arange(projection.points.size)
    chosen = csr_array(
        (np.ones(counted.sum(), np.float32), (rows[counted], points[counted])),
        shape=(grid.latitude.size, projection.points.size),
    )
    return csr_array(chosen @ projection.matrix)


def zonal_means(values: Sequence[np.ndarray], weights: Sequence[csr_array]) -> np.ndarray:
    """Mean over longitude, and over several cubes, at each latitude.

    Parameters
    ----------
    values
        (planes, spaxels) of each cube; NaN does not count.
    weights
        `zonal_weights` of each.

    Returns
    -------
    numpy.ndarray
        (planes, latitude), NaN where nothing is seen.
    """
    total = sum((w @ np.nan_to_num(v).T).T for v, w in zip(values, weights, strict=True))
    count = sum((w @ np.isfinite(v).T.astype(np.float32)).T for v, w in zip(values, weights, strict=True))
    return np.divide(total, count, out=np.full(np.shape(total), np.nan), where=count > 1e-6)


def zonal_deviation(values: np.ndarray, latitude: np.ndarray, means: np.ndarray, grid: MapGrid) -> np.ndarray:
    """Values less the zonal mean at their latitude.

    Parameters
    ----------
    values
        (planes, spaxels).
    latitude
        (spaxels,) planetographic [deg]; NaN gives NaN.
    means
        (planes, latitude) of `zonal_means`; between the middles of the rows it goes on linearly.
    grid
        The map's cells.

    Returns
    -------
    numpy.ndarray
        (planes, spaxels), NaN where there is no mean.
    """
    place = (np.nan_to_num(latitude) - grid.latitude[0]) / grid.interval
    low = np.clip(np.floor(place).astype(int), 0, grid.latitude.size - 2)
    share = np.clip(place - low, 0, 1)
    below, above = means[:, low], means[:, low + 1]
    # At the ends of what is seen only one of two rows has a mean.
    below, above = np.where(np.isnan(below), above, below), np.where(np.isnan(above), below, above)
    return values - np.where(np.isfinite(latitude), (1 - share) * below + share * above, np.nan)
