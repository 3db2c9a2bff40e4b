"""What turns surface brightness into count rate on the NIRSpec detectors, as the reference files know it.

    rate [DN/s] = radiance [MJy/sr] / conversion(lambda) x path loss x fore optics(lambda) x spectrograph x pixel flat

The first goes into the photom reference file, the others into pathloss, fflat, sflat and dflat. Sizes are like those of
the instrument (Boeker et al. 2023, PASP 135, 038001).
"""

from functools import lru_cache

import numpy as np

from simulate.nirspec_detector import DETECTORS, SHAPE
from simulate.nirspec_elements import WAVELENGTHS
from simulate.nirspec_optics import Optics

PIXEL_AREA = 0.01  # nominal solid angle of a pixel, as in the reference files [arcsec2]
STERADIAN = (np.pi / 180 / 3600) ** 2  # one arcsec2
FLUX_CONVERSION = 2.4e-13  # [MJy per DN/s], at a grating's best wavelength
PATH_LOSS = 0.98  # share of the light of an extended source that arrives
PIXEL_FLAT_RMS = 0.01

# Reference images are rounded to this step, and the simulated detector uses the rounded ones: they compress well.
_STEP = 2.0**-10


def relative_conversion(wavelength: np.ndarray, grating: str, filter_name: str) -> np.ndarray:
    """Flux per count rate in units of `FLUX_CONVERSION` at wavelengths [um]: a grating's blaze falls to its ends."""
    low, high = WAVELENGTHS[grating, filter_name]
    place = np.clip((2 * wavelength - low - high) / (high - low), -1.3, 1.3)
    return 1 / (1 - 0.4 * place**2)


def fore_optics_throughput(wavelength: np.ndarray) -> np.ndarray:
    """Relative throughput of telescope and filter at wavelengths [um]."""
    return 0.95 - 0.03 * np.sin(2 * np.pi * wavelength / 2.0)


@lru_cache(maxsize=2)
def pixel_flat(detector: str) -> np.ndarray:
    """Relative response of each pixel, shape (rows, columns)."""
    random = np.random.default_rng([4912, DETECTORS.index(detector)])
    return _rounded(np.clip(1 + PIXEL_FLAT_RMS * random.standard_normal(SHAPE), 0.9, 1.1))


@lru_cache(maxsize=2)
def spectrograph_flat(detector: str) -> np.ndarray:
    """Relative response of the spectrograph, shape (rows, columns): smooth."""
    y, x = np.indices(SHAPE)
    return _rounded(1 + 0.02 * np.sin(x / 350.0 + DETECTORS.index(detector)) * np.cos(y / 500.0))


def response(optics: Optics, wavelength: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Count rate per radiance [DN/s per MJy/sr] of pixels at their wavelengths [um], all of the same shape."""
    conversion = FLUX_CONVERSION / (PIXEL_AREA * STERADIAN)
    conversion = conversion * relative_conversion(wavelength, optics.grating, optics.filter)
    flats = pixel_flat(optics.detector)[rows, columns] * spectrograph_flat(optics.detector)[rows, columns]
    return PATH_LOSS * fore_optics_throughput(wavelength) * flats / conversion


def _rounded(image: np.ndarray) -> np.ndarray:
    return (np.round(image / _STEP) * _STEP).astype(np.float32)
