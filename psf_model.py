"""The disc of a planet as an IFU sees it: sharp on a fine grid, and through the telescope's PSF at the spaxels.

A Gaussian PSF is separable, so that convolution and sampling are two small matrix products per FWHM; between FWHMs they
are interpolated by Chebyshev polynomials, to rounding error.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from astropy.io import fits

from cubes import celestial_wcs
from errors import OptionError

if TYPE_CHECKING:
    from body_geometry import ObservationGeometry

_FWHM_PER_SIGMA = np.sqrt(8 * np.log(2))
_NODES = 16
_EDGE_SAMPLES = 6  # points across a pixel of the grid that the disc's edge runs through
_LEAST_MU = 1e-3


def psf_fwhm(wavelength: np.ndarray | float, instrument: str = "MIRI") -> np.ndarray | float:
    """FWHM of the PSF in cubes of an instrument's IFU [arcsec].

    MIRI: 0.033 lambda + 0.106, a line through widths of stars in all bands (Law et al. 2023, AJ 166, 45). NIRSpec: the
    geometric mean of 0.12 + 1.9 lambda exp(-24.4/lambda) and 0.09 + 0.2 lambda exp(-12.5/lambda), curves fitted to the
    widths of a star's image along the two axes of its ellipse (D'Eugenio et al. 2024, Nature Astronomy 8, 1443); that
    the image is round is our simplification. The simulated telescope has these widths too.

    Parameters
    ----------
    wavelength
        [um], any shape.
    instrument
        'MIRI' or 'NIRSPEC'.

    Raises
    ------
    OptionError
        If the instrument is another.
    """
    wavelength = np.asarray(wavelength, float)
    name = str(instrument).strip().upper()
    if name == "MIRI":
        return 0.033 * wavelength + 0.106
    if name == "NIRSPEC":
        wide = 0.12 + 1.9 * wavelength * np.exp(-24.4 / wavelength)
        narrow = 0.09 + 0.2 * wavelength * np.exp(-12.5 / wavelength)
        return np.sqrt(wide * narrow)
    raise OptionError(f"the PSF of '{instrument}' is not known: give its FWHM in arcsec with --psf_fwhm.")


@dataclass(frozen=True)
class ForwardModel:
    """The sharp image of the disc on a grid finer than the spaxels.

    Attributes
    ----------
    image
        (y, x) brightness, zero off the disc and on the night side.
    x, y
        Pixel coordinates, in spaxels of the cube from zero, of its columns and rows.
    oversampling
        Pixels per spaxel.
    """

    image: np.ndarray
    x: np.ndarray
    y: np.ndarray
    oversampling: int


Brightness = Callable[[np.ndarray, np.ndarray], np.ndarray]


def blurred_disc(model: ForwardModel, fwhm: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The disc through Gaussian PSFs, at the centres of the spaxels.

    Parameters
    ----------
    model
        The sharp image.
    fwhm
        (wavelength,) FWHM [spaxels].
    shape
        (y, x) of the cube.

    Returns
    -------
    numpy.ndarray
        (wavelength, y, x) float32; 1 where the disc is wide, flat and of brightness 1.
    """
    fwhm = np.asarray(fwhm, float)
    if fwhm.size <= _NODES or np.ptp(fwhm) == 0:
        widths, which = np.unique(fwhm, return_inverse=True)
        return _blur(model, widths, shape)[which].astype(np.float32)
    angles = (np.arange(_NODES) + 0.5) * np.pi / _NODES
    low, high = fwhm.min(), fwhm.max()
    widths = (low + high) / 2 + (high - low) / 2 * np.cos(angles)
    blurred = _blur(model, widths, shape)
    # Discrete orthogonality of Chebyshev polynomials at their roots gives each wavelength's weights of the nodes.
    position = np.clip((2 * fwhm - low - high) / (high - low), -1, 1)
    orders = np.arange(_NODES)
    weights = np.cos(np.arccos(position)[:, None] * orders) @ (
        np.where(orders == 0, 1, 2)[:, None] * np.cos(orders[:, None] * angles)
    )
    return (weights / _NODES @ blurred.reshape(_NODES, -1)).reshape(-1, *shape).astype(np.float32)


def _blur(model: ForwardModel, widths: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    rows, columns = (np.arange(n)[:, None] for n in shape)
    out = np.empty((len(widths), *shape))
    for image, width in zip(out, widths, strict=True):
        sigma = width / _FWHM_PER_SIGMA
        norm = 1 / (np.sqrt(2 * np.pi) * sigma * model.oversampling)
        along_y = norm * np.exp(-0.5 * ((rows - model.y) / sigma) ** 2)
        along_x = norm * np.exp(-0.5 * ((columns - model.x) / sigma) ** 2)
        image[:] = along_y @ model.image @ along_x.T
    return out


def sharp_disc(
    brightness: Brightness,
    centre: tuple[float, float],
    radius: float,
    shape: tuple[int, int],
    *,
    least_oversampling: int = 5,
    least_diameter: int = 150,
    border: float = 10.0,
) -> ForwardModel:
    """The disc on a fine grid.

    Parameters
    ----------
    brightness
        Function of pixel coordinates x, y (spaxels from zero, arrays) that gives the sharp brightness, zero off it.
    centre, radius
        Of the disc: (x, y) and largest radius [spaxels].
    shape
        (y, x) of the cube.
    least_oversampling, least_diameter
        Pixels per spaxel and pixels across the disc, at least.
    border
        Spaxels around the cube from which light is counted.

    Returns
    -------
    ForwardModel
        Covers as much of the disc as lies within the border; without pixels if none does.
    """
    oversampling = max(least_oversampling, int(np.ceil(least_diameter / (2 * radius))))
    axes = []
    for middle, n in zip(centre, shape[::-1], strict=True):
        low = max(middle - 1.02 * radius, -0.5 - border)
        high = min(middle + 1.02 * radius, n - 0.5 + border)
        # Pixels divide spaxels evenly: the grid's edge is the edge of a pixel, at -0.5 + k / oversampling.
        first, last = np.floor((low + 0.5) * oversampling), np.ceil((high + 0.5) * oversampling)
        axes.append((np.arange(first, last) + 0.5) / oversampling - 0.5)
    x, y = axes
    columns, rows = np.meshgrid(x, y)
    image = brightness(columns, rows)
    edge = _edges(image)
    if edge.any():
        fine = ((np.arange(_EDGE_SAMPLES) + 0.5) / _EDGE_SAMPLES - 0.5) / oversampling
        shift_y, shift_x = (shift.ravel() for shift in np.meshgrid(fine, fine))
        image[edge] = brightness(columns[edge][:, None] + shift_x, rows[edge][:, None] + shift_y).mean(axis=1)
    return ForwardModel(image, x, y, oversampling)


def _edges(image: np.ndarray) -> np.ndarray:
    # Pixels next to one on the other side of the disc's edge or the terminator.
    lit = image > 0
    padded = np.pad(lit, 1, mode="edge")
    edge = np.zeros_like(lit)
    for j in range(3):
        for i in range(3):
            edge |= padded[j : j + lit.shape[0], i : i + lit.shape[1]] != lit
    return edge


def disc_brightness(
    geometry: "ObservationGeometry", header: fits.Header, minnaert_exponent: float | None = None
) -> Brightness:
    """Function of pixel coordinates that gives the sharp brightness of the illuminated disc in a cube.

    Parameters
    ----------
    geometry
        Of the observation.
    header
        SCI header, whose WCS is used.
    minnaert_exponent
        k of mu0^k mu^(k-1); None for 1 on the whole lit disc.
    """
    from body_geometry import line_of_sight, surface_points, surface_vectors

    wcs = celestial_wcs(header)

    def brightness(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        direction = line_of_sight(*wcs.all_pix2world(x, y, 0))
        surface = surface_points(direction, geometry)
        normal, observer, sun = surface_vectors(surface, direction, geometry)
        mu = np.sum(normal * observer, axis=-1)
        mu_sun = np.sum(normal * sun, axis=-1) / np.linalg.norm(sun, axis=-1)
        lit = (mu > 0) & (mu_sun > 0)
        if minnaert_exponent is None:
            return lit.astype(float)
        k = minnaert_exponent
        safe, safe_sun = (np.where(lit, np.maximum(cosine, _LEAST_MU), 1.0) for cosine in (mu, mu_sun))
        return np.where(lit, safe_sun**k * safe ** (k - 1), 0.0)

    return brightness
