"""The planet's part of the model behind synthetic flats: what ln(brightness) may be, as columns of a linear model.

    scene = Z(lat) + sum_k U_k(lat) (ln mu)^k + V(lat) v + map(lat, lon) + fading(lat, lon) (ln mu - mean)

Z: zonal mean; U_k: limb darkening; V: the slope of the spectrum in ln(wavelength), which the Doppler shift v turns into
brightness (on the flank of a line, 1 km/s is up to 0.5 %): without it, rotation passes for a gradient of the flat. All
are cubic B-splines in latitude. The map is what moves with the longitudes: nodes in rows of latitude, each with its own
closed circle of longitudes, so that neither the seam at 0 = 360 deg nor a pole is special; bilinear weights; small
second differences. Spots darken towards the limb unlike the zones round them: a coarser map lets them fade.
"""

from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.interpolate import BSpline

# Knots of the splines in latitude, in units of the spacing of the map's rows.
_ZONAL_KNOTS = 2.0
_SLOW_KNOTS = 10.0
_FADING_NODES = 3.0
_LOWEST_MU = 0.02
_VELOCITY_UNIT = 10.0  # km/s


@dataclass(frozen=True)
class Sightlines:
    """Where the data look; one-dimensional arrays, one entry per datum.

    Attributes
    ----------
    latitude, longitude
        [deg]; longitude in either direction, with or without jumps of 360.
    emission
        Emission angle [deg], below 90.
    velocity
        Radial velocity [km/s], positive receding; zeros where it is not known.
    place
        Number of the IFU place, row * columns + column.
    dither
        Number of the dither, from 0.
    """

    latitude: np.ndarray
    longitude: np.ndarray
    emission: np.ndarray
    velocity: np.ndarray
    place: np.ndarray
    dither: np.ndarray

    def __getitem__(self, chosen: np.ndarray) -> "Sightlines":
        """Those of some data."""
        return Sightlines(*(getattr(self, name)[chosen] for name in self.__dataclass_fields__))


@dataclass(frozen=True)
class Priors:
    """Standard deviations of ln(brightness) that the model expects before it sees the data.

    Attributes
    ----------
    spaxel, row, column, gradient
        Of the flat in single spaxels, whole rows, whole columns; rms over the field of a gradient along either axis.
    gain
        Of the dithers' gains.
    zonal_bend, slow_bend, map_bend, fading_bend
        Second differences between spline coefficients of the zonal mean and of the slow terms, and between nodes of
        the maps.
    zonal, limb, slope, map, fading
        Of the coefficients themselves: wide, they only keep what no datum touches at zero; but fading is small.
    """

    spaxel: float = 0.015
    row: float = 0.02
    column: float = 0.02
    gradient: float = 0.006
    gain: float = 5e-4
    zonal_bend: float = 0.05
    slow_bend: float = 0.2
    map_bend: float = 0.02
    zonal: float = 1.0
    limb: float = 1.0
    slope: float = 0.1
    map: float = 0.3
    fading: float = 0.05
    fading_bend: float = 0.05


class Scene:
    """The columns of the scene and of the gains, for all data, and the precision of their prior.

    Parameters
    ----------
    sight
        All data.
    row_spacing
        Distance of the rows of the map's nodes [deg of latitude].
    bin_aspect
        How much longer than in latitude the features are expected to be in longitude: nodes are sqrt(bin_aspect)
        times as far apart, and a curvature as probable in latitude is bin_aspect times smaller in longitude.
    dithers
        Number of dithers.
    """

    def __init__(self, sight: Sightlines, row_spacing: float, bin_aspect: float, dithers: int) -> None:
        nodes, bends = _map_columns(sight.latitude, sight.longitude, row_spacing, np.sqrt(bin_aspect))
        fading, fading_bends = _map_columns(
            sight.latitude, sight.longitude, _FADING_NODES * row_spacing, np.sqrt(bin_aspect)
        )
        zonal = _spline_columns(sight.latitude, _ZONAL_KNOTS * row_spacing)
        slow = _spline_columns(sight.latitude, _SLOW_KNOTS * row_spacing)
        ln_mu = np.log(np.maximum(np.cos(np.radians(sight.emission)), _LOWEST_MU))[:, None]
        velocity = ((sight.velocity - np.median(sight.velocity)) / _VELOCITY_UNIT)[:, None]
        gains = sparse.csr_matrix((np.ones(sight.dither.size), (np.arange(sight.dither.size), sight.dither)))
        gains.resize(sight.dither.size, dithers)
        blocks = [
            nodes,
            fading.multiply(ln_mu - ln_mu.mean()),
            zonal,
            *(slow.multiply(ln_mu**k) for k in (1, 2, 3)),
            slow.multiply(velocity),
            gains,
        ]
        self.columns = sparse.hstack(blocks).tocsr()
        self.dithers = dithers
        self._bends, self._fading_bends = bends, fading_bends
        self._sizes = [block.shape[1] for block in blocks]
        self._nodes = sparse.hstack([nodes, fading]).tocsr()

    def prior_precision(self, priors: Priors) -> np.ndarray:
        """Inverse covariance of the coefficients, dense."""
        map_size, fading_size, zonal_size, slow_size, *_ = self._sizes
        slow_bends = _second_differences(slow_size, priors.slow_bend)
        zonal_bends = _second_differences(zonal_size, priors.zonal_bend)
        limb = sparse.eye(slow_size) / priors.limb**2 + slow_bends
        slope = sparse.eye(slow_size) / priors.slope**2 + slow_bends
        blocks = [
            sparse.eye(map_size) / priors.map**2 + self._bends.T @ self._bends / priors.map_bend**2,
            sparse.eye(fading_size) / priors.fading**2
            + self._fading_bends.T @ self._fading_bends / priors.fading_bend**2,
            sparse.eye(zonal_size) / priors.zonal**2 + zonal_bends,
            *(limb, limb, limb, slope),
            sparse.eye(self.dithers) / priors.gain**2,
        ]
        return sparse.block_diag(blocks).toarray()

    def covered(self, data: np.ndarray, by: np.ndarray) -> np.ndarray:
        """Whether the data `by` (numbers) fix the maps where each of `data` lies: a weight of 0.5 on all its nodes."""
        known = np.asarray(self._nodes[by].sum(axis=0)).ravel() >= 0.5
        unknown_weight = self._nodes[data] @ (~known).astype(float)
        return unknown_weight < 1e-6


def _spline_columns(latitude: np.ndarray, spacing: float) -> sparse.csr_matrix:
    low, high = latitude.min() - 1e-6, latitude.max() + 1e-6
    knots = np.linspace(low, high, max(int(np.ceil((high - low) / spacing)), 1) + 1)
    return BSpline.design_matrix(latitude, np.r_[[low] * 3, knots, [high] * 3], 3).tocsr()


def _second_differences(size: int, width: float) -> sparse.spmatrix:
    if size < 3:
        return sparse.csr_matrix((size, size))
    differences = sparse.diags([1.0, -2.0, 1.0], [0, 1, 2], shape=(size - 2, size))
    return differences.T @ differences / width**2


def _map_columns(
    latitude: np.ndarray, longitude: np.ndarray, row_spacing: float, aspect: float
) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
    """Bilinear weights of the map's nodes, and their second differences along latitude and longitude."""
    bottom = np.floor(latitude.min() / row_spacing)
    height = latitude / row_spacing - bottom
    below = np.floor(height).astype(int)
    rows = below.max() + 2
    widths = np.cos(np.radians(np.minimum(np.abs(bottom + np.arange(rows)) * row_spacing, 90.0)))
    counts = np.maximum(np.round(360 * widths / (row_spacing * aspect)).astype(int), 4)
    first = np.r_[0, np.cumsum(counts)]

    def on_circle(row: np.ndarray, longitude: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        position = longitude % 360 / 360 * counts[row]
        left = np.floor(position).astype(int)
        fraction = position - left
        return [(first[row] + (left + k) % counts[row], w) for k, w in ((0, 1 - fraction), (1, fraction))]

    datum = np.arange(latitude.size)
    entries = [
        (datum, node, weight * share)
        for row, share in ((below, 1 - (height - below)), (below + 1, height - below))
        for node, weight in on_circle(row, longitude)
    ]
    columns = _sparse(entries, (datum.size, first[-1]))

    node = np.arange(first[-1])
    row = np.repeat(np.arange(rows), counts)
    number = node - first[row]
    sides = [first[row] + (number + k) % counts[row] for k in (-1, 1)]
    along = _sparse([(node, node, -2.0), *((node, side, 1.0) for side in sides)], (node.size, node.size))
    inner = node[(row > 0) & (row < rows - 1)]
    equation = np.arange(inner.size)
    entries = [(equation, inner, -2.0)]
    for step in (-1, 1):
        entries += [
            (equation, *item) for item in on_circle(row[inner] + step, 360 * number[inner] / counts[row[inner]])
        ]
    across = _sparse(entries, (inner.size, node.size))
    used = np.diff(columns.tocsc().indptr) > 0
    bends = sparse.vstack([_within(across, used), _within(along, used)])
    return columns[:, used], bends.tocsr()


def _sparse(entries: list[tuple], shape: tuple[int, int]) -> sparse.csr_matrix:
    rows, columns, values = (
        np.concatenate(part) for part in zip(*(np.broadcast_arrays(*e) for e in entries), strict=True)
    )
    matrix = sparse.csr_matrix((values.astype(float), (rows, columns)), shape=shape)
    matrix.eliminate_zeros()
    return matrix


def _within(equations: sparse.csr_matrix, used: np.ndarray) -> sparse.csr_matrix:
    """The equations that concern used nodes only."""
    complete = (abs(equations) > 0) @ (~used).astype(float) == 0
    return equations[complete][:, used]
