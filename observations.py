"""What the exposures in a data root are: read from their headers, checked, told apart and grouped.

In: the headers of `stage0/*_uncal.fits` (or of what was made from them). Out: `Exposure` records, and their grouping
into science, background and leakcal (imprint) exposures, dithers and mosaic tiles. Nothing is decided by file names.
Keywords as in the JWST keyword dictionary.
"""

import re
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from astropy.io import fits

from errors import DataRootError, FileFormatError

FITS_BLOCK = 2880
_BAND_LETTERS = {"short": "A", "medium": "B", "long": "C"}
# What astropy raises on headers that are none.
UNREADABLE = (OSError, EOFError, ValueError, TypeError, IndexError, KeyError, AttributeError, OverflowError)
UNREADABLE += (MemoryError, fits.VerifyError, UserWarning)
NOT_APPLICABLE = "N/A"
# What identifiers are made of; file and directory names are made of them.
IDENTIFIER = re.compile(r"[A-Z0-9][A-Z0-9_ +-]{0,39}")
LARGEST_COUNT = 9999
# Keywords that tell the setting of an exposure, by INSTRUME and EXP_TYPE.
SETTING_KEYS = {("MIRI", "MIR_MRS"): ("CHANNEL", "BAND"), ("NIRSPEC", "NRS_IFU"): ("FILTER", "GRATING")}


@dataclass(frozen=True)
class Exposure:
    """One exposure of one detector, as its header tells."""

    path: Path
    instrument: str
    detector: str
    exposure_type: str
    channel: str
    band: str
    filter: str
    grating: str
    dither: int
    observation: str
    visit: str
    activity: str
    exposure_number: str
    groups: int
    is_imprint: bool
    is_background: bool
    target: str
    date: str = ""
    start: float | None = None
    sequence: tuple[str, ...] = ()

    @property
    def identity(self) -> tuple | None:
        """What two files share only if they are the same exposure; None where the header does not tell its start."""
        if self.start is None:
            return None
        place = (self.instrument, self.detector, self.observation, self.visit, self.activity, self.exposure_number)
        return (*place, *self.sequence, self.start)

    @property
    def setting(self) -> tuple[str, ...]:
        """What must agree for exposures to be combined: (CHANNEL, BAND) of MIRI, (FILTER, GRATING) of NIRSpec."""
        return (self.channel, self.band) if self.instrument == "MIRI" else (self.filter, self.grating)

    @property
    def mode(self) -> tuple[str, ...]:
        """What a background or leakcal exposure must share with the science exposure it serves."""
        return self.instrument, self.channel, self.band, self.detector, self.filter, self.grating

    @property
    def name(self) -> str:
        """File name without the product suffix: `jw01247330001_02101_00001_mirifushort`."""
        return self.path.name.rpartition("_")[0]


def read_exposure(path: Path) -> Exposure:
    """Read the header of one exposure.

    Raises
    ------
    FileFormatError
        If the file is not FITS, or its header lacks what tells the observing mode or has values that no exposure has.
    """
    try:
        with open(path, "rb") as stream:
            header = fits.Header.fromfile(stream)
        if "SIMPLE" not in header:
            raise OSError("no SIMPLE card")
    except UNREADABLE as error:
        raise FileFormatError(
            f"{path} is not a FITS file ({_first_line(error)}): download it again or remove it."
        ) from error
    missing = [key for key in ("TELESCOP", "INSTRUME", "DETECTOR", "EXP_TYPE", "NGROUPS") if key not in header]
    if missing:
        raise FileFormatError(
            f"{path} is not a JWST exposure (its header lacks {', '.join(missing)}): remove it from the folder."
        )
    cards = _Cards(path, header)
    exposure = Exposure(
        path=path,
        instrument=cards.identifier("INSTRUME"),
        detector=cards.identifier("DETECTOR"),
        exposure_type=cards.identifier("EXP_TYPE"),
        channel=cards.identifier("CHANNEL"),
        band=cards.identifier("BAND"),
        filter=cards.identifier("FILTER"),
        grating=cards.identifier("GRATING"),
        dither=cards.count("PATT_NUM", 1),
        observation=cards.identifier("OBSERVTN"),
        visit=cards.identifier("VISIT"),
        activity=cards.identifier("ACT_ID"),
        exposure_number=cards.identifier("EXPOSURE"),
        groups=cards.count("NGROUPS", 0),
        is_imprint=cards.value("IS_IMPRT") is True,
        is_background=cards.value("BKGDTARG") is True,
        target=str(cards.value("TARGPROP") or cards.value("TARGNAME") or "").strip(),
        date=str(cards.value("DATE-OBS") or "").strip(),
        start=cards.number("EXPSTART"),
        sequence=tuple(cards.identifier(key) for key in ("PROGRAM", "VISITGRP", "SEQ_ID", "EXSEGNUM")),
    )
    keys = SETTING_KEYS.get((exposure.instrument, exposure.exposure_type))
    if keys and NOT_APPLICABLE in exposure.setting:
        raise FileFormatError(f"{path} lacks {' or '.join(keys)} in its header: download it again or remove it.")
    return exposure


def band_label(band: str) -> str:
    """A band in the usual short form.

    Parameters
    ----------
    band
        As in the names of cubes: 'ch1-short' becomes '1A', 'g395h-f290lp' 'G395H/F290LP'.
    """
    first, _, second = band.partition("-")
    if second in _BAND_LETTERS:
        return f"{first.removeprefix('ch')}{_BAND_LETTERS[second]}"
    return band.upper().replace("-", "/")


class _Cards:
    """The cards of a header, whose values are not trusted."""

    def __init__(self, path: Path, header: fits.Header) -> None:
        self._path = path
        self._header = header

    def value(self, key: str) -> str | bool | int | float | None:
        """The value, None where there is none."""
        try:
            value = self._header.get(key)
        except (fits.VerifyError, ValueError) as error:
            raise self._error(key, f"a card that can not be read ({error})") from error
        return None if isinstance(value, fits.card.Undefined) else value

    def identifier(self, key: str) -> str:
        """A word in capitals, 'N/A' where there is none: nothing that could lead out of a directory."""
        value = self.value(key)
        text = str(value).strip().upper() if value not in (None, "") else NOT_APPLICABLE
        if text != NOT_APPLICABLE and not IDENTIFIER.fullmatch(text):
            raise self._error(key, f"{value!r}")
        return text

    def count(self, key: str, default: int) -> int:
        """A small number that is not negative."""
        value = self.value(key)
        value = default if value is None else value
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= LARGEST_COUNT:
            raise self._error(key, f"{value!r}")
        return value

    def number(self, key: str) -> float | None:
        """A number, None where there is none."""
        value = self.value(key)
        return float(value) if isinstance(value, int | float) else None

    def _error(self, key: str, what: str) -> FileFormatError:
        return FileFormatError(
            f"{self._path} has {what} as {key} in its header, which no JWST exposure has: download it again or remove "
            "it."
        )


def check_whole(path: Path, *, checksums: bool = False) -> set[str]:
    """Compare a FITS file's size with what its headers announce.

    Parameters
    ----------
    path
        The file.
    checksums
        Also compare the data with the DATASUM and CHECKSUM cards, where there are any.

    Returns
    -------
    set of str
        Names of its extensions.

    Raises
    ------
    FileFormatError
        If the file is shorter than its headers say, or is otherwise not as they say.
    """
    try:
        size = path.stat().st_size
        # Opened here, since astropy leaves a file that it can't make sense of open.
        with open(path, "rb") as stream, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if checksums:
                warnings.filterwarnings("error", "(Checksum|Datasum) verification failed")
            hdul = fits.open(stream, lazy_load_hdus=False, checksum=checksums, disable_image_compression=True)
            expected = max(info["datLoc"] + info["datSpan"] for info in (hdu.fileinfo() for hdu in hdul))
            names = {hdu.name for hdu in hdul}
    except UNREADABLE as error:
        raise FileFormatError(
            f"{path} is not a readable FITS file ({_first_line(error)}): download it again."
        ) from error
    if size < expected or size % FITS_BLOCK:
        raise FileFormatError(
            f"{path} is truncated ({size} bytes of at least {max(expected, size)}): download it again or remove it."
        )
    return names


def check_complete(path: Path) -> None:
    """Make sure that a raw or calibrated exposure is whole.

    Raises
    ------
    FileFormatError
        As `check_whole`, or if there is no SCI extension.
    """
    if "SCI" not in check_whole(path):
        raise FileFormatError(f"{path} has no SCI extension (it is cut short or is no exposure): download it again.")


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def find_exposures(directory: Path, suffix: str) -> tuple[list[Exposure], list[FileFormatError]]:
    """Read every `*_{suffix}.fits` in a directory.

    Returns
    -------
    exposures : list of Exposure
        In order of their names.
    errors : list of FileFormatError
        One for each file that could not be read.

    Raises
    ------
    DataRootError
        If the directory is missing or holds no such file.
    """
    if not directory.is_dir():
        raise DataRootError(f"{directory} does not exist: put the '*_{suffix}.fits' files there.")
    paths = sorted(directory.glob(f"*_{suffix}.fits"))
    if not paths:
        raise DataRootError(f"{directory} holds no '*_{suffix}.fits' file: download them from MAST.")
    exposures, errors = [], []
    for path in paths:
        try:
            exposures.append(read_exposure(path))
        except FileFormatError as error:
            errors.append(error)
    return exposures, errors


@dataclass(frozen=True)
class ExposureRoles:
    """The exposures of a root by what they are for."""

    science: list[Exposure]
    background: list[Exposure]
    imprint: list[Exposure]
    left_out: list[Exposure]

    @property
    def used(self) -> list[Exposure]:
        """All that are calibrated."""
        return [*self.science, *self.background, *self.imprint]


def sort_by_role(
    exposures: Iterable[Exposure], exposure_type: str, sees_light: Callable[[Exposure], bool] = lambda exposure: True
) -> ExposureRoles:
    """Tell science, dedicated background (BKGDTARG) and leakcal (IS_IMPRT) exposures apart.

    Exposures of another type than `exposure_type` (target acquisition, simultaneous imaging), and those of detectors
    that their setting's light does not reach, are left out.
    """
    roles = ExposureRoles([], [], [], [])
    for exposure in exposures:
        if exposure.exposure_type != exposure_type or not sees_light(exposure):
            roles.left_out.append(exposure)
        elif exposure.is_imprint:
            roles.imprint.append(exposure)
        elif exposure.is_background:
            roles.background.append(exposure)
        else:
            roles.science.append(exposure)
    return roles


def tile_labels(exposures: Sequence[Exposure]) -> dict[Exposure, str]:
    """The mosaic tile each exposure belongs to: '' where its setting has only one tile, else 'o330v001a01'.

    Within one setting, exposures of different observations or visits are different tiles; where one visit has the same
    dither position of the same detector more than once under different activities, so are the activities.
    """
    by_visit = defaultdict(list)
    for exposure in exposures:
        by_visit[exposure.setting, exposure.observation, exposure.visit].append(exposure)
    tiles: dict[Exposure, str] = {}
    for (_, observation, visit), members in by_visit.items():
        activities = defaultdict(set)
        for exposure in members:
            activities[exposure.dither, exposure.detector].add(exposure.activity)
        split = any(len(found) > 1 for found in activities.values())
        for exposure in members:
            label = f"o{observation}v{visit}" + (f"a{exposure.activity}" if split else "")
            # Labels become parts of file names.
            tiles[exposure] = label.replace(NOT_APPLICABLE, "")
    labels_of_setting = defaultdict(set)
    for exposure, label in tiles.items():
        labels_of_setting[exposure.setting].add(label.lower())
    return {e: label.lower() if len(labels_of_setting[e.setting]) > 1 else "" for e, label in tiles.items()}
