"""The settings of a simulated NIRSpec IFU observation, and what its headers say of the instrument."""

from dataclasses import dataclass
from typing import Any, ClassVar

from errors import OptionError
from simulate.nirspec_detector import (
    DETECTORS,
    FRAME_TIME,
    NUMBER_OF_COLUMNS,
    NUMBER_OF_OUTPUTS,
    NUMBER_OF_ROWS,
    READ_AXES,
)
from simulate.nirspec_elements import WAVELENGTHS, get_elements
from simulate.plan import Exposure, Mode, Settings, check_names
from simulate.pointing import NRS_APERTURE

SCA_NUMBER = {"NRS1": 491, "NRS2": 492}
GRATINGS = tuple(dict.fromkeys(grating.lower() for grating, _ in WAVELENGTHS))
FILTERS = tuple(dict.fromkeys(filter_name.lower() for _, filter_name in WAVELENGTHS))
DISPERSER_TEMPERATURE = 37.0  # [K]
MAXIMUM_FLICKER = 10.0

# Dither offsets in the aperture's ideal frame [arcsec]: x across the slices, y along them. Steps of the first four are
# half-integers of a slice (0.1034 arcsec) and of a pixel (0.106 arcsec) in most pairs, of the others quarters.
DITHERS = (
    (-0.181, -0.20),
    (0.181, 0.25),
    (0.129, -0.15),
    (-0.129, 0.20),
    (-0.207, -0.07),
    (0.207, 0.12),
    (0.052, -0.28),
    (-0.052, 0.33),
)

MODE = Mode(
    instrument="NIRSPEC",
    label="IFU",
    template="NIRSpec IFU Spectroscopy",
    exposure_type="NRS_IFU",
    aperture=NRS_APERTURE,
    dithers=DITHERS,
    frame_time=FRAME_TIME,
    detectors={name.lower(): name for name in DETECTORS},
    configurations=tuple(WAVELENGTHS),
    field=2.6,
    leakcal_dithers=True,
    lists=("grating", "filter", "detectors"),
)


@dataclass(frozen=True)
class NirspecSettings(Settings):
    """Everything that decides what a simulated NIRSpec IFU observation looks like; see `simulate.plan.Settings`.

    Attributes
    ----------
    grating
        Of 'prism', 'g140m', 'g140h', ...
    filter
        One for each grating, 'f290lp'; empty: the usual one of each.
    detectors
        Of 'nrs1', 'nrs2'.
    flicker
        1/f noise of the detectors, in units of the usual.
    """

    mode: ClassVar[Mode] = MODE

    target: str = "neptune"
    detectors: tuple[str, ...] = ("nrs1",)
    grating: tuple[str, ...] = ("g395m",)
    filter: tuple[str, ...] = ()
    flicker: float = 1.0

    def configurations(self) -> list[tuple[str, ...]]:
        """Pairs of grating and filter, in the order in which they were named."""
        usual: dict[str, str] = {}
        for grating, filter_name in WAVELENGTHS:
            usual.setdefault(grating, filter_name)
        gratings = [name.upper() for name in self.grating]
        filters = [name.upper() for name in self.filter] or [usual[grating] for grating in gratings]
        return list(zip(gratings, filters, strict=True))

    def check(self) -> None:
        """Refuse what the instrument cannot do.

        Raises
        ------
        OptionError
        """
        for option, given, known in (("--grating", self.grating, GRATINGS), ("--filter", self.filter, FILTERS)):
            # A grating may be used with several filters, and the other way round.
            if given or option == "--grating":
                check_names(option, tuple(dict.fromkeys(given)), known)
        if self.filter and len(self.filter) != len(self.grating):
            raise OptionError(
                f"--filter {','.join(self.filter)!r} and --grating {','.join(self.grating)!r} differ in number: "
                "name one filter for each grating."
            )
        pairs = self.configurations()
        for grating, filter_name in pairs:
            if (grating, filter_name) not in WAVELENGTHS:
                possible = ", ".join(name.lower() for of, name in WAVELENGTHS if of == grating)
                raise OptionError(
                    f"--filter {filter_name.lower()!r} is not used with {grating.lower()}: take {possible}."
                )
        if len(set(pairs)) < len(pairs):
            raise OptionError(f"--grating {','.join(self.grating)!r} names one of them twice.")
        if not 0 <= self.flicker <= MAXIMUM_FLICKER:
            raise OptionError(f"--flicker {self.flicker:g} must lie in 0-{MAXIMUM_FLICKER:g}.")

    def instrument_metadata(self, exposure: Exposure) -> dict[str, Any]:
        """Header values that differ between the instruments, by their place in the data model."""
        grating, filter_name = exposure.configuration
        disperser = get_elements(grating, filter_name, self.geometry).contents["disperser"]
        # The wheel came back to where it was when the angles of its mounts were measured.
        x_tilt, y_tilt = (float(disperser[f"gwa_tilt{axis}"]["zeroreadings"][0]) for axis in "xy")
        fast, slow = READ_AXES[exposure.detector]
        return {
            "meta.instrument.grating": grating,
            "meta.instrument.filter": filter_name,
            "meta.instrument.focus_position": 3,
            "meta.instrument.lamp_state": "NONE",
            "meta.instrument.lamp_mode": "IFU",
            "meta.instrument.gwa_xtilt": x_tilt,
            "meta.instrument.gwa_ytilt": y_tilt,
            "meta.instrument.gwa_xp_v": 500 * x_tilt,
            "meta.instrument.gwa_yp_v": 500 * y_tilt,
            "meta.instrument.gwa_pxav": 500 * x_tilt,
            "meta.instrument.gwa_pyav": 500 * y_tilt,
            "meta.instrument.gwa_tilt": DISPERSER_TEMPERATURE,
            "meta.exposure.readpatt": "NRSRAPID",
            "meta.exposure.noutputs": NUMBER_OF_OUTPUTS,
            "meta.exposure.nresets_between_ints": 1,
            "meta.exposure.nrs_normal": 2048,
            "meta.exposure.nrs_reference": 0,
            "meta.exposure.sca_num": SCA_NUMBER[exposure.detector],
            "meta.exposure.datamode": 56,
            "meta.subarray.xsize": NUMBER_OF_COLUMNS,
            "meta.subarray.ysize": NUMBER_OF_ROWS,
            "meta.subarray.fastaxis": fast,
            "meta.subarray.slowaxis": slow,
            "meta.dither.primary_type": "4-POINT-DITHER",
        }
