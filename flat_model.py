"""The joint model behind synthetic flats: brightness = flat x scene x gain, one linear fit for all dithers of a band.

In: logarithms of the brightness of D dithers in spaxels of known latitude, longitude, emission angle and radial
velocity. Out: the flat of each wavelength and its error. With i a datum (a spaxel of one dither) at the IFU place
p(i),

    ln I_i = f[p(i)] + g[d(i)] + scene_i + noise_i
    scene  = Z(lat) + sum_k U_k(lat) (ln mu)^k + V(lat) v + map(lat, lon)

f: ln of the flat, with prior variances for single spaxels, whole rows and whole columns (slices lie along one of them).
g: gain of the dither. A gradient of the flat and a gain per dither look the same in shifted images; the width of g is
chosen by its evidence, so that neither leaks into the other unless the data are silent. Z: zonal mean; U_k: limb
darkening; V: the slope of the spectrum in ln(wavelength), which the Doppler shift v turns into brightness (on the
flank of a line, 1 km/s is up to 0.5 %): without it, rotation passes for a gradient of the flat. All are cubic
B-splines in latitude. The map is what moves with the longitudes: nodes in rows of latitude, each with its own closed
circle of longitudes, so that neither the seam at 0 = 360 deg nor a pole is special; bilinear weights; small second
differences.

The normal equations are solved once for a set of wavelengths of like noise: the scene is eliminated (Schur
complement), the flat's covariance comes out of the same factorisation. Missing data and outliers differ from one
wavelength to the next: their weights of 0 enter through preconditioned conjugate gradients, with the common
factorisation as preconditioner (a few iterations).

Reference: the matching of dithers of Fletcher et al. 2023, JGR Planets 128, e2023JE007924, appendix, which this
replaces; Gaussian linear models and evidence as in Bishop 2006, Pattern Recognition and Machine Learning, ch. 3.
"""

from dataclasses import dataclass

import numpy as np
from scipy import linalg, sparse
from scipy.interpolate import BSpline

# Knots of the splines in latitude, in units of the spacing of the map's rows.
_ZONAL_KNOTS = 2.0
_SLOW_KNOTS = 10.0
_LOWEST_MU = 0.02
_VELOCITY_UNIT = 10.0  # km/s
_CG_TOLERANCE = 1e-5
_CG_ITERATIONS = 40
_TRACE_VECTORS = 16


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
    zonal_bend, slow_bend, map_bend
        Second differences between spline coefficients of the zonal mean and of the slow terms, and between nodes of
        the map.
    zonal, limb, slope, map
        Of the coefficients themselves: wide, they only keep what no datum touches at zero.
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
        zonal = _spline_columns(sight.latitude, _ZONAL_KNOTS * row_spacing)
        slow = _spline_columns(sight.latitude, _SLOW_KNOTS * row_spacing)
        ln_mu = np.log(np.maximum(np.cos(np.radians(sight.emission)), _LOWEST_MU))[:, None]
        velocity = ((sight.velocity - np.median(sight.velocity)) / _VELOCITY_UNIT)[:, None]
        gains = sparse.csr_matrix((np.ones(sight.dither.size), (np.arange(sight.dither.size), sight.dither)))
        gains.resize(sight.dither.size, dithers)
        blocks = [nodes, zonal, *(slow.multiply(ln_mu**k) for k in (1, 2, 3)), slow.multiply(velocity), gains]
        self.columns = sparse.hstack(blocks).tocsr()
        self.dithers = dithers
        self._bends = bends
        self._sizes = [block.shape[1] for block in blocks]
        self._nodes = nodes.shape[1]

    def prior_precision(self, priors: Priors) -> np.ndarray:
        """Inverse covariance of the coefficients, dense."""
        map_size, zonal_size, slow_size, *_ = self._sizes
        slow_bends = _second_differences(slow_size, priors.slow_bend)
        zonal_bends = _second_differences(zonal_size, priors.zonal_bend)
        limb = sparse.eye(slow_size) / priors.limb**2 + slow_bends
        slope = sparse.eye(slow_size) / priors.slope**2 + slow_bends
        blocks = [
            sparse.eye(map_size) / priors.map**2 + self._bends.T @ self._bends / priors.map_bend**2,
            sparse.eye(zonal_size) / priors.zonal**2 + zonal_bends,
            *(limb, limb, limb, slope),
            sparse.eye(self.dithers) / priors.gain**2,
        ]
        return sparse.block_diag(blocks).toarray()

    def covered(self, data: np.ndarray, by: np.ndarray) -> np.ndarray:
        """Whether the data `by` (numbers) fix the map where each of `data` lies: a weight of 0.5 on all its nodes."""
        nodes = self.columns[:, : self._nodes]
        known = np.asarray(nodes[by].sum(axis=0)).ravel() >= 0.5
        unknown_weight = nodes[data] @ (~known).astype(float)
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


class JointFit:
    """The model factorised for one noise level and one set of data.

    Parameters
    ----------
    places
        IFU places of the data.
    scene
        The scene; its rows are the data.
    variance
        (data,) variances of ln(brightness); infinite where a datum is not to be used at all.
    shape
        Rows and columns of the IFU grid.
    priors
        Of the model.
    """

    def __init__(
        self, places: np.ndarray, scene: Scene, variance: np.ndarray, shape: tuple[int, int], priors: Priors
    ) -> None:
        self.places, self.weight, self.shape = places, 1 / variance, shape
        self.scene, self.priors = scene, priors
        size = shape[0] * shape[1]
        # Only places with data are solved for: the others would stay at the prior.
        self.seen = np.bincount(places, self.weight > 0, size) > 0
        number = np.cumsum(self.seen) - 1
        used = self.weight > 0
        self._flat_columns = sparse.csr_matrix(
            (np.ones(used.sum()), (np.nonzero(used)[0], number[places[used]])),
            shape=(places.size, int(self.seen.sum())),
        )
        self._flat_precision = self._flat_prior_precision()
        self._scene_precision = scene.prior_precision(priors)
        weighted = scene.columns.multiply(self.weight[:, None]).tocsr()
        normal = (scene.columns.T @ weighted).toarray() + self._scene_precision
        self._cross = (weighted.T @ self._flat_columns).toarray()
        self._factor = linalg.cholesky(normal, lower=True, overwrite_a=True, check_finite=False)
        reduced = linalg.solve_triangular(self._factor, self._cross, lower=True, check_finite=False)
        schur = self._flat_precision - reduced.T @ reduced
        schur[np.diag_indices_from(schur)] += self._flat_columns.T @ self.weight
        self._covariance = _inverse(schur)

    def _flat_prior_precision(self) -> np.ndarray:
        # Inverse of spaxel^2 + L L^T, with a column of L for each row, column and gradient (Woodbury's identity).
        y, x = np.divmod(np.nonzero(self.seen)[0], self.shape[1])
        rows, columns = self.priors.row * np.eye(self.shape[0])[y], self.priors.column * np.eye(self.shape[1])[x]
        planes = [self.priors.gradient * (axis - axis.mean()) / max(axis.std(), 1.0) for axis in (y, x)]
        loads = np.column_stack([rows, columns, *planes]) / self.priors.spaxel
        inner = np.linalg.inv(np.eye(loads.shape[1]) + loads.T @ loads)
        precision = -(loads @ inner) @ loads.T
        precision[np.diag_indices_from(precision)] += 1
        return precision / self.priors.spaxel**2

    def solve(self, data: np.ndarray, mask: np.ndarray | None = None, start: np.ndarray | None = None) -> np.ndarray:
        """Coefficients (flat, then scene) for each wavelength.

        Parameters
        ----------
        data
            (data, wavelength) ln(brightness).
        mask
            True where a datum counts; by default all.
        start
            Where to start from, as returned before.

        Returns
        -------
        numpy.ndarray
            (coefficients, wavelength).
        """
        if mask is None or mask[self.weight > 0].all():
            return self._precondition(self._gather(data * self.weight[:, None]))
        weight = self.weight[:, None] * mask
        target = self._gather(data * weight)
        solution = self._precondition(target) if start is None else start.copy()
        active = np.arange(data.shape[1])
        residual = target - self._apply(solution, weight)
        scale = np.einsum("ij,ij->j", target, self._precondition(target))
        direction = self._precondition(residual)
        product = np.einsum("ij,ij->j", residual, direction)
        for _ in range(_CG_ITERATIONS):
            going = product > _CG_TOLERANCE**2 * scale[active]
            if not going.any():
                break
            active, residual, direction, product = (
                active[going],
                residual[:, going],
                direction[:, going],
                product[going],
            )
            image = self._apply(direction, weight[:, active])
            length = product / np.einsum("ij,ij->j", direction, image)
            solution[:, active] += length * direction
            residual = residual - length * image
            step = self._precondition(residual)
            before, product = product, np.einsum("ij,ij->j", residual, step)
            direction = step + product / before * direction
        return solution

    def _gather(self, weighted: np.ndarray) -> np.ndarray:
        return np.vstack([self._flat_columns.T @ weighted, self.scene.columns.T @ weighted])

    def _apply(self, coefficients: np.ndarray, weight: np.ndarray) -> np.ndarray:
        count = self._flat_precision.shape[0]
        prior = [self._flat_precision @ coefficients[:count], self._scene_precision @ coefficients[count:]]
        return self._gather(weight * self.predict(coefficients)) + np.vstack(prior)

    def _precondition(self, target: np.ndarray) -> np.ndarray:
        count = self._flat_precision.shape[0]
        eliminated = linalg.cho_solve((self._factor, True), target[count:], check_finite=False)
        flat = self._covariance @ (target[:count] - self._cross.T @ eliminated)
        scene = linalg.cho_solve((self._factor, True), target[count:] - self._cross @ flat, check_finite=False)
        return np.vstack([flat, scene])

    def predict(self, coefficients: np.ndarray) -> np.ndarray:
        """(data, wavelength) ln(brightness) that coefficients mean; without the flat where no datum was used."""
        count = self._flat_precision.shape[0]
        return self._flat_columns @ coefficients[:count] + self.scene.columns @ coefficients[count:]

    def scene_alone(self, data: np.ndarray) -> np.ndarray:
        """(data, wavelength) the scene that fits if there were no flat."""
        target = self.scene.columns.T @ (data * self.weight[:, None])
        return self.scene.columns @ linalg.cho_solve((self._factor, True), target, check_finite=False)

    def flat(self, coefficients: np.ndarray) -> np.ndarray:
        """(wavelength, place) ln of the flat; NaN where no datum was used."""
        out = np.full((coefficients.shape[1], self.seen.size), np.nan)
        out[:, self.seen] = coefficients[: self._flat_precision.shape[0]].T
        return out

    def flat_error(self) -> np.ndarray:
        """(place,) 1-sigma error of ln F relative to its mean over the places seen; NaN elsewhere."""
        to_mean = self._covariance.mean(axis=1)
        out = np.full(self.seen.size, np.nan)
        out[self.seen] = np.sqrt(np.maximum(self._covariance.diagonal() - 2 * to_mean + to_mean.mean(), 0))
        return out

    def freedom(self) -> float:
        """Number of the data less the parameters that they determine, to about 1 %.

        The latter is the trace of the matrix from data to predictions, here from random signs (Hutchinson 1989,
        Communications in Statistics 18, 1059).
        """
        used = self.weight > 0
        signs = np.random.default_rng(0).choice([-1.0, 1.0], (self.weight.size, _TRACE_VECTORS))
        root = np.sqrt(self.weight)[:, None]
        data = np.where(used[:, None], signs / np.where(used[:, None], root, 1.0), 0.0)
        predicted = self.predict(self.solve(data)) * root
        return float(used.sum() - np.sum(signs * predicted) / _TRACE_VECTORS)

    def gains(self, coefficients: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Gains of the dithers (dither, wavelength) and their covariance."""
        last = np.zeros((self._factor.shape[0], self.scene.dithers))
        last[-self.scene.dithers :] = np.eye(self.scene.dithers)
        columns = linalg.cho_solve((self._factor, True), last, check_finite=False)
        transfer = self._cross.T @ columns
        covariance = columns[-self.scene.dithers :] + transfer.T @ self._covariance @ transfer
        return coefficients[-self.scene.dithers :], covariance


def _inverse(matrix: np.ndarray) -> np.ndarray:
    """Inverse of a positive definite matrix, which is overwritten."""
    factor = linalg.cholesky(matrix, lower=True, overwrite_a=True, check_finite=False)
    inverse, status = linalg.lapack.dpotri(factor, lower=1)
    if status != 0:
        raise linalg.LinAlgError("the normal equations of the flat are singular")
    # Above the diagonal there are zeros.
    inverse = inverse + inverse.T
    inverse[np.diag_indices_from(inverse)] /= 2
    return inverse
