"""The settings of a simulated MRS observation, and what its headers say of the instrument."""

from dataclasses import dataclass
from typing import Any, ClassVar

from errors import OptionError
from simulate.mrs_detector import FRAME_TIME
from simulate.mrs_optics import BANDS, CHANNELS_OF_DETECTOR, NUMBER_OF_COLUMNS, NUMBER_OF_ROWS
from simulate.plan import Exposure, Mode, Settings, check_names
from simulate.pointing import MRS_APERTURE

SCA_NUMBER = {"MIRIFULONG": 494, "MIRIFUSHORT": 495}

# Dither offsets in the aperture's ideal frame [arcsec]: x along the slices, y across them. The first four are an
# extended-source pattern like that of the instrument: 0.974 arcsec across the slices is a half-integer number of slices
# in every channel (11/2, 7/2, 5/2, 3/2), 0.49 arcsec a half-integer number of pixels in channels 1 and 2. The small
# extra steps keep two pairs from repeating the same two rows; the last four halve the steps once more.
DITHERS = (
    (-0.245, -0.487),
    (0.245, 0.487),
    (0.255, -0.447),
    (-0.235, 0.527),
    (-0.375, -0.223),
    (0.375, 0.223),
    (0.355, -0.263),
    (-0.345, 0.263),
)

MODE = Mode(
    instrument="MIRI",
    label="MRS",
    template="MIRI Medium Resolution Spectroscopy",
    exposure_type="MIR_MRS",
    aperture=MRS_APERTURE,
    dithers=DITHERS,
    frame_time=FRAME_TIME,
    detectors={"short": "MIRIFUSHORT", "long": "MIRIFULONG"},
    configurations=tuple((band,) for band in BANDS),
    field=5.0,
    leakcal_dithers=False,
    lists=("bands", "detectors"),
)


@dataclass(frozen=True)
class MrsSettings(Settings):
    """Everything that decides what a simulated MRS observation looks like; see `simulate.plan.Settings`.

    Attributes
    ----------
    bands, detectors
        Of 'short', 'medium', 'long'; of 'short' (channels 1 and 2), 'long' (3 and 4).
    stripes, residual_fringes
        Rms of the flat-field stripes and amplitude of the fringes that no reference file knows.
    """

    mode: ClassVar[Mode] = MODE

    detectors: tuple[str, ...] = ("short",)
    bands: tuple[str, ...] = ("short",)
    stripes: float = 0.02
    residual_fringes: float = 0.02

    def configurations(self) -> list[tuple[str, ...]]:
        """The bands, in the order of their wavelengths."""
        return [(band,) for band in BANDS if band.lower() in self.bands]

    def check(self) -> None:
        """Refuse what the MRS cannot do.

        Raises
        ------
        OptionError
        """
        check_names("--bands", self.bands, tuple(band.lower() for band in BANDS))
        for name in ("stripes", "residual_fringes"):
            if not 0 <= getattr(self, name) < 0.3:
                raise OptionError(f"--{name} {getattr(self, name):g} must lie in 0-0.3.")

    def instrument_metadata(self, exposure: Exposure) -> dict[str, Any]:
        """Header values that differ between the instruments, by their place in the data model."""
        return {
            "meta.instrument.channel": "".join(str(channel) for channel in CHANNELS_OF_DETECTOR[exposure.detector]),
            "meta.instrument.band": exposure.configuration[0],
            "meta.instrument.ccc_state": "OPEN",
            "meta.instrument.miri_fpe_side": "A",
            "meta.instrument.miri_ice_side": "A",
            "meta.exposure.readpatt": "FASTR1",
            "meta.exposure.noutputs": 5,
            "meta.exposure.miri_fsw_ngroups": self.groups,
            "meta.exposure.miri_fsw_nframes": 1,
            "meta.exposure.detmode": "EXPOSURE",
            "meta.exposure.nresets_between_ints": 0,
            "meta.exposure.sca_num": SCA_NUMBER[exposure.detector],
            "meta.exposure.datamode": 101,
            "meta.subarray.xsize": NUMBER_OF_COLUMNS,
            "meta.subarray.ysize": NUMBER_OF_ROWS,
            "meta.subarray.detxsiz": NUMBER_OF_COLUMNS,
            "meta.subarray.detysiz": NUMBER_OF_ROWS,
            "meta.subarray.detxcor": 1,
            "meta.subarray.detycor": 1,
            "meta.subarray.fastaxis": 1,
            "meta.subarray.slowaxis": 2,
            "meta.dither.primary_type": "4-POINT",
            "meta.dither.direction": "NEGATIVE",
            "meta.dither.optimized_for": "EXTENDED-SOURCE",
            "meta.dither.primary_channel": "ALL",
        }
