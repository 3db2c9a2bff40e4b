"""Find the disc in a cube: by how much the WCS of its header reads too high.

In: a cube and the geometry of the observation. Out: `PointingFit`, the offset on the sky with its 1-sigma error.
Method:

1. The image is the median over wavelength of the planes, each divided by its own brightness: cosmic rays and lines drop
   out.
2. The model (`pointing_model`) is linear in the brightness of clouds, limb darkening, illumination, rings and sky, seen
   through the PSF. The size of the ellipsoid is not free; the PSF's width is taken from a first fit.
3. A grid search, then Gauss-Newton steps with robust weights (Tukey's), so that spots, spikes and small moons do not
   pull; for a disc that glows, one that is sunlit and one of belts. The best one counts.
4. The error comes from leaving out one piece of the limb after the other (jackknife), because what the model leaves
   (belts, spots, a limb darkening of another form) goes together over many spaxels; the formal error, scaled by the
   residuals and their correlation, is the least it can be. Added are a displacement of the limb by 0.02 PSF widths
   (`SYSTEMATIC_ERROR`) and the difference to other kinds of disc that fit nearly as well. Along a straight limb the
   position is hardly constrained: the offset is taken only along directions known to better than `MAX_ERROR`.

PSF widths: MRS, Law et al. 2023, AJ 166, 45; NIRSpec IFU, D'Eugenio et al. 2024, Nature Astronomy 8, 1443.
"""

from dataclasses import dataclass, replace

import numpy as np

from body_geometry import ObservationGeometry, line_of_sight, sky_axes
from cubes import Cube, sky_coordinates, spaxel_scale
from pointing_model import DiscModel, build_disc_model

MAX_OFFSET = 1.5  # arcsec; how far the search goes in RA and in Dec
MAX_ERROR = 0.06  # arcsec; directions known less well are left alone
MIN_SIGNIFICANCE = 25.0  # fall of chi^2 against a smooth image that the limb must bring
SYSTEMATIC_ERROR = 0.02  # of the PSF's width: what is the same all along the limb, as a belt or a haze that follows it
MIN_LIMB_SPAXELS = 6

_FIRST_NOISE = 0.01  # of the brightness; the residuals tell better after the first round
_LEAST_NOISE = 0.002  # of the brightness; no model is better than this
_LIMB_WIDTH = 0.71  # of the PSF's FWHM: where the image of an edge is between 0.2 and 0.8
_TUKEY = 4.685
_AMBIGUOUS = 1.15
_STEP = 0.01  # arcsec, for derivatives
_ROUNDS = 20
_MAX_PLANES = 400


@dataclass(frozen=True)
class PointingFit:
    """What the disc's image says about the pointing.

    Attributes
    ----------
    ra_offset, dec_offset
        By how much the WCS reads too high [arcsec on the sky]; 0 where not significant.
    ra_error, dec_error
        1-sigma errors [arcsec]; inf where nothing is known.
    correlation
        Correlation coefficient of the two errors.
    significant
        Whether the offset may be applied.
    reason
        Why it may not, or in one direction only; else empty.
    """

    ra_offset: float
    dec_offset: float
    ra_error: float
    dec_error: float
    correlation: float
    significant: bool
    reason: str


def psf_fwhm(instrument: str, wavelength: float) -> float:
    """FWHM of the PSF in cubes [arcsec] at a wavelength [um], for 'NIRSPEC' (mean of both axes) or else MIRI's MRS."""
    if instrument.strip().upper() == "NIRSPEC":
        across = 0.12 + 1.9 * wavelength * np.exp(-24.4 / wavelength)
        along = 0.09 + 0.2 * wavelength * np.exp(-12.5 / wavelength)
        return float(across + along) / 2
    return 0.033 * wavelength + 0.106


def fit_cube_pointing(cube: Cube, geometry: ObservationGeometry) -> PointingFit:
    """Find the disc in a cube.

    Parameters
    ----------
    cube
        Voxels that must not be used are left out.
    geometry
        Geometry of the observation.
    """
    image = collapsed_image(np.where(cube.good, cube.sci, np.nan))
    ra, dec = sky_coordinates(cube.sci_header)
    fwhm = psf_fwhm(str(cube.header.get("INSTRUME", "MIRI")), float(np.median(cube.wavelength)))
    return fit_image_pointing(image, ra, dec, geometry, fwhm, spaxel_scale(cube.sci_header))


def collapsed_image(sci: np.ndarray) -> np.ndarray:
    """Median over wavelength of the planes, each divided by its own brightness.

    Parameters
    ----------
    sci
        (wavelength, y, x), NaN where there is no value. Of long cubes, about 400 planes evenly apart are taken.

    Returns
    -------
    numpy.ndarray
        (y, x), about 1 where bright, NaN where fewer than half of the planes have a value.
    """
    sci = sci[:: max(1, len(sci) // _MAX_PLANES)].astype(float)
    sci = sci[np.isfinite(sci).any(axis=(1, 2))]
    if not len(sci):
        return np.full(sci.shape[1:], np.nan)
    enough = np.isfinite(sci).sum(axis=0) >= len(sci) / 2
    flat = sci[:, enough]
    if flat.shape[1] == 0:
        return np.full(sci.shape[1:], np.nan)
    template = np.nanmedian(flat, axis=0)
    bright = template > 0.5 * np.percentile(template, 98)
    filled = np.where(np.isfinite(flat), flat, 0)[:, bright]
    scale = np.median(filled / template[bright], axis=1) if bright.any() else np.zeros(len(flat))
    usable = scale > 0.1 * np.median(scale)
    image = np.full(sci.shape[1:], np.nan)
    if usable.any() and np.median(scale) > 0:
        values = np.nanmedian(flat[usable] / scale[usable, None], axis=0)
        image[enough] = values / np.nanpercentile(values, 98)
    return image


def fit_image_pointing(
    image: np.ndarray, ra: np.ndarray, dec: np.ndarray, geometry: ObservationGeometry, fwhm: float, spaxel: float
) -> PointingFit:
    """Find the disc in an image.

    Parameters
    ----------
    image
        (y, x), of any scale, NaN where there is no value.
    ra, dec
        (y, x) sky coordinates of the spaxels by the header [deg].
    geometry
        Geometry of the observation.
    fwhm
        Of the PSF [arcsec].
    spaxel
        Side of a spaxel [arcsec].
    """
    good = np.isfinite(image)
    if good.sum() < 50:
        return _nothing("too few good spaxels")
    values = image[good] / np.percentile(image[good], 98)
    towards, to_east, to_north = sky_axes(*geometry.target_radec)
    sight = line_of_sight(ra[good], dec[good])
    east, north = (np.degrees(sight @ axis / (sight @ towards)) * 3600 for axis in (to_east, to_north))
    if _far_from_limb(east, north, geometry, MAX_OFFSET + fwhm):
        return _nothing("the limb is not in the field")
    model = build_disc_model(geometry, east, north, fwhm, MAX_OFFSET + 0.5)
    plain, sunlit, _ = (_Problem(variant, values) for variant in model.variants())
    glowing, lit = (_grid_search(replace(kind, model=kind.model.coarse()), fwhm) for kind in (plain, sunlit))
    if not glowing:
        return _nothing("the limb is not in the field")
    fwhm *= _refine(plain, glowing[0]).width_ratio()
    model = build_disc_model(geometry, east, north, fwhm, MAX_OFFSET + 0.5)
    plain, sunlit, belted = (_Problem(variant, values) for variant in model.variants())
    fits = [_refine(kind, start) for kind in (plain, belted) for start in glowing]
    fits += [_refine(sunlit, start) for start in lit]
    noise = min(fit.noise for fit in fits)
    best = min(fits, key=lambda fit: fit.misfit(noise))
    if np.max(np.abs(best.offset)) > MAX_OFFSET:
        return _nothing(f"no best position within {MAX_OFFSET} arcsec")
    disc = best.problem.disc_level(best.offset)
    limb = (disc > 0.2) & (disc < 0.8) & (best.weights > 0.1)
    if limb.sum() < MIN_LIMB_SPAXELS:
        return _nothing("the limb is not in the field")
    correlated = best.correlated_spaxels(good)
    if best.gain_over_smooth() / correlated < MIN_SIGNIFICANCE:
        return _nothing("the disc does not stand out from noise")
    limb_length = limb.sum() * spaxel**2 / (_LIMB_WIDTH * fwhm)
    pieces = int(np.clip(limb_length / (2 * fwhm), 4, 12))
    angle = np.arctan2(north - best.offset[1], east - best.offset[0])
    sectors = _limb_sectors(angle, limb, pieces)
    covariance = best.covariance(correlated, sectors) + best.systematic(SYSTEMATIC_ERROR * fwhm, sectors)
    for other in fits:
        # Another kind of disc, elsewhere, that fits nearly as well is an error of this position. How nearly: models of
        # the clouds are never right to the noise.
        if other.misfit(noise) < best.misfit(noise) * _AMBIGUOUS + MIN_SIGNIFICANCE:
            difference = other.offset - best.offset
            covariance += np.outer(difference, difference)
    return _trusted(best.offset, covariance)


def _nothing(reason: str) -> PointingFit:
    return PointingFit(0.0, 0.0, np.inf, np.inf, 0.0, False, reason)


def _far_from_limb(east: np.ndarray, north: np.ndarray, geometry: ObservationGeometry, reach: float) -> bool:
    distance = np.hypot(east, north)
    polar = geometry.angular_radius * geometry.radii[2] / geometry.radii[0]
    return bool(distance.min() > geometry.angular_radius + reach or distance.max() < polar - reach)


@dataclass(frozen=True)
class _Problem:
    model: DiscModel
    values: np.ndarray

    def disc_level(self, offset: np.ndarray) -> np.ndarray:
        disc = self.model.disc(offset)
        return disc / max(float(disc.max()), 1e-6)

    def solve(self, columns: np.ndarray, weights: np.ndarray, noise: float) -> tuple[np.ndarray, float]:
        # Linear coefficients for one offset, and how many of them the data decide.
        scaled = columns * (weights / noise**2)[:, None]
        data = scaled.T @ columns
        inverse = np.linalg.inv(data + np.diag(self.model.prior**2))
        return inverse @ (scaled.T @ self.values), float(np.sum(inverse * data))

    def derivatives(self, offset: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
        pairs = [[self.model.columns(offset + side * step) for side in (1, -1)] for step in np.eye(2) * _STEP]
        return np.stack([(ahead - behind) @ coefficients / (2 * _STEP) for ahead, behind in pairs], axis=-1)

    def normal_equations(
        self, full: np.ndarray, weights: np.ndarray, noise: float, part: np.ndarray | slice = slice(None)
    ) -> tuple[np.ndarray, np.ndarray]:
        # Coefficients and offset together, linearised, from all spaxels or some. The offset's prior is so weak that it
        # only keeps the matrix regular.
        prior = np.append(self.model.prior, [0.1 / MAX_OFFSET] * 2)
        scaled = full[part] * (weights[part] / noise**2)[:, None]
        return full[part].T @ scaled + np.diag(prior**2), scaled.T @ self.values[part]


def _grid_search(problem: _Problem, fwhm: float) -> list[np.ndarray]:
    # The two best offsets on a grid with steps of half the PSF, not neighbours, that bring some limb into the field.
    count = int(np.ceil(MAX_OFFSET / (fwhm / 2)))
    steps = np.linspace(-MAX_OFFSET, MAX_OFFSET, 2 * count + 1)
    found = []
    weights = np.ones_like(problem.values)
    for offset in np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2):
        level = problem.disc_level(offset)
        if np.sum((level > 0.2) & (level < 0.8)) >= MIN_LIMB_SPAXELS:
            columns = problem.model.columns(offset)
            coefficients, _ = problem.solve(columns, weights, _FIRST_NOISE)
            # The sum of absolute values is blind to a few spikes.
            found.append((float(np.sum(np.abs(problem.values - columns @ coefficients))), offset))
    starts: list[np.ndarray] = []
    for _, offset in sorted(found, key=lambda pair: pair[0]):
        if all(np.hypot(*(offset - other)) > 1.5 * fwhm for other in starts):
            starts.append(offset)
        if len(starts) == 2:
            break
    return starts


def _refine(problem: _Problem, offset: np.ndarray) -> "_Fit":
    weights = np.ones_like(problem.values)
    noise = _FIRST_NOISE
    for _ in range(_ROUNDS):
        columns = problem.model.columns(offset)
        coefficients, parameters = problem.solve(columns, weights, noise)
        residual = problem.values - columns @ coefficients
        freedom = max(residual.size - parameters, 1) / residual.size
        noise = max(1.4826 * float(np.median(np.abs(residual))) / np.sqrt(freedom), _LEAST_NOISE)
        weights = np.clip(1 - (residual / (_TUKEY * noise)) ** 2, 0, None) ** 2
        full = np.hstack([columns, problem.derivatives(offset, coefficients)])
        step = np.linalg.solve(*problem.normal_equations(full, weights, noise))[-2:]
        # A step longer than this leaves the range in which the model is linear.
        step *= min(1.0, 0.1 / max(float(np.hypot(*step)), 1e-12))
        offset = offset + step
        if np.hypot(*step) < 1e-4 or np.max(np.abs(offset)) > MAX_OFFSET:
            break
    offset = np.clip(offset, -MAX_OFFSET - 0.1, MAX_OFFSET + 0.1)
    columns = problem.model.columns(offset)
    coefficients, _ = problem.solve(columns, weights, noise)
    return _Fit(problem, offset, columns, coefficients, weights, noise)


@dataclass(frozen=True)
class _Fit:
    problem: _Problem
    offset: np.ndarray
    columns: np.ndarray
    coefficients: np.ndarray
    weights: np.ndarray
    noise: float

    @property
    def residual(self) -> np.ndarray:
        return self.problem.values - self.columns @ self.coefficients

    def width_ratio(self) -> float:
        # Width of the PSF in the data to that of the model, from the Laplacian's share; cubes differ by half at most.
        disc = self.problem.disc_level(self.offset)
        limb = (disc > 0.4) & (disc < 0.6)
        if not limb.any():
            return 1.0
        level = max(2 * float(np.median(self.problem.values[limb])), 0.3)
        return float(np.sqrt(np.clip(1 + self.coefficients[self.problem.model.laplacian] / level, 0.5, 2.25)))

    def misfit(self, noise: float) -> float:
        # Tukey's loss in units of chi^2, and what the prior says about the coefficients.
        limited = np.minimum((self.residual / (_TUKEY * noise)) ** 2, 1)
        loss = np.sum(_TUKEY**2 / 3 * (1 - (1 - limited) ** 3))
        return float(loss + np.sum((self.problem.model.prior * self.coefficients) ** 2))

    def correlated_spaxels(self, good: np.ndarray) -> float:
        # How many spaxels' residuals go together: for a first-order autoregressive field with correlation r between
        # neighbours, ((1 + r) / (1 - r))^2.
        image = np.zeros(good.shape)
        image[good] = self.residual * (self.weights > 0.1)
        pairs = np.sum(image[1:] * image[:-1]) + np.sum(image[:, 1:] * image[:, :-1])
        correlation = float(np.clip(pairs / (2 * np.sum(image**2)), 0, 0.8))
        return ((1 + correlation) / (1 - correlation)) ** 2

    def gain_over_smooth(self) -> float:
        # Fall of chi^2 against a quadratic surface.
        east, north = self.problem.model.east, self.problem.model.north
        x, y = east - east.mean(), north - north.mean()
        smooth = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1)
        root = np.sqrt(self.weights) / self.noise
        _, left, *_ = np.linalg.lstsq(smooth * root[:, None], self.problem.values * root, rcond=None)
        return float(np.sum(left) - np.sum((self.residual * root) ** 2))

    def covariance(self, correlated: float, sectors: np.ndarray) -> np.ndarray:
        # Along each of the directions in which formal error and jackknife differ, the larger of the two.
        full = np.hstack([self.columns, self.problem.derivatives(self.offset, self.coefficients)])
        system = self.problem.normal_equations
        formal = np.linalg.inv(system(full, self.weights, self.noise)[0])[-2:, -2:] * correlated
        count = sectors.max() + 1
        estimates = np.array(
            [np.linalg.solve(*system(full, self.weights, self.noise, sectors != k))[-2:] for k in range(count)]
        )
        jackknife = np.cov(estimates.T, bias=True) * (count - 1)
        root = np.linalg.cholesky(formal)
        inverse = np.linalg.inv(root)
        ratios, axes = np.linalg.eigh(inverse @ jackknife @ inverse.T)
        axes = root @ axes
        return axes @ np.diag(np.maximum(ratios, 1)) @ axes.T

    def systematic(self, displacement: float, sectors: np.ndarray) -> np.ndarray:
        # Covariance if each piece of the limb, and independently all of it, is displaced along its normal.
        ahead, behind = (
            [self.problem.model.disc(self.offset + side * step) for step in np.eye(2) * _STEP] for side in (1, -1)
        )
        slope = np.array(ahead) - np.array(behind)
        normals = np.array([slope[:, sectors == k].sum(axis=1) for k in range(sectors.max() + 1)])
        normals /= np.linalg.norm(normals, axis=1, keepdims=True)
        pieces = np.linalg.inv(normals.T @ normals + 1e-4 * np.eye(2))
        together = pieces @ normals.sum(axis=0)
        return displacement**2 * (pieces + np.outer(together, together))


def _limb_sectors(angle: np.ndarray, limb: np.ndarray, pieces: int) -> np.ndarray:
    # Number of the piece of limb, as long as the others, in whose range of position angles a spaxel is.
    ordered = np.sort(angle[limb])
    gaps = np.diff(ordered, append=ordered[0] + 2 * np.pi)
    start = ordered[(np.argmax(gaps) + 1) % ordered.size]
    edges = np.quantile((ordered - start) % (2 * np.pi), np.arange(1, pieces) / pieces)
    turned = (angle - start) % (2 * np.pi)
    # What lies in the gap goes with the nearer end.
    turned = np.where(turned > np.pi + edges[-1] / 2, 0, turned)
    return np.searchsorted(edges, turned)


def _trusted(offset: np.ndarray, covariance: np.ndarray) -> PointingFit:
    # The components of the offset along the well-known axes of the error ellipse; those are uncorrelated with the
    # others.
    variances, axes = np.linalg.eigh(covariance)
    known = np.sqrt(variances) <= MAX_ERROR
    errors = np.sqrt(np.diag(covariance))
    correlation = float(covariance[0, 1] / np.prod(errors))
    if not known.any():
        return PointingFit(0.0, 0.0, float(errors[0]), float(errors[1]), correlation, False, "its error is too large")
    applied = axes[:, known] @ (axes[:, known].T @ offset)
    reason = ""
    if not known.all():
        east, north = axes[:, 1]
        reason = (
            f"the limb is so straight that the offset is known, and corrected, across it only; along position angle "
            f"{np.degrees(np.arctan2(east, north)) % 180:.0f} deg its error is {np.sqrt(variances[1]):.2f} arcsec"
        )
    return PointingFit(
        float(applied[0]), float(applied[1]), float(errors[0]), float(errors[1]), correlation, True, reason
    )
