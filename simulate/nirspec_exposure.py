"""The NIRSpec IFU in the simulated observatory: its detectors' setups, and the light of sky and shutters."""

from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from psf_model import psf_fwhm
from simulate import nirspec_detector
from simulate.exposure import Instrument
from simulate.nirspec_calibration import response
from simulate.nirspec_elements import geometry_files
from simulate.nirspec_optics import Optics, get_optics, sample_pixels
from simulate.nirspec_plan import NirspecSettings
from simulate.nirspec_shutters import closed_shutter_glow, leaked_radiance
from simulate.plan import Exposure

AMPLITUDE = 700.0  # of the default scene [MJy/sr]: the brightest pixels of five groups saturate in the last


def background_radiance(wavelength: np.ndarray) -> np.ndarray:
    """Zodiacal light [MJy/sr] at wavelengths [um]: scattered sunlight and the dust's own glow.

    About 0.3 MJy/sr at 1 um, 0.1 at 3 um and 0.3 at 5 um (Rigby et al. 2023, PASP 135, 048002).
    """
    return 0.3 * wavelength**-1.2 + 0.25 * (wavelength / 5) ** 6


class NirspecSetup:
    """One NIRSpec detector with one grating and filter; see `simulate.exposure.DetectorSetup`."""

    shape = nirspec_detector.SHAPE
    saturation = nirspec_detector.SATURATION

    def __init__(self, optics: Optics) -> None:
        self.optics = optics
        self.samples = sample_pixels(optics)
        self.wavelength = np.full(self.shape, np.nan)
        self.response = np.zeros(self.shape)
        for pixels in optics.pixels:
            place = pixels.rows, pixels.columns
            self.wavelength[place] = pixels.wavelength
            self.response[place] = response(optics, pixels.wavelength, *place)
        self.leak = leaked_rate(optics)

    def background(self, wavelength: np.ndarray) -> np.ndarray:
        """Zodiacal light [MJy/sr]."""
        return background_radiance(wavelength)

    def count_rate(self, seen: np.ndarray, role: str) -> np.ndarray:
        """Count rate of the light [DN/s], from the mean radiance that each pixel sees [MJy/sr].

        What leaks through the shutters comes on top; in a leakcal exposure the IFU is shut, and there is nothing else.
        """
        return self.leak if role == "leakcal" else seen * self.response + self.leak

    def make_ramp(self, rate: np.ndarray, settings: NirspecSettings, random: np.random.Generator) -> np.ndarray:
        """Readings [DN], uint16, shape (groups, rows, columns)."""
        return nirspec_detector.make_ramp(
            rate,
            self.optics.detector,
            settings.groups,
            random,
            noise=settings.noise,
            cosmic_rays=settings.cosmic_rays and settings.noise,
            flicker=settings.flicker,
        )

    def truth(self) -> Mapping[str, np.ndarray]:
        """Images of what is true of the detector.

        `wavelength` [um, topocentric], `leak` (what comes through the shutters [DN/s]), `slices` (number of the slice,
        from 1; 0 between them), `warm_pixels` [DN/s].
        """
        defects = nirspec_detector.get_defects(self.optics.detector)
        warm = np.zeros(self.shape)
        warm.flat[defects.warm] = defects.extra_rate.flat[defects.warm]
        return {
            "wavelength": self.wavelength,
            "leak": self.leak,
            "slices": self.optics.slice_map(),
            "warm_pixels": warm,
        }

    def describe(self) -> Mapping[str, Any]:
        """Grating and filter, ready for JSON."""
        return {"grating": self.optics.grating, "filter": self.optics.filter}


def leaked_rate(optics: Optics) -> np.ndarray:
    """Count rate [DN/s] of the light that comes through the micro-shutters, shape (rows, columns)."""
    rows, columns, wavelength, radiance = leaked_radiance(optics)
    rate = np.where(nirspec_detector.is_reference(), 0.0, closed_shutter_glow())
    np.add.at(rate, (rows, columns), radiance * response(optics, wavelength, rows, columns))
    return rate


def get_setup(settings: NirspecSettings, exposure: Exposure) -> NirspecSetup:
    """The setup of an exposure's detector; kept for the next exposure of the same."""
    return _build_setup(exposure.detector, *exposure.configuration, settings.geometry)


@lru_cache(maxsize=1)
def _build_setup(detector: str, grating: str, filter_name: str, geometry: Path | None) -> NirspecSetup:
    return NirspecSetup(get_optics(detector, grating, filter_name, geometry))


def write_references(directory: Path, settings: NirspecSettings) -> None:
    """Write the CRDS cache of an observation."""
    from simulate.nirspec_references import write_reference_files

    optics = [
        get_optics(settings.mode.detectors[detector], *configuration, settings.geometry)
        for configuration in settings.configurations()
        for detector in settings.detectors
    ]
    write_reference_files(directory, optics, groups=settings.groups)


def check_geometry(settings: NirspecSettings, exposures: Sequence[Exposure]) -> None:
    """Refuse a directory of real geometry files that lacks one.

    Raises
    ------
    FileFormatError
    """
    if settings.geometry is not None:
        for grating, filter_name in sorted({exposure.configuration for exposure in exposures}):
            geometry_files(settings.geometry, grating, filter_name)


NIRSPEC = Instrument(
    settings=NirspecSettings,
    setup=get_setup,
    write_references=write_references,
    check_geometry=check_geometry,
    fwhm=partial(psf_fwhm, instrument="NIRSPEC"),
    amplitude=AMPLITUDE,
)
