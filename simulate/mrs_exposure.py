"""The MRS in the simulated observatory: its detectors' setups, and the light of sky and telescope."""

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from psf_model import psf_fwhm
from simulate import mrs_detector
from simulate.exposure import Instrument
from simulate.mrs_calibration import Calibration, build_calibration
from simulate.mrs_optics import Optics, get_optics, sample_pixels
from simulate.mrs_plan import MrsSettings
from simulate.plan import Exposure

AMPLITUDE = 6000.0  # of the default scene [MJy/sr]: the brightest 1 % of five groups saturate in the last


def background_radiance(wavelength: np.ndarray) -> np.ndarray:
    """Zodiacal light and the telescope's own glow [MJy/sr] at wavelengths [um].

    Grey bodies of 270 K (dilution 1e-7) and 46 K (emissivity 0.05): some 20 MJy/sr at 10 um, 100 at 20, 800 at 28
    (Rigby et al. 2023, PASP 135, 048002).
    """

    def planck(temperature: float) -> np.ndarray:
        # h c / k = 14387.77 um K; 2 h c / (1 um)^3 = 3.97289e13 MJy/sr
        return 3.97289e13 / wavelength**3 / np.expm1(14387.77 / wavelength / temperature)

    return 1e-7 * planck(270.0) + 0.05 * planck(46.0)


class MrsSetup:
    """One MRS detector in one band; see `simulate.exposure.DetectorSetup`."""

    shape = mrs_detector.SHAPE
    saturation = mrs_detector.SATURATION

    def __init__(self, optics: Optics, calibration: Calibration) -> None:
        self.optics = optics
        self.calibration = calibration
        self.samples = sample_pixels(optics)

    def background(self, wavelength: np.ndarray) -> np.ndarray:
        """Zodiacal light and the telescope's own glow [MJy/sr]."""
        return background_radiance(wavelength)

    def count_rate(self, seen: np.ndarray, role: str) -> np.ndarray:
        """Count rate of the light [DN/s], from the mean radiance that each pixel sees [MJy/sr]; alike in all roles."""
        return seen * self.calibration.known_response * self.calibration.unknown_response

    def make_ramp(self, rate: np.ndarray, settings: MrsSettings, random: np.random.Generator) -> np.ndarray:
        """Readings [DN], uint16, shape (groups, rows, columns)."""
        cosmic_rays = settings.cosmic_rays and settings.noise
        detector = self.optics.detector
        return mrs_detector.make_ramp(
            rate, detector, settings.groups, random, noise=settings.noise, cosmic_rays=cosmic_rays
        )

    def truth(self) -> Mapping[str, np.ndarray]:
        """Images of what is true of the detector.

        `wavelength` [um, topocentric], `stripes` and `residual_fringes` (relative response), `regions` (slice number),
        `warm_pixels` [DN/s].
        """
        defects = mrs_detector.get_defects(self.optics.detector)
        warm = np.zeros(self.shape)
        warm.flat[defects.warm] = defects.extra_rate.flat[defects.warm]
        return {
            "wavelength": self.calibration.wavelength,
            "stripes": self.calibration.stripes,
            "residual_fringes": self.calibration.residual_fringes,
            "warm_pixels": warm,
            "regions": self.optics.regions[0].astype(np.int16),
        }

    def describe(self) -> Mapping[str, Any]:
        """The band, ready for JSON."""
        return {"band": self.optics.band}


def get_setup(settings: MrsSettings, exposure: Exposure) -> MrsSetup:
    """The setup of an exposure's detector; kept for the next exposure of the same."""
    (band,) = exposure.configuration
    return _build_setup(exposure.detector, band, settings.geometry, settings.stripes, settings.residual_fringes)


@lru_cache(maxsize=1)
def _build_setup(detector: str, band: str, geometry: Path | None, stripes: float, residual_fringes: float) -> MrsSetup:
    optics = get_optics(detector, band, geometry)
    return MrsSetup(optics, build_calibration(optics, stripes, residual_fringes))


def write_references(directory: Path, settings: MrsSettings) -> None:
    """Write the CRDS cache of an observation."""
    from simulate.mrs_references import write_reference_files

    def calibrated() -> Iterator[tuple[Optics, Calibration]]:
        for detector in settings.detectors:
            for (band,) in settings.configurations():
                optics = get_optics(settings.mode.detectors[detector], band, settings.geometry)
                yield optics, build_calibration(optics, settings.stripes, settings.residual_fringes)

    write_reference_files(directory, calibrated(), groups=settings.groups)


def check_geometry(settings: MrsSettings, exposures: Sequence[Exposure]) -> None:
    """Refuse a directory of real geometry files that lacks one.

    Raises
    ------
    FileFormatError
    """
    if settings.geometry is not None:
        from simulate.mrs_optics import geometry_files

        for detector, (band,) in sorted({(exposure.detector, exposure.configuration) for exposure in exposures}):
            geometry_files(settings.geometry, detector, band)


MRS = Instrument(
    settings=MrsSettings,
    setup=get_setup,
    write_references=write_references,
    check_geometry=check_geometry,
    fwhm=psf_fwhm,
    amplitude=AMPLITUDE,
)
