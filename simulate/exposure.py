"""One simulated exposure: from the scene at its time to the ramp on disk and the truth beside it.

The telescope aims at a place that moves with the target, offset by the dither, and the header says so. With a pointing
error (east, north) it really points elsewhere, such that the header's RA and Dec read too high by (east / cos Dec,
north). Each pixel integrates the scene over its own width and the width of its slice; background light comes on top.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from files import written_whole
from simulate import pointing
from simulate.headers import Ephemeris, ExposurePointing, exposure_metadata, exposure_times
from simulate.plan import ROLES, Exposure, Settings
from simulate.samples import Samples
from simulate.scene import Scene
from simulate.snapshot import Snapshot
from simulate.uncal import write_uncal

BACKGROUND_OFFSET = 180.0  # how far north of the target the background is taken [arcsec]
INSIDE_LIMB = 0.3  # how far inside the limb the field's middle lies, so that more disc than sky is seen [arcsec]


class DetectorSetup(Protocol):
    """One detector in one configuration of the instrument: what its pixels see and what it makes of that.

    Attributes
    ----------
    samples
        Where each lit pixel looks.
    shape
        Rows and columns of the detector.
    saturation
        Reading above which a pixel counts as saturated [DN].
    """

    samples: Samples
    shape: tuple[int, int]
    saturation: float

    def background(self, wavelength: np.ndarray) -> np.ndarray:
        """Radiance of sky and telescope [MJy/sr] at wavelengths [um], of any shape."""

    def count_rate(self, seen: np.ndarray, role: str) -> np.ndarray:
        """Count rate of the light [DN/s], from the mean radiance that each pixel sees [MJy/sr]."""

    def make_ramp(self, rate: np.ndarray, settings: Settings, random: np.random.Generator) -> np.ndarray:
        """Readings [DN], uint16, shape (groups, rows, columns)."""

    def truth(self) -> Mapping[str, np.ndarray]:
        """Images of what is true of the detector, by name; one of integers stays so."""

    def describe(self) -> Mapping[str, Any]:
        """The configuration, by the names that the header uses, ready for JSON."""


@dataclass(frozen=True)
class Instrument:
    """What the simulated observatory needs of an instrument's mode.

    Attributes
    ----------
    settings
        Class of its settings.
    setup
        Makes the detector's setup of an exposure.
    write_references
        Writes the CRDS cache of an observation into a directory.
    check_geometry
        Refuses a directory of real geometry files that lacks one that the exposures need.
    fwhm
        FWHM of the PSF [arcsec] at wavelengths [um].
    amplitude
        Brightness of the default scene [MJy/sr].
    """

    settings: type[Settings]
    setup: Callable[[Settings, Exposure], DetectorSetup]
    write_references: Callable[[Path, Settings], None]
    check_geometry: Callable[[Settings, Sequence[Exposure]], None]
    fwhm: Callable[[np.ndarray], np.ndarray]
    amplitude: float

    def make_scene(self, settings: Settings, kernels: Path) -> Scene:
        """The truth that an observation looks at."""
        return Scene(settings.target, kernels, seed=settings.seed, amplitude=self.amplitude * settings.scale)


@dataclass(frozen=True)
class Aim:
    """Where one exposure looks: what its header says and where it really points.

    Attributes
    ----------
    header
        As the header says it.
    attitude
        The telescope's real attitude, a matrix from V to ICRF.
    true_ra_ref, true_dec_ref
        Where the aperture's reference point really lies on the sky [deg].
    """

    header: ExposurePointing
    attitude: np.ndarray
    true_ra_ref: float
    true_dec_ref: float

    def sky(self, v2: np.ndarray, v3: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """RA and Dec [deg] of places in the focal plane [arcsec]."""
        return pointing.v2v3_to_sky(*self.header.aberration.correct(v2, v3), self.attitude)


def aim_exposure(settings: Settings, exposure: Exposure, view: Snapshot, ephemeris: Ephemeris) -> Aim:
    """Point the telescope.

    Parameters
    ----------
    settings, exposure
        What is observed.
    view
        The scene at mid-exposure.
    ephemeris
        JWST at mid-exposure.
    """
    aperture = settings.mode.aperture
    ra, dec = field_centre(settings, view)
    if exposure.role != "science":
        ra, dec = pointing.offset_position(view.ra, view.dec, 0.0, BACKGROUND_OFFSET)
    x, y = settings.mode.dithers[exposure.dither - 1]
    v2, v3 = aperture.to_v2v3(x, y)
    aberration = pointing.velocity_aberration(aperture, ra, dec, ephemeris.velocity)
    ra_ref, dec_ref = pointing.aim(aperture, *aberration.correct(v2, v3), ra, dec, settings.roll)
    east, north = settings.pointing_error
    # The header reads what was asked for; the error moves where the telescope really points the other way.
    true_ra, true_dec = pointing.misread(ra_ref, dec_ref, -east, -north)
    header = ExposurePointing(ra_ref, dec_ref, settings.roll, view.ra, view.dec, x, y, aberration, view.velosys)
    return Aim(header, aperture.attitude(true_ra, true_dec, settings.roll), true_ra, true_dec)


def field_centre(settings: Settings, view: Snapshot) -> tuple[float, float]:
    """RA and Dec [deg] of the place on or near the target that is put into the middle of the field."""
    field = settings.field
    if field is None:
        field = "limb" if view.describe()["equatorial_diameter_arcsec"] > settings.mode.field else "centre"
    if field == "centre":
        return view.ra, view.dec
    pole = np.deg2rad(view.view.pole_angle)
    if field == "rings":
        # The middle of the B ring at the eastern ansa.
        angle, radius = pole + np.pi / 2, 1.74 * view.describe()["equatorial_diameter_arcsec"] / 2
    else:
        angle = pole + {"limb": 0.0, "disc": 0.0, "east": np.pi / 2, "south": np.pi, "west": -np.pi / 2}[field]
        limb = np.hypot(*view.view.limb_offset(np.rad2deg(angle)))
        radius = limb / 2 if field == "disc" else max(limb - INSIDE_LIMB, 0.0)
    return pointing.offset_position(view.ra, view.dec, radius * np.sin(angle), radius * np.cos(angle))


def simulate_exposure(
    root: Path, instrument: Instrument, settings: Settings, exposure: Exposure, scene: Scene, total_exposures: int
) -> Path:
    """Simulate one exposure.

    Parameters
    ----------
    root
        Gets `stage0/<name>_uncal.fits`, `truth/<name>.json` and `truth/<name>.npz`.
    instrument, settings, exposure
        What to observe, and with what.
    scene
        The truth.
    total_exposures
        Of the visit, for the header.

    Returns
    -------
    Path
        The uncal file.
    """
    import spiceypy as spice

    from simulate.kernels import furnish

    setup = instrument.setup(settings, exposure)
    samples = setup.samples
    with furnish(scene.kernels):
        et = float(spice.str2et(exposure_times(settings, exposure)[1].isot))
        ephemeris = Ephemeris.at(et)
    aim = aim_exposure(settings, exposure, scene.snapshot(et), ephemeris)
    random = np.random.default_rng([settings.seed, *_numbers(settings.mode, exposure)])
    radiance = setup.background(samples.wavelength)
    view = scene.snapshot(et)
    if exposure.role == "science" and samples.rows.size:
        view = _view_of_field(scene, et, samples, aim, instrument.fwhm)
        radiance = radiance + view.radiance(*aim.sky(samples.v2, samples.v3), samples.wavelength, width=samples.width)
    seen = np.zeros(setup.shape)
    seen[samples.rows, samples.columns] = samples.coverage * (samples.weights @ radiance)
    rate = setup.count_rate(seen, exposure.role)
    ramp = setup.make_ramp(rate, settings, random)
    path = root / "stage0" / f"{exposure.name}_uncal.fits"
    write_uncal(path, ramp, exposure_metadata(settings, exposure, aim.header, ephemeris, total_exposures))
    _write_truth(root / "truth", exposure, aim, view, ramp, setup, {"rate": rate, "radiance": seen})
    return path


def _numbers(mode, exposure: Exposure) -> tuple[int, ...]:
    """What makes the noise of an exposure its own."""
    detectors = tuple(mode.detectors.values())
    setting = (
        ROLES.index(exposure.role),
        detectors.index(exposure.detector),
        mode.configurations.index(exposure.configuration),
    )
    return (*setting, exposure.dither)


def _view_of_field(
    scene: Scene, et: float, samples: Samples, aim: Aim, fwhm: Callable[[np.ndarray], np.ndarray]
) -> Snapshot:
    """The scene as far as this exposure's field reaches."""
    v2, v3 = aim.header.aberration.correct(samples.v2, samples.v3)
    middle_v2, middle_v3 = (v2.min() + v2.max()) / 2, (v3.min() + v3.max()) / 2
    half_width = float(np.hypot(v2 - middle_v2, v3 - middle_v3).max()) + 0.1
    ra, dec = pointing.v2v3_to_sky(middle_v2, middle_v3, aim.attitude)
    limits = (float(samples.wavelength.min()), float(samples.wavelength.max()))
    return scene.snapshot(et, fwhm=fwhm, wavelength_range=limits, field=(float(ra), float(dec), half_width))


def _write_truth(
    directory: Path,
    exposure: Exposure,
    aim: Aim,
    view: Snapshot,
    ramp: np.ndarray,
    setup: DetectorSetup,
    images: Mapping[str, np.ndarray],
) -> None:
    """Write what went in.

    `<name>.json`: pointing and geometry. `<name>.npz`: images of shape (rows, columns): `rate` [DN/s] without dark
    current and noise, `radiance` [MJy/sr] before the instrument's response, and what the detector's setup adds.
    """
    header = aim.header
    facts: dict[str, Any] = {
        "file": f"stage0/{exposure.name}_uncal.fits",
        "role": exposure.role,
        "detector": exposure.detector,
        **setup.describe(),
        "dither": exposure.dither,
        "scene": view.describe(),
        "ra_ref": aim.true_ra_ref,
        "dec_ref": aim.true_dec_ref,
        "roll_ref": header.roll_ref,
        "header_ra_ref": header.ra_ref,
        "header_dec_ref": header.dec_ref,
        "x_offset": header.x_offset,
        "y_offset": header.y_offset,
        "velocity_aberration_scale": header.aberration.scale,
        "velosys": header.velosys,
        "saturated_fraction": [round(float((group >= setup.saturation).mean()), 6) for group in ramp],
    }
    directory.mkdir(parents=True, exist_ok=True)
    with written_whole(directory / f"{exposure.name}.json") as temporary:
        temporary.write_text(json.dumps(facts, indent=2) + "\n")
    arrays = {
        name: array if array.dtype.kind == "i" else array.astype(np.float32)
        for name, array in (images | dict(setup.truth())).items()
    }
    with written_whole(directory / f"{exposure.name}.npz") as temporary:
        np.savez_compressed(temporary, **arrays)
