"""Comparing reduced cubes with the simulated scene that went in.

What a spaxel of a cube holds is the scene, blurred by the PSF (in the scene already) and averaged over the detector's
pixels and slices when it was observed, over pixels and slices again when the cube was drizzled from them, and over the
spaxel. `expected_image` is that: along the slices, where pixels and spaxels lie differently at every wavelength, a
smoothing; across them the slices where they were (`slices`). It does not know the project's navigation, only the RA and
Dec of the cube's WCS.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.io import fits
from scipy.ndimage import binary_erosion
from slices import SlicedExposure, exposures_of, through_slices

from cubes import Cube, celestial_wcs, read_cube, spaxel_scale
from psf_model import psf_fwhm
from simulate.nirspec_optics import SHORTEST_WAVELENGTH
from simulate.scene import Scene

# Pixel along the slice [arcsec] of each channel of the MRS (Wells et al. 2015, PASP 127, 646) and of the NIRSpec IFU
# (Boeker et al. 2022, A&A 661, A82).
PIXELS = {"1": 0.196, "2": 0.196, "3": 0.245, "4": 0.273, "NIRSPEC": 0.104}
OVERSAMPLING = 3
MARGIN = 4
# Blocks of planes are compared: a spectrum is smooth over one, while it has lines narrower than a plane.
BLOCK, BLOCK_STEP = 20, 140
# The outermost slices and pixels are seen in part only: what `jwst` makes of them is no test of the navigation.
EDGE_SPAXELS = 2


def read_scene(root: Path, kernels: Path | None = None, **changes) -> Scene:
    """The scene of a simulated observation, with some of its parameters changed if wanted."""
    description = json.loads((root / "truth" / "scene.json").read_text())
    return Scene.from_description(description | changes, kernels or root / "kernels")


def read_raw_header(root: Path, name: str) -> fits.Header:
    """The primary header of a simulated exposure and that of its ramp."""
    path = root / "stage0" / f"{name}_uncal.fits"
    return fits.getheader(path) + fits.getheader(path, "SCI")


def read_exposure_truth(root: Path, name: str) -> dict:
    """What is true of a simulated exposure: facts and images."""
    facts = json.loads((root / "truth" / f"{name}.json").read_text())
    with np.load(root / "truth" / f"{name}.npz") as images:
        return facts | {name: images[name] for name in images}


@dataclass
class Comparison:
    """A cube's image in many blocks of planes, and what it should be, on the spaxels in `used`."""

    cube: Cube
    exposures: list[SlicedExposure]
    first_planes: np.ndarray
    image: np.ndarray
    used: np.ndarray

    @classmethod
    def of(cls, path: Path) -> "Comparison":
        cube = read_cube(path)
        first_planes = np.arange(20, len(cube.wavelength) - 20 - BLOCK, BLOCK_STEP)
        planes = (first_planes[:, np.newaxis] + np.arange(BLOCK)).ravel()
        sci = np.where(cube.good[planes], cube.sci[planes], np.nan)
        seen = np.isfinite(sci).mean(axis=0) > 0.9
        used = binary_erosion(seen, np.ones((3, 3)), iterations=EDGE_SPAXELS)
        root, wcs = path.parents[2], celestial_wcs(cube.sci_header)
        view = read_scene(root).snapshot(cube.header["NAVTIME"])
        exposures = [
            SlicedExposure(root, name, cube.header.get("CHANNEL"), (view.ra, view.dec), wcs)
            for name in exposures_of(path)
        ]
        for exposure in exposures:
            used &= ~exposure.lit_by_shutters(used.shape)
        total, count = np.nansum(sci, axis=0), np.isfinite(sci).sum(axis=0)
        return cls(cube, exposures, first_planes, total / np.maximum(count, 1), used)

    def expected_image(self, scene: Scene, utc: str | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The image that the scene should give, and its derivatives along x and y [per arcsec], each (y, x)."""
        header = self.cube.sci_header
        _, ny, nx = self.cube.shape
        scale = spaxel_scale(header)
        x, y = ((np.arange((n + 2 * MARGIN) * OVERSAMPLING) + 0.5) / OVERSAMPLING - 0.5 - MARGIN for n in (nx, ny))
        wcs = celestial_wcs(header)
        ra, dec = wcs.all_pix2world(*np.meshgrid(x, y), 0)
        wavelength = self.cube.wavelength
        blocks = wavelength[self.first_planes[:, np.newaxis] + np.arange(BLOCK)]
        middles = blocks.mean(axis=1)[:, np.newaxis, np.newaxis]
        centre = wcs.all_pix2world((nx - 1) / 2, (ny - 1) / 2, 0)
        snapshot = scene.snapshot(
            utc or self.cube.header["NAVTIME"],
            fwhm=self.fwhm,
            wavelength_range=(wavelength[0] - 0.01, wavelength[-1] + 0.01),
            field=(float(centre[0]), float(centre[1]), 0.75 * scale * (max(nx, ny) + 2 * MARGIN)),
        )
        width = BLOCK * (wavelength[1] - wavelength[0]) / middles
        image = snapshot.radiance(ra, dec, middles, frame="barycentric", width=width).mean(axis=0)
        pixel = PIXELS[self.cube.header.get("CHANNEL", self.instrument)]
        for width in (pixel, pixel, scale):
            image = running_mean(image, width / scale * OVERSAMPLING, axis=1)
        image = through_slices(image, x, y, self.exposures)
        along_y, along_x = np.gradient(image, scale / OVERSAMPLING)
        centres = (slice(MARGIN * OVERSAMPLING + OVERSAMPLING // 2, -MARGIN * OVERSAMPLING, OVERSAMPLING),) * 2
        return image[centres], along_x[centres], along_y[centres]

    @property
    def instrument(self) -> str:
        """INSTRUME."""
        return self.cube.header["INSTRUME"]

    def fwhm(self, wavelength: np.ndarray) -> np.ndarray:
        """FWHM of the telescope's PSF [arcsec] at wavelengths [um]."""
        return psf_fwhm(wavelength, self.instrument)

    def plane(self, name: str) -> np.ndarray:
        """A backplane of the cube."""
        return self.cube.hdul[name].data


def running_mean(values: np.ndarray, width: float, axis: int) -> np.ndarray:
    """Mean over `width` samples, whole or not, along an axis."""
    total = np.moveaxis(np.cumsum(np.insert(values, 0, 0, axis=axis), axis=axis), axis, 0)
    n = values.shape[axis]
    edges = np.arange(n) + 0.5

    def at(position):
        position = np.clip(position, 0, n)
        low = np.minimum(position.astype(int), n - 1)
        weight = (position - low)[:, None]
        return total[low] * (1 - weight) + total[low + 1] * weight

    return np.moveaxis((at(edges + width / 2) - at(edges - width / 2)) / width, 0, axis)


def fit(image: np.ndarray, templates: list[np.ndarray], used: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Least-squares coefficients of a constant and the templates, with 1-sigma errors from the residuals."""
    design = np.stack([np.ones(used.sum()), *(template[used] for template in templates)], axis=1)
    coefficients, *_ = np.linalg.lstsq(design, image[used], rcond=None)
    residual = image[used] - design @ coefficients
    variance = residual.var() * len(residual) / (len(residual) - len(coefficients))
    return coefficients, np.sqrt(np.diag(np.linalg.inv(design.T @ design)) * variance)


@dataclass
class Displacement:
    """How far a cube's image lies from where it should be across and along the limb [arcsec], and the flux ratio."""

    across: float
    along: float
    across_error: float
    along_error: float
    background: float
    flux_ratio: float


def displacement(comparison: Comparison, scene: Scene) -> Displacement:
    """Fit position, flux and background of the expected image to a cube's.

    Across the limb the brightness changes fast, along it slowly: the two are as different in how well they are known.
    """
    expected, along_x, along_y = comparison.expected_image(scene)
    used = comparison.used
    # The principal axes of the gradients.
    gradient = np.stack([along_x[used], along_y[used]])
    _, axes = np.linalg.eigh(gradient @ gradient.T)
    templates = [axes[0, k] * along_x + axes[1, k] * along_y for k in (1, 0)]
    values, errors = fit(comparison.image, [expected, *templates], used)
    disc = used & (comparison.plane("EMISSION") < 60)
    return Displacement(
        across=-values[2] / values[1],
        along=-values[3] / values[1],
        across_error=errors[2] / values[1],
        along_error=errors[3] / values[1],
        background=values[0],
        flux_ratio=float((comparison.image[disc] - values[0]).sum() / expected[disc].sum()),
    )


def turn(comparison: Comparison, scene: Scene) -> tuple[float, float]:
    """By how much a cube's image is turned about the middle of the field, with the 1-sigma error [rad].

    The expected image is moved and turned until it fits best.
    """
    image, used = comparison.image, comparison.used
    expected, along_x, along_y = comparison.expected_image(scene)
    y, x = (position * spaxel_scale(comparison.cube.sci_header) for position in np.indices(image.shape))
    turned = (x - x[used].mean()) * along_y - (y - y[used].mean()) * along_x
    values, errors = fit(image, [expected, along_x, along_y, turned], used)
    return values[4] / values[1], errors[4] / values[1]


def flux_ratios(comparison: Comparison, scene: Scene, background: float) -> tuple[np.ndarray, np.ndarray]:
    """Middles of blocks of a NIRSpec cube's wavelengths [um], and there the flux of its disc over the expected.

    Light in a plane comes from a range of the spectrum: that of a pixel when it was observed, that of the width of the
    slice, and that of a pixel again when it was drizzled. The prism's are as wide as absorption bands, and what lies
    beside a block then counts: up to 3 per cent of its flux.
    """
    cube = comparison.cube
    step = cube.wavelength[1] - cube.wavelength[0]
    disc = comparison.used & (comparison.plane("EMISSION") < 60)
    ra, dec = comparison.plane("RA")[disc], comparison.plane("DEC")[disc]
    # The simulated telescope has no light below.
    grid = np.arange(max(cube.wavelength[0], SHORTEST_WAVELENGTH), cube.wavelength[-1], step / 2)
    snapshot = scene.snapshot(
        cube.header["NAVTIME"],
        fwhm=comparison.fwhm,
        wavelength_range=(grid[0], grid[-1]),
        field=(float(ra.mean()), float(dec.mean()), 4.0),
    )
    width = (step / 2 / grid)[:, np.newaxis]
    expected = snapshot.radiance(ra, dec, grid[:, np.newaxis], frame="barycentric", width=width).mean(axis=1)
    pixel, of_slice = comparison.exposures[0].spectral_widths(grid)
    for width in (pixel, of_slice, pixel, np.full(grid.shape, BLOCK * step)):
        total = np.concatenate([[0], np.cumsum(expected) * step / 2])
        edges = np.append(grid, grid[-1] + step / 2) - step / 4
        expected = (np.interp(grid + width / 2, edges, total) - np.interp(grid - width / 2, edges, total)) / width
    count = len(cube.wavelength) // BLOCK
    planes = np.where(cube.good, cube.sci, np.nan)[: count * BLOCK, disc].reshape(count, BLOCK, -1)
    middles = cube.wavelength[: count * BLOCK].reshape(count, BLOCK).mean(axis=1)
    # At either end a part of the spectrum is missing.
    inside = (middles > grid[0] + 2 * BLOCK * step) & (middles < grid[-1] - 2 * BLOCK * step)
    ratios = (np.nanmean(planes[inside], axis=(1, 2)) - background) / np.interp(middles[inside], grid, expected)
    return middles[inside], ratios
