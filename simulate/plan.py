"""What is observed when: the settings of a simulated observation and the list of its exposures.

A visit takes each configuration of the instrument (a grating setting) in turn with all its dithers, all detectors at
once, as the instruments do. Backgrounds are an observation of their own, a few arcminutes off the target; leakcal
exposures close the visit.
"""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from errors import InputError, OptionError
from simulate.pointing import Aperture

PROGRAM, OBSERVATION, BACKGROUND_OBSERVATION, VISIT = "01247", "330", "331", "001"
FIELDS = ("limb", "centre", "disc", "south", "east", "west", "rings")
ROLES = ("science", "background", "leakcal")
MAXIMUM_GROUPS = 200
BACKGROUND_DITHERS = 2
# Telescope and instrument need time to move, and the planet rotates meanwhile [s].
DITHER_TIME, CONFIGURATION_TIME, OBSERVATION_TIME = 240.0, 400.0, 3600.0


@dataclass(frozen=True)
class Mode:
    """What a simulated observation needs to know of an instrument's mode before anything is computed.

    Attributes
    ----------
    instrument, label, template, exposure_type
        'MIRI', 'MRS' and as in the headers' TEMPLATE and EXP_TYPE.
    aperture
        That the headers refer to.
    dithers
        Offsets in the aperture's ideal frame [arcsec], in their order; one for each position of the pattern.
    frame_time
        Between two reads of the detector [s].
    detectors
        Name in `Settings.detectors` to name in the header.
    configurations
        All that the instrument has: ('SHORT',) or ('G395M', 'F290LP').
    field
        Diameter of the largest disc that fits into the field with some sky around it [arcsec].
    leakcal_dithers
        Whether each dither has its own leakcal exposure; otherwise one serves all.
    lists
        Names of the settings that are lists of names.
    """

    instrument: str
    label: str
    template: str
    exposure_type: str
    aperture: Aperture
    dithers: tuple[tuple[float, float], ...]
    frame_time: float
    detectors: Mapping[str, str]
    configurations: tuple[tuple[str, ...], ...]
    field: float
    leakcal_dithers: bool
    lists: tuple[str, ...]


@dataclass(frozen=True)
class Settings(ABC):
    """Everything that decides what a simulated observation looks like; each instrument adds its own.

    Attributes
    ----------
    target
        Name of a body of `simulate.bodies`.
    start
        UTC of the first exposure.
    detectors
        Of those that the instrument has.
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
        Brightness of the target in units of the instrument's default.
    noise, cosmic_rays
        Whether there are any.
    seed
        Of the scene and of all noise.
    geometry, kernels
        Directories of real reference files of the instrument's geometry and of SPICE kernels to use instead of our own.
    """

    mode: ClassVar[Mode]

    target: str = "saturn"
    start: str = "2022-11-13T10:00:00"
    detectors: tuple[str, ...] = ()
    dithers: int = 4
    groups: int = 5
    field: str | None = None
    roll: float = 72.0
    pointing_error: tuple[float, float] = (0.0, 0.0)
    background: bool = False
    leakcal: bool = False
    scale: float = 1.0
    noise: bool = True
    cosmic_rays: bool = True
    seed: int = 1
    geometry: Path | None = None
    kernels: Path | None = None

    @abstractmethod
    def configurations(self) -> list[tuple[str, ...]]:
        """The configurations of the instrument in the order in which they are taken."""

    @abstractmethod
    def check(self) -> None:
        """Refuse what this instrument cannot do.

        Raises
        ------
        OptionError
        """

    @abstractmethod
    def instrument_metadata(self, exposure: "Exposure") -> dict[str, Any]:
        """Header values that differ between the instruments, by their place in the data model."""

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
    detector
        As in the header.
    configuration
        Of the instrument, as in the header: ('SHORT',) or ('G395M', 'F290LP').
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
    configuration: tuple[str, ...]
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


AnySettings = TypeVar("AnySettings", bound=Settings)


def make_settings(kind: type[AnySettings], **values: Any) -> AnySettings:
    """Settings of an instrument from loosely typed values, checked.

    Raises
    ------
    InputError
        If a name or value is not possible.
    """
    from astropy.time import Time

    known = {item.name for item in fields(kind)}
    for name in values:
        if name not in known:
            raise OptionError(f"{name!r} is not a setting: the settings are {', '.join(sorted(known))}.")
    for name in kind.mode.lists:
        if name in values:
            given = values[name]
            parts = given.split(",") if isinstance(given, str) else given
            values[name] = tuple(part.strip().lower() for part in parts if part.strip())
    for name in ("geometry", "kernels"):
        if values.get(name) is not None:
            values[name] = Path(values[name]).expanduser().resolve()
    if "pointing_error" in values:
        values["pointing_error"] = tuple(float(part) for part in values["pointing_error"])
        if len(values["pointing_error"]) != 2:
            raise OptionError("--pointing_error needs two numbers, east and north in arcsec: '0.35,-0.2'.")
    settings = kind(**values)
    try:
        with warnings.catch_warnings():
            # ERFA warns of years without leap seconds; those that matter are refused below.
            warnings.simplefilter("ignore")
            start = Time(settings.start, scale="utc")
    except ValueError as error:
        raise OptionError(f"--start {settings.start!r} is not a date: write it like '2022-11-13T10:00:00'.") from error
    if not 1990 < start.jyear < 2050:
        raise OptionError(f"--start {settings.start!r} must lie in 1990-2050.")
    _check_settings(settings)
    settings.check()
    return settings


def _check_settings(settings: Settings) -> None:
    """Refuse settings that no instrument can simulate, in one sentence that says what is possible."""
    from simulate.bodies import BODIES

    if settings.target.strip().lower() not in BODIES:
        raise OptionError(f"--target {settings.target!r} is not known: take one of {', '.join(BODIES)}.")
    check_names("--detectors", settings.detectors, tuple(settings.mode.detectors))
    if settings.field is not None:
        check_names("--field", (settings.field,), FIELDS)
    if settings.field == "rings" and settings.target.strip().lower() != "saturn":
        raise OptionError(f"--field 'rings' needs --target saturn: {settings.target!r} has none here.")
    if not 1 <= settings.dithers <= len(settings.mode.dithers):
        raise OptionError(f"--dithers {settings.dithers} must lie in 1-{len(settings.mode.dithers)}.")
    if not 1 <= settings.groups <= MAXIMUM_GROUPS:
        raise OptionError(f"--groups {settings.groups} must lie in 1-{MAXIMUM_GROUPS}.")
    if settings.seed < 0:
        raise OptionError(f"--seed {settings.seed} must not be negative.")
    if not settings.scale > 0:
        raise OptionError(f"--scale {settings.scale:g} must be above zero.")
    for name in ("geometry", "kernels"):
        directory = getattr(settings, name)
        if directory is not None and not directory.is_dir():
            raise InputError(f"--{name} {directory} is not a directory: name one that exists.")


def check_names(option: str, given: tuple[str, ...], known: tuple[str, ...]) -> None:
    """Refuse a list of names that is empty, has an unknown name, or one of them twice.

    Raises
    ------
    OptionError
    """
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
        start = exposures[-1].delay + CONFIGURATION_TIME + _ramp_time(settings)
        exposures += _visit(settings, "leakcal", settings.dithers if settings.mode.leakcal_dithers else 1, start)
    if settings.background:
        start = exposures[-1].delay + OBSERVATION_TIME
        exposures += _visit(settings, "background", BACKGROUND_DITHERS, start)
    return exposures


def _ramp_time(settings: Settings) -> float:
    return settings.groups * settings.mode.frame_time


def _visit(settings: Settings, role: str, dithers: int, delay: float) -> Iterator[Exposure]:
    # The activity tells the configuration; leakcals are the second activity of each.
    sequence = "102" if role == "leakcal" else "101"
    for number, configuration in enumerate(settings.configurations(), start=1):
        for dither in range(1, dithers + 1):
            for detector in settings.detectors:
                group = f"{2 * number:02d}"
                name = settings.mode.detectors[detector]
                yield Exposure(role, name, configuration, dither, delay, group + sequence, dither)
            delay += DITHER_TIME + _ramp_time(settings)
        delay += CONFIGURATION_TIME
