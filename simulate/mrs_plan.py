"""What is observed when: the settings of a simulated MRS observation and the list of its exposures.

A visit takes each grating setting in turn with all its dithers, both detectors at once, as the instrument does.
Backgrounds are an observation of their own, a few arcminutes off the target; leakcal exposures close the visit.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from errors import InputError, OptionError
from simulate.mrs_detector import FRAME_TIME
from simulate.mrs_optics import BANDS
from simulate.pointing import DITHERS

PROGRAM, OBSERVATION, BACKGROUND_OBSERVATION, VISIT = "01247", "330", "331", "001"
DETECTOR_OF_NAME = {"short": "MIRIFUSHORT", "long": "MIRIFULONG"}
FIELDS = ("limb", "centre", "disc", "south", "east", "west", "rings")
MAXIMUM_GROUPS = 200
BACKGROUND_DITHERS = 2
# Telescope and instrument need time to move, and the planet rotates meanwhile [s].
DITHER_TIME, BAND_TIME, OBSERVATION_TIME = 240.0, 400.0, 3600.0


@dataclass(frozen=True)
class Settings:
    """Everything that decides what a simulated observation looks like.

    Attributes
    ----------
    target
        Name of a body of `simulate.bodies`.
    start
        UTC of the first exposure.
    bands, detectors
        Of 'short', 'medium', 'long'; of 'short' (channels 1 and 2), 'long' (3 and 4).
    dithers, groups
        Number of dither positions and of groups of each ramp.
    field
        What is in the middle of the field: the northern 'limb', the 'centre', the 'disc' half-way between the two, the
        'south', 'east' or 'west' limb, or the 'rings'. None: the limb of a planet, the centre of a small body.
    roll
        Position angle of V3 at the aperture [deg].
    pointing_error
        By how much the headers read too high on the sky (east, north) [arcsec].
    background, leakcal
        Whether to add these exposures.
    scale
        Brightness of the target in units of the default (6000 MJy/sr).
    stripes, residual_fringes
        Rms of the flat-field stripes and amplitude of the fringes that no reference file knows.
    noise, cosmic_rays
        Whether there are any.
    seed
        Of the scene and of all noise.
    geometry, kernels
        Directories of real MRS reference files and SPICE kernels to use instead of our own.
    """

    target: str = "saturn"
    start: str = "2022-11-13T10:00:00"
    bands: tuple[str, ...] = ("short",)
    detectors: tuple[str, ...] = ("short",)
    dithers: int = 4
    groups: int = 5
    field: str | None = None
    roll: float = 72.0
    pointing_error: tuple[float, float] = (0.0, 0.0)
    background: bool = False
    leakcal: bool = False
    scale: float = 1.0
    stripes: float = 0.02
    residual_fringes: float = 0.02
    noise: bool = True
    cosmic_rays: bool = True
    seed: int = 1
    geometry: Path | None = None
    kernels: Path | None = None

    def describe(self) -> dict[str, Any]:
        """The settings, ready for JSON."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return {
            name: str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
        }


@dataclass(frozen=True)
class Exposure:
    """One exposure of one detector.

    Attributes
    ----------
    role
        'science', 'background' or 'leakcal'.
    detector, band
        As in the header: 'MIRIFUSHORT', 'SHORT'.
    dither
        Position in the dither pattern, from 1.
    delay
        Start after the observation's start [s].
    activity
        Visit group, sequence and activity as in the file name: '02101'.
    number
        Exposure number, from 1.
    """

    role: str
    detector: str
    band: str
    dither: int
    delay: float
    activity: str
    number: int

    @property
    def observation(self) -> str:
        """Observation number; that of the backgrounds differs."""
        return BACKGROUND_OBSERVATION if self.role == "background" else OBSERVATION

    @property
    def name(self) -> str:
        """File name without `_uncal.fits`."""
        return f"jw{PROGRAM}{self.observation}{VISIT}_{self.activity}_{self.number:05d}_{self.detector.lower()}"


def check_settings(settings: Settings) -> None:
    """Refuse settings that cannot be simulated.

    Raises
    ------
    InputError
        One sentence that names the setting, the value and what is possible.
    """
    from simulate.bodies import BODIES

    if settings.target.strip().lower() not in BODIES:
        raise OptionError(f"--target {settings.target!r} is not known: take one of {', '.join(BODIES)}.")
    _check_names("--bands", settings.bands, tuple(band.lower() for band in BANDS))
    _check_names("--detectors", settings.detectors, tuple(DETECTOR_OF_NAME))
    if settings.field is not None:
        _check_names("--field", (settings.field,), FIELDS)
    if settings.field == "rings" and settings.target.strip().lower() != "saturn":
        raise OptionError(f"--field 'rings' needs --target saturn: {settings.target!r} has none here.")
    if not 1 <= settings.dithers <= len(DITHERS):
        raise OptionError(f"--dithers {settings.dithers} must lie in 1-{len(DITHERS)}.")
    if not 1 <= settings.groups <= MAXIMUM_GROUPS:
        raise OptionError(f"--groups {settings.groups} must lie in 1-{MAXIMUM_GROUPS}.")
    if settings.seed < 0:
        raise OptionError(f"--seed {settings.seed} must not be negative.")
    if not settings.scale > 0:
        raise OptionError(f"--scale {settings.scale:g} must be above zero.")
    for name in ("stripes", "residual_fringes"):
        if not 0 <= getattr(settings, name) < 0.3:
            raise OptionError(f"--{name} {getattr(settings, name):g} must lie in 0-0.3.")
    for name in ("geometry", "kernels"):
        directory = getattr(settings, name)
        if directory is not None and not directory.is_dir():
            raise InputError(f"--{name} {directory} is not a directory: name one that exists.")


def _check_names(option: str, given: tuple[str, ...], known: tuple[str, ...]) -> None:
    if not given:
        raise OptionError(f"{option} is empty: name one or more of {', '.join(known)}.")
    for name in given:
        if name not in known:
            raise OptionError(f"{option} {name!r} is not known: take {', '.join(known)}.")
    if len(set(given)) < len(given):
        raise OptionError(f"{option} {','.join(given)!r} names one of them twice.")


def plan_exposures(settings: Settings) -> list[Exposure]:
    """The exposures of an observation in the order of time."""
    exposures = list(_visit(settings, "science", settings.dithers, 0.0))
    if settings.leakcal:
        exposures += _visit(settings, "leakcal", 1, exposures[-1].delay + BAND_TIME + _ramp_time(settings))
    if settings.background:
        start = exposures[-1].delay + OBSERVATION_TIME
        exposures += _visit(settings, "background", BACKGROUND_DITHERS, start)
    return exposures


def _ramp_time(settings: Settings) -> float:
    return settings.groups * FRAME_TIME


def _visit(settings: Settings, role: str, dithers: int, delay: float) -> Iterator[Exposure]:
    # The activity tells the grating setting; leakcals are the second activity of each.
    sequence = "102" if role == "leakcal" else "101"
    ordered = [band for band in BANDS if band.lower() in settings.bands]
    for number, band in enumerate(ordered, start=1):
        for dither in range(1, dithers + 1):
            for detector in settings.detectors:
                group = f"{2 * number:02d}"
                yield Exposure(role, DETECTOR_OF_NAME[detector], band, dither, delay, group + sequence, dither)
            delay += DITHER_TIME + _ramp_time(settings)
        delay += BAND_TIME
