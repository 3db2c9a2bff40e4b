"""What turns surface brightness into count rate on the MRS detectors, as the reference files know it and as it is.

    rate [DN/s] = radiance [MJy/sr] / conversion x pixel flat x fringes x unknown defects

The first three go into the reference files (photom, flat, fringe). The defects do not, and are what the pipelines have
to find: stripes fixed to the slices, as Fletcher et al. 2023 (JGR Planets 128, e2023JE007924) divide out with synthetic
flats, and residual fringes (Argyriou et al. 2020, A&A 641, A150; Gasman et al. 2023, A&A 673, A102).
"""

from dataclasses import dataclass

import numpy as np

from simulate.mrs_optics import BANDS, CHANNELS_OF_DETECTOR, Optics

# MJy/sr per DN/s at the short end of each channel and its relative growth along the channel: fewer photons and less
# quantum efficiency towards 28 um.
CONVERSION = {1: (1.7, 0.15), 2: (1.8, 0.15), 3: (2.2, 0.25), 4: (4.5, 1.0)}
CHANNEL_LIMITS = {1: (4.9, 7.65), 2: (7.51, 11.7), 3: (11.55, 17.98), 4: (17.7, 27.9)}

# Fringes of the detector substrate: optical path difference [cm] (a period of 2.9 cm-1) and depth.
FRINGE_PATH = 0.345
FRINGE_DEPTH = {1: 0.12, 2: 0.12, 3: 0.18, 4: 0.10}
# What the fringe flat misses has nearly the same period.
RESIDUAL_FRINGE_PATH = 0.349

PIXEL_FLAT_RMS = 0.01

# Reference images are rounded to this step, and the simulated detector uses the rounded ones: they compress well.
_STEP = 2.0**-13


@dataclass(frozen=True)
class Calibration:
    """Images of shape (rows, columns); neutral values between the slices.

    Attributes
    ----------
    wavelength
        At the centre of each pixel [um].
    conversion
        Radiance per count rate [MJy/sr per DN/s].
    pixel_area
        Solid angle of a pixel times slice width [arcsec2].
    pixel_flat, fringes
        Relative response, as the reference files have it.
    stripes, residual_fringes
        Relative response that no reference file knows.
    """

    wavelength: np.ndarray
    conversion: np.ndarray
    pixel_area: np.ndarray
    pixel_flat: np.ndarray
    fringes: np.ndarray
    stripes: np.ndarray
    residual_fringes: np.ndarray

    @property
    def known_response(self) -> np.ndarray:
        """Count rate per radiance [DN/s per MJy/sr] that the reference files know; 0 between the slices."""
        return np.nan_to_num(self.pixel_flat * self.fringes / self.conversion)

    @property
    def unknown_response(self) -> np.ndarray:
        """The relative response that no reference file knows."""
        return self.stripes * self.residual_fringes


def build_calibration(optics: Optics, stripes: float, residual_fringes: float) -> Calibration:
    """The calibration of one setting; it belongs to the instrument and does not depend on the observation's seed.

    Parameters
    ----------
    optics
        The setting's optics.
    stripes
        Rms of the stripes, relative.
    residual_fringes
        Amplitude of the residual fringes, relative.
    """
    shape = optics.regions.shape[1:]
    setting = [sorted(CHANNELS_OF_DETECTOR).index(optics.detector), BANDS.index(optics.band)]
    random = np.random.default_rng([20221113, *setting])
    pixel_flat = np.clip(1 + PIXEL_FLAT_RMS * random.standard_normal(shape), 0.9, 1.1)
    wavelength, conversion = np.full(shape, np.nan), np.full(shape, np.nan)
    pixel_area, fringes, striped, residual = np.zeros(shape), np.ones(shape), np.ones(shape), np.ones(shape)
    for number, y, x in optics.pixels():
        channel, model = number // 100, optics.slices[number]
        rows, columns = y.astype(float), x.astype(float)
        lam, alpha = model.wavelength(rows, columns), model.alpha(rows, columns)
        wavelength[y, x] = lam
        conversion[y, x] = conversion_factor(lam, channel)
        pixel_area[y, x] = abs(np.median(model.alpha(rows, columns + 1) - alpha)) * optics.slice_width[channel]
        fringes[y, x] = fringe_transmission(lam, channel, phase=random.uniform(0, 2 * np.pi))
        along, down = 2 * np.pi * alpha / random.uniform(0.7, 1.2), 2 * np.pi * y / random.uniform(400, 800)
        phases = random.uniform(0, 2 * np.pi, 3)
        # Mostly an offset of the whole slice that drifts with wavelength, and a weaker wave along the slice.
        pattern = 1.2 * np.sin(down + phases[0]) + 0.75 * np.sin(along + phases[1])
        striped[y, x] = 1 + stripes * pattern
        path = RESIDUAL_FRINGE_PATH * (1 + 2e-3 * alpha)
        residual[y, x] = 1 + residual_fringes * np.cos(2e4 * np.pi * path / lam + phases[2])
    return Calibration(
        wavelength=wavelength,
        conversion=_rounded(conversion),
        pixel_area=pixel_area,
        pixel_flat=_rounded(pixel_flat),
        fringes=_rounded(fringes),
        stripes=striped,
        residual_fringes=residual,
    )


def conversion_factor(wavelength: np.ndarray, channel: int) -> np.ndarray:
    """Radiance per count rate [MJy/sr per DN/s] at wavelengths [um]."""
    level, growth = CONVERSION[channel]
    low, high = CHANNEL_LIMITS[channel]
    return level * (1 + growth * (wavelength - low) / (high - low))


def fringe_transmission(wavelength: np.ndarray, channel: int, phase: float) -> np.ndarray:
    """Transmission of the substrate, between 1 - depth and 1, at wavelengths [um]."""
    return 1 - FRINGE_DEPTH[channel] / 2 * (1 + np.cos(2e4 * np.pi * FRINGE_PATH / wavelength + phase))


def _rounded(image: np.ndarray) -> np.ndarray:
    return (np.round(image / _STEP) * _STEP).astype(np.float32)
