"""Find the disc in a cube: by how much the WCS of its header reads too high.

In: a cube and the geometry of the observation. Out: `PointingFit`, the offset on the sky with its 1-sigma error.
Method:

1. The image is the median over wavelength of the planes, each divided by its own brightness: cosmic rays and lines drop
   out. Its outermost spaxels are left out, where slices lie partly outside.
2. A grid search with a plain disc finds where to start, once or twice.
3. The model (`pointing_model`, `disc_fit`) is linear in the brightness of disc, belts, clouds, rings and sky; offset
   and width of the PSF are free. How strong belts, clouds and noise are, and how far each row of the cube is displaced
   by the slices that it was made of, the data decide. The size of the ellipsoid is not free.
4. Whether a disc glows or is sunlit decides where it ends, and along a limb by some 0.04 arcsec where it is: the result
   is the mean over both kinds (and both starts), weighted by how well they explain the image, and how they differ is
   part of its error. So is a displacement of the limb by 0.02 PSF widths (`SYSTEMATIC_ERROR`). Along a straight limb
   the position is hardly constrained: the offset is taken only along directions known to better than `MAX_ERROR`.

All exposures of a visit share one pointing error: `mean_pointing` puts their fits together.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from scipy.ndimage import binary_erosion, binary_fill_holes
from scipy.special import softmax

from body_geometry import ObservationGeometry, line_of_sight, sky_axes
from cubes import Cube, sky_coordinates, spaxel_scale
from disc_fit import Image, fit_disc
from pointing_model import DiscModel, build_disc_model
from psf_model import psf_fwhm

MAX_OFFSET = 1.5  # arcsec; how far the search goes in RA and in Dec
# arcsec; directions known less well are left alone: JWST itself points as well (JDox, 'JWST Pointing Performance')
MAX_ERROR = 0.1
MIN_SIGNIFICANCE = 25.0  # fall of chi^2 against a smooth image that the limb must bring
SYSTEMATIC_ERROR = 0.02  # of the PSF's width: what is the same all along the limb, as a haze that follows it
MIN_LIMB_SPAXELS = 6

_EDGE = 2  # spaxels of the field's edge that are left out
_LEAST_SPAXELS = 50
_LIMB_WIDTH = 0.71  # of the PSF's FWHM: where the image of an edge is between 0.2 and 0.8
_MAX_PLANES = 400
_TEMPERATURE = 10.0  # of the evidence: models of belts and clouds are never right to the noise, and so decide less
_FREEDOM = 3.0  # degrees of freedom of the distribution of the fits of a visit, which has outliers
_ITERATIONS = 30
_OTHER_START = 1.15  # misfit relative to the best, up to which the second best start is tried too


@dataclass(frozen=True)
class DiscPosition:
    """The offset that the disc's image shows, applied or not, in RA and Dec [arcsec on the sky].

    Attributes
    ----------
    offset
        (2,) by how much the WCS reads too high.
    covariance
        (2, 2) of its error.
    shared
        (2, 2) the part of it that is the same in all images of the scene: of what kind the disc is, and its haze.
    """

    offset: np.ndarray
    covariance: np.ndarray
    shared: np.ndarray


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
    position
        What was measured; None where nothing was.
    """

    ra_offset: float
    dec_offset: float
    ra_error: float
    dec_error: float
    correlation: float
    significant: bool
    reason: str
    position: DiscPosition | None = None

    @property
    def facts(self) -> dict[str, float | bool | str]:
        """All but the position, as a dict."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "position"}


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
    fwhm = float(psf_fwhm(np.median(cube.wavelength), str(cube.header.get("INSTRUME", "MIRI"))))
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
    # In cubes that sample it coarsely the PSF is wider; the fit starts from there.
    fwhm = float(np.hypot(fwhm, spaxel))
    good = _without_edge(np.isfinite(image))
    if good.sum() < _LEAST_SPAXELS:
        return _nothing("too few good spaxels")
    towards, to_east, to_north = sky_axes(*geometry.target_radec)
    sight = line_of_sight(ra, dec)
    offsets = np.stack([np.degrees(sight @ axis / (sight @ towards)) * 3600 for axis in (to_east, to_north)])
    east, north = offsets[:, good]
    if _far_from_limb(east, north, geometry, MAX_OFFSET + fwhm):
        return _nothing("the limb is not in the field")
    upwards = np.nanmean(np.diff(offsets, axis=1), axis=(1, 2))
    data = Image(
        values=image[good] / np.percentile(image[good], 98),
        row=np.nonzero(good)[0],
        upwards=upwards / np.linalg.norm(upwards),
        spaxel=spaxel,
    )
    searched = [
        build_disc_model(geometry, east, north, fwhm, sunlit=sunlit, reach=MAX_OFFSET, detailed=False)
        for sunlit in (True, False)
    ]
    starts = _grid_search(data.values, searched[0])
    if not starts:
        return _nothing("the limb is not in the field")
    dark_in_sight = not np.array_equal(searched[0].sharp[..., 0], searched[1].sharp[..., 0])
    fits = []
    for start in starts:
        for sunlit in (True, False) if dark_in_sight else (True,):
            centre = float(start[0]), float(start[1])
            model = build_disc_model(geometry, east, north, fwhm, sunlit=sunlit, centre=centre, reach=1.5 * fwhm)
            fits.append(fit_disc(model, data, start))
    best = max(fits, key=lambda fit: fit.evidence)
    if np.max(np.abs(best.offset)) > MAX_OFFSET:
        return _nothing(f"no best position within {MAX_OFFSET} arcsec")
    limb = best.limb()
    if limb.sum() < MIN_LIMB_SPAXELS:
        return _nothing("the limb is not in the field")
    correlated = best.correlated_spaxels(good)
    if best.gain_over_smooth() / correlated < MIN_SIGNIFICANCE:
        return _nothing("the disc does not stand out from noise")
    pieces = max(limb.sum() * spaxel**2 / (_LIMB_WIDTH * fwhm) / (2 * fwhm), 1.0)
    shares = softmax([fit.evidence / _TEMPERATURE for fit in fits])
    offset = sum(share * fit.offset for share, fit in zip(shares, fits, strict=True))
    random = sum(share * correlated * fit.covariance for share, fit in zip(shares, fits, strict=True))
    shared = best.systematic(SYSTEMATIC_ERROR * fwhm, pieces)
    for share, fit in zip(shares, fits, strict=True):
        shared += share * np.outer(fit.offset - offset, fit.offset - offset)
    return _trusted(DiscPosition(offset, random + shared, shared))


def mean_pointing(fits: Sequence[PointingFit]) -> PointingFit:
    """The pointing error of a visit from the fits of its cubes.

    The weighted mean; what the fits have in common does not average out, and where they scatter by more than they say,
    the error grows with the scatter. Guide star, attitude and ephemeris, which make the error, are the same for all
    exposures of a visit; the dithers between them are good to a few milliarcseconds.

    Parameters
    ----------
    fits
        Of cubes of different exposures; those that found nothing count for nothing.
    """
    positions = [fit.position for fit in fits if fit.position is not None]
    if not positions:
        return _nothing(fits[0].reason if fits else "there is no cube")
    offsets = np.array([position.offset for position in positions])
    precisions = np.linalg.inv([position.covariance for position in positions])
    trust, scatter = np.ones(len(positions)), 1.0
    for _ in range(_ITERATIONS):
        weights = trust[:, None, None] * precisions
        covariance = np.linalg.inv(weights.sum(axis=0))
        shares = covariance @ weights
        offset = np.einsum("nij,nj->i", shares, offsets)
        residuals = offsets - offset
        misfit = np.einsum("ni,nij,nj->n", residuals, precisions, residuals)
        # Of a two-dimensional Student t: a fit that took something else for the limb has little say.
        trust = (_FREEDOM + 2) / (_FREEDOM + misfit / scatter)
        scatter = max(float(np.sum(trust * misfit)) / max(2 * len(positions) - 2, 1), 1.0)
    random = sum(a @ (p.covariance - p.shared) @ a.T for a, p in zip(shares, positions, strict=True))
    common = sum(a @ _root(p.shared) for a, p in zip(shares, positions, strict=True))
    shared = common @ common.T
    return _trusted(DiscPosition(offset, scatter * random + shared, shared))


def _root(covariance: np.ndarray) -> np.ndarray:
    values, axes = np.linalg.eigh(covariance)
    return (axes * np.sqrt(np.maximum(values, 0))) @ axes.T


def _without_edge(good: np.ndarray) -> np.ndarray:
    # Holes have no edge; of small fields all is needed.
    inside = binary_erosion(np.pad(binary_fill_holes(good), 1), np.ones((3, 3)), _EDGE)[1:-1, 1:-1] & good
    return inside if inside.sum() > max(good.sum() / 2, _LEAST_SPAXELS) else good


def _nothing(reason: str) -> PointingFit:
    return PointingFit(0.0, 0.0, np.inf, np.inf, 0.0, False, reason)


def _far_from_limb(east: np.ndarray, north: np.ndarray, geometry: ObservationGeometry, reach: float) -> bool:
    distance = np.hypot(east, north)
    polar = geometry.angular_radius * geometry.radii[2] / geometry.radii[0]
    return bool(distance.min() > geometry.angular_radius + reach or distance.max() < polar - reach)


def _grid_search(values: np.ndarray, model: DiscModel) -> list[np.ndarray]:
    # The best offset, and the second best where it is nearly as good, not neighbours, on a grid with steps of half the
    # PSF, among those that bring some limb into the field.
    count = int(np.ceil(MAX_OFFSET / (model.fwhm / 2)))
    steps = np.linspace(-MAX_OFFSET, MAX_OFFSET, 2 * count + 1)
    x, y = model.east - model.east.mean(), model.north - model.north.mean()
    surface = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1)
    found = []
    for offset in np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2):
        shapes = model.values(offset)
        level = shapes[:, 0]
        if np.sum((level > 0.2) & (level < 0.8)) >= MIN_LIMB_SPAXELS:
            columns = np.hstack([level[:, None] * surface, shapes[:, 1:], np.ones((x.size, 1))])
            coefficients = np.linalg.lstsq(columns, values, rcond=None)[0]
            # The sum of absolute values is blind to a few spikes.
            found.append((float(np.sum(np.abs(values - columns @ coefficients))), offset))
    found.sort(key=lambda pair: pair[0])
    others = [(misfit, o) for misfit, o in found if np.hypot(*(o - found[0][1])) > 1.5 * model.fwhm]
    return [o for misfit, o in found[:1] + others[:1] if misfit < _OTHER_START * found[0][0]]


def _trusted(position: DiscPosition) -> PointingFit:
    # The components of the offset along the well-known axes of the error ellipse; those are uncorrelated with the
    # others.
    offset, covariance = position.offset, position.covariance
    variances, axes = np.linalg.eigh(covariance)
    known = np.sqrt(variances) <= MAX_ERROR
    errors = np.sqrt(np.diag(covariance))
    correlation = float(covariance[0, 1] / np.prod(errors))
    if not known.any():
        return PointingFit(
            0.0, 0.0, float(errors[0]), float(errors[1]), correlation, False, "its error is too large", position
        )
    applied = axes[:, known] @ (axes[:, known].T @ offset)
    reason = ""
    if not known.all():
        east, north = axes[:, 1]
        reason = (
            f"the limb is so straight that the offset is known, and corrected, across it only; along position angle "
            f"{np.degrees(np.arctan2(east, north)) % 180:.0f} deg its error is {np.sqrt(variances[1]):.2f} arcsec"
        )
    return PointingFit(
        float(applied[0]), float(applied[1]), float(errors[0]), float(errors[1]), correlation, True, reason, position
    )
