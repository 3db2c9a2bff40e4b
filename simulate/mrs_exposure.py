"""One simulated MRS exposure: from the scene at its time to the ramp on disk and the truth beside it.

The telescope aims at a place that moves with the target, offset by the dither, and the header says so. With a pointing
error (east, north) it really points elsewhere, such that the header's RA and Dec read too high by (east / cos Dec,
north). Each pixel integrates the scene over its own width and the width of its slice; the telescope's own glow and
zodiacal light come on top.
"""

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from files import written_whole
from simulate import mrs_detector, pointing
from simulate.headers import Ephemeris, ExposurePointing, exposure_metadata, exposure_times
from simulate.mrs_calibration import Calibration, build_calibration
from simulate.mrs_optics import BANDS, Optics, Samples, get_optics, sample_pixels
from simulate.mrs_plan import DETECTOR_OF_NAME, Exposure, Settings
from simulate.scene import Scene
from simulate.snapshot import Snapshot
from simulate.uncal import write_uncal

AMPLITUDE = 6000.0  # of the default scene [MJy/sr]: the brightest 1 % of five groups saturate in the last
BACKGROUND_OFFSET = 180.0  # how far north of the target the background is taken [arcsec]
SMALL_BODY = 5.0  # a disc below this diameter fits into the field, and is put into its middle [arcsec]
INSIDE_LIMB = 0.3  # how far inside the limb the field's middle lies, so that more disc than sky is seen [arcsec]


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


def background_radiance(wavelength: np.ndarray) -> np.ndarray:
    """Zodiacal light and the telescope's own glow [MJy/sr] at wavelengths [um].

    Grey bodies of 270 K (dilution 1e-7) and 46 K (emissivity 0.05): some 20 MJy/sr at 10 um, 100 at 20, 800 at 28
    (Rigby et al. 2023, PASP 135, 048002).
    """

    def planck(temperature: float) -> np.ndarray:
        # h c / k = 14387.77 um K; 2 h c / (1 um)^3 = 3.97289e13 MJy/sr
        return 3.97289e13 / wavelength**3 / np.expm1(14387.77 / wavelength / temperature)

    return 1e-7 * planck(270.0) + 0.05 * planck(46.0)


@lru_cache(maxsize=1)
def setting_of(
    detector: str, band: str, geometry: Path | None, stripes: float, residual_fringes: float
) -> tuple[Optics, Calibration, Samples]:
    """Optics, calibration and pixel samples of a setting; kept for the next exposure of the same."""
    optics = get_optics(detector, band, geometry)
    return optics, build_calibration(optics, stripes, residual_fringes), sample_pixels(optics)


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
    ra, dec = field_centre(settings, view)
    if exposure.role != "science":
        ra, dec = pointing.offset_position(view.ra, view.dec, 0.0, BACKGROUND_OFFSET)
    x, y = pointing.DITHERS[exposure.dither - 1]
    v2, v3 = pointing.ideal_to_v2v3(x, y)
    aberration = pointing.velocity_aberration(ra, dec, ephemeris.velocity)
    ra_ref, dec_ref = pointing.aim(*aberration.correct(v2, v3), ra, dec, settings.roll)
    east, north = settings.pointing_error
    # The header reads what was asked for; the error moves where the telescope really points the other way.
    true_ra, true_dec = pointing.misread(ra_ref, dec_ref, -east, -north)
    header = ExposurePointing(ra_ref, dec_ref, settings.roll, view.ra, view.dec, x, y, aberration, view.velosys)
    attitude = pointing.attitude_matrix(pointing.MRS_V2_REF, pointing.MRS_V3_REF, true_ra, true_dec, settings.roll)
    return Aim(header, attitude, true_ra, true_dec)


def field_centre(settings: Settings, view: Snapshot) -> tuple[float, float]:
    """RA and Dec [deg] of the place on or near the target that is put into the middle of the field."""
    field = settings.field
    if field is None:
        field = "limb" if view.describe()["equatorial_diameter_arcsec"] > SMALL_BODY else "centre"
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


def simulate_exposure(root: Path, settings: Settings, exposure: Exposure, scene: Scene, total_exposures: int) -> Path:
    """Simulate one exposure.

    Parameters
    ----------
    root
        Gets `stage0/<name>_uncal.fits`, `truth/<name>.json` and `truth/<name>.npz`.
    settings, exposure
        What to observe.
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

    setting = (exposure.detector, exposure.band, settings.geometry, settings.stripes, settings.residual_fringes)
    optics, calibration, samples = setting_of(*setting)
    middle = exposure_times(settings, exposure)[1]
    with furnish(scene.kernels):
        et = float(spice.str2et(middle.isot))
        ephemeris = Ephemeris.at(et)
    aim = aim_exposure(settings, exposure, scene.snapshot(et), ephemeris)
    random = np.random.default_rng([settings.seed, *_numbers(exposure)])
    radiance = background_radiance(samples.wavelength)
    if exposure.role == "science":
        view = _view_of_field(scene, et, samples, aim)
        radiance = radiance + _scene_radiance(view, samples, aim)
    else:
        view = scene.snapshot(et)
    seen = np.zeros(mrs_detector.SHAPE)
    seen[samples.rows, samples.columns] = samples.weights @ radiance
    rate = seen * calibration.known_response * calibration.unknown_response
    noise, cosmic_rays = settings.noise, settings.cosmic_rays and settings.noise
    ramp = mrs_detector.make_ramp(
        rate, exposure.detector, settings.groups, random, noise=noise, cosmic_rays=cosmic_rays
    )
    path = root / "stage0" / f"{exposure.name}_uncal.fits"
    write_uncal(path, ramp, exposure_metadata(settings, exposure, aim.header, ephemeris, total_exposures))
    _write_truth(root / "truth", exposure, aim, view, ramp, optics, calibration, rate, seen)
    return path


def _numbers(exposure: Exposure) -> tuple[int, ...]:
    """What makes the noise of an exposure its own."""
    roles, detectors = ("science", "background", "leakcal"), tuple(DETECTOR_OF_NAME.values())
    setting = (roles.index(exposure.role), detectors.index(exposure.detector), BANDS.index(exposure.band))
    return (*setting, exposure.dither)


def _view_of_field(scene: Scene, et: float, samples: Samples, aim: Aim) -> Snapshot:
    """The scene as far as this exposure's field reaches."""
    v2, v3 = aim.header.aberration.correct(samples.v2, samples.v3)
    middle_v2, middle_v3 = (v2.min() + v2.max()) / 2, (v3.min() + v3.max()) / 2
    half_width = float(np.hypot(v2 - middle_v2, v3 - middle_v3).max()) + 0.1
    ra, dec = pointing.v2v3_to_sky(middle_v2, middle_v3, aim.attitude)
    limits = (float(samples.wavelength.min()), float(samples.wavelength.max()))
    return scene.snapshot(et, wavelength_range=limits, field=(float(ra), float(dec), half_width))


def _scene_radiance(view: Snapshot, samples: Samples, aim: Aim) -> np.ndarray:
    v2, v3 = aim.header.aberration.correct(samples.v2, samples.v3)
    ra, dec = pointing.v2v3_to_sky(v2, v3, aim.attitude)
    return view.radiance(ra, dec, samples.wavelength)


def _write_truth(
    directory: Path,
    exposure: Exposure,
    aim: Aim,
    view: Snapshot,
    ramp: np.ndarray,
    optics: Optics,
    calibration: Calibration,
    rate: np.ndarray,
    radiance: np.ndarray,
) -> None:
    """Write what went in.

    `<name>.json`: pointing and geometry. `<name>.npz`: images of shape (rows, columns), float32: `rate` [DN/s] without
    dark current and noise, `radiance` [MJy/sr] before the instrument's response, `wavelength` [um, topocentric],
    `stripes` and `residual_fringes` (relative response), `regions` (slice number, int16), `warm_pixels` [DN/s].
    """
    header = aim.header
    facts: dict[str, Any] = {
        "file": f"stage0/{exposure.name}_uncal.fits",
        "role": exposure.role,
        "detector": exposure.detector,
        "band": exposure.band,
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
        "saturated_fraction": [round(float((group >= mrs_detector.SATURATION).mean()), 6) for group in ramp],
    }
    directory.mkdir(parents=True, exist_ok=True)
    with written_whole(directory / f"{exposure.name}.json") as temporary:
        temporary.write_text(json.dumps(facts, indent=2) + "\n")
    defects = mrs_detector.get_defects(exposure.detector)
    warm = np.zeros(mrs_detector.SHAPE)
    warm.flat[defects.warm] = defects.extra_rate.flat[defects.warm]
    images = {
        "rate": rate,
        "radiance": radiance,
        "wavelength": calibration.wavelength,
        "stripes": calibration.stripes,
        "residual_fringes": calibration.residual_fringes,
        "warm_pixels": warm,
    }
    arrays = {name: array.astype(np.float32) for name, array in images.items()}
    with written_whole(directory / f"{exposure.name}.npz") as temporary:
        np.savez_compressed(temporary, regions=optics.regions[0].astype(np.int16), **arrays)
