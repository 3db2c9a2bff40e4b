"""IFU cubes on disk and in memory: the one place that knows their layout, wavelengths, flags and notes.

In and out: `*_s3d.fits` cubes as `jwst` writes them (extensions SCI, ERR, DQ, WMAP, ASDF ...), axes (wavelength, y, x).
A cube is read with every extension it has and written back with every one of them, byte for byte where nothing was
changed; steps add to it. Values that must not be used are NaN in SCI and ERR and carry DQ bit 0 (DO_NOT_USE).

Wavelengths follow FITS WCS Paper III (Greisen et al. 2006, A&A 446, 747): linear, or a table (`CTYPE3 = 'WAVE-TAB'`).
Those of JWST cubes are barycentric; `VELOSYS` [m/s] tells the velocity that was removed.
"""

import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntFlag
from pathlib import Path
from typing import Any

import numpy as np
from astropy import units
from astropy.io import fits
from astropy.wcs import WCS, WcsError

from errors import FileFormatError
from files import written_whole

SOFTWARE_VERSION = "0.1.0"
# What arithmetic, units, FITS and WCS raise on values that are none.
WRONG_VALUES = (ValueError, TypeError, KeyError, IndexError, AttributeError, ArithmeticError, fits.VerifyError)
WRONG_VALUES += (WcsError, units.UnitsError, FileFormatError)
# Numbers in the header of SCI, if they are there; right ascensions may be counted on from 360, velocities are in m/s.
LARGEST_VALUES = {f"CRPIX{axis}": 1e5 for axis in (1, 2, 3)}
LARGEST_VALUES |= {f"{key}{i}_{j}": 1e3 for key in ("PC", "CD") for i in (1, 2, 3) for j in (1, 2, 3)}
LARGEST_VALUES |= {"CRVAL1": 720.0, "CRVAL2": 90.0, "CRVAL3": 1e9, "CDELT1": 1.0, "CDELT2": 1.0, "CDELT3": 1e9}
# Sides of a spaxel; those of `jwst` are square.
_SPAXEL_ARCSEC, _SQUARE = (1e-3, 60.0), 1.01
SKY_KEYS = {f"{key}{axis}" for key in ("CTYPE", "CRVAL", "CRPIX") for axis in (1, 2)}
LARGEST_VALUES |= {"MT_RA": 720.0, "MT_DEC": 90.0, "PA_V3": 720.0, "VELOSYS": 1e6}
# They would turn wavelength and sky into one another: 0, or not there.
_MIXING_KEYS = [f"{key}{axes}" for key in ("PC", "CD") for axes in ("1_3", "2_3", "3_1", "3_2")]


class DQ(IntFlag):
    """JWST data-quality bits that the steps read or set, named as in `stdatamodels.jwst.datamodels.dqflags`."""

    DO_NOT_USE = 2**0
    SATURATED = 2**1
    JUMP_DET = 2**2
    OUTLIER = 2**4
    NON_SCIENCE = 2**9
    NO_FLAT_FIELD = 2**18
    FLUX_ESTIMATED = 2**28


@dataclass
class Cube:
    """One cube with all that its file holds.

    Attributes
    ----------
    path
        The file it was read from (for messages).
    hdul
        Every header and data unit of the file, in memory.
    """

    path: Path
    hdul: fits.HDUList

    @property
    def header(self) -> fits.Header:
        """The primary header."""
        return self.hdul[0].header

    @property
    def sci_header(self) -> fits.Header:
        """The header of SCI, which has the WCS and BUNIT."""
        return self.hdul["SCI"].header

    @property
    def sci(self) -> np.ndarray:
        """Surface brightness, (wavelength, y, x) float32 in BUNIT; NaN where there is no usable value."""
        return self._native("SCI")

    @property
    def err(self) -> np.ndarray:
        """1-sigma error of `sci`, same shape and unit."""
        return self._native("ERR")

    @property
    def dq(self) -> np.ndarray:
        """Data-quality bit flags, (wavelength, y, x) uint32, see `DQ`."""
        return self._native("DQ")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(wavelength, y, x)."""
        header = self.sci_header
        return header["NAXIS3"], header["NAXIS2"], header["NAXIS1"]

    @property
    def wavelength(self) -> np.ndarray:
        """Barycentric wavelength of each plane [um], float64."""
        return wavelengths(self.hdul)

    @property
    def good(self) -> np.ndarray:
        """True for the voxels that may be used: finite and without DO_NOT_USE."""
        return np.isfinite(self.sci) & (self.dq & DQ.DO_NOT_USE == 0)

    def _native(self, name: str) -> np.ndarray:
        # FITS data are big-endian; swap once, on first use, so that arithmetic runs at full speed.
        hdu = self.hdul[name]
        if not hdu.data.dtype.isnative:
            hdu.data = hdu.data.astype(hdu.data.dtype.newbyteorder("="))
        return hdu.data

    def mark_bad(self, mask: np.ndarray, flag: DQ) -> None:
        """Make voxels unusable: SCI and ERR NaN, DQ gains DO_NOT_USE and `flag`; the others stay as they are."""
        self.sci[mask] = np.nan
        self.err[mask] = np.nan
        self.dq[mask] |= np.uint32(DQ.DO_NOT_USE | flag)

    def set_extension(self, name: str, data: np.ndarray, unit: str, comment: str) -> None:
        """Add the image extension `name`, or replace it, with BUNIT and a comment that says what it is."""
        hdu = fits.ImageHDU(data, name=name)
        hdu.header["BUNIT"] = (unit, "physical units of the array values")
        hdu.header["COMMENT"] = comment
        if name in self.hdul:
            self.hdul[name] = hdu
        else:
            self.hdul.append(hdu)

    def add_note(self, step: str, note: str, parameters: Mapping[str, Any]) -> None:
        """Note in the primary header what a step did: `REDUCTn = note` with the date, and its parameters.

        Parameters
        ----------
        step
            Short name of the step, the first word of the `HIERARCH <STEP> <PARAMETER>` cards.
        note
            What was done, in one or two words: 'Navigated'.
        parameters
            Every parameter that was used; None is written as 'None', sequences as text, paths by their names.
        """
        number = 1 + sum(1 for key in self.header if key.startswith("REDUCT") and key[6:].isdigit())
        date = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S")
        self.header[f"REDUCT{number}"] = (note, f"{date} UTC")
        for name, value in {"version": SOFTWARE_VERSION, **parameters}.items():
            _set_hierarch_card(self.header, f"{step.upper()} {name.upper()}", value)


def _set_hierarch_card(header: fits.Header, key: str, value: Any) -> None:
    if isinstance(value, Path):
        value = value.name
    if isinstance(value, np.generic):
        value = value.item()
    if not isinstance(value, bool | int | float | str) or (isinstance(value, float) and not np.isfinite(value)):
        value = str(value)
    key = f"HIERARCH {key}"
    if isinstance(value, str):
        # A HIERARCH card cannot be continued on the next one: quotes, blanks and '=' leave this much for the text.
        value = value.encode("ascii", "replace").decode()
        room = 80 - len(key) - 6 - value.count("'")
        value = value if len(value) <= room else value[: room - 3] + "..."
    header[key] = value


def read_cube(path: str | Path) -> Cube:
    """Read a cube with all its extensions.

    Raises
    ------
    FileFormatError
        If the file is missing, not FITS, truncated, has no three-dimensional SCI with ERR and DQ of its shape, or wrong
        coordinates.
    """
    path = Path(path)
    hdul = read_fits(path)
    shapes = {name: hdul[name].shape if name in hdul else None for name in ("SCI", "ERR", "DQ")}
    if shapes["SCI"] is None or len(shapes["SCI"]) != 3 or len(set(shapes.values())) != 1:
        found = ", ".join(f"{name} {shape or 'missing'}" for name, shape in shapes.items())
        raise FileFormatError(
            f"{path} is no IFU cube (it needs three-dimensional SCI, ERR and DQ of one shape, but has {found}): "
            "give a '*_s3d.fits' file."
        )
    cube = Cube(path, hdul)
    check_types(cube)
    _check_coordinates(cube)
    return cube


def check_types(cube: Cube, names: Iterable[str] = ("SCI", "ERR")) -> None:
    """Refuse a file in which one of these extensions is not floating-point, or DQ no integers that hold all flags.

    Raises
    ------
    FileFormatError
    """
    types = {name: np.asarray(cube.hdul[name].data).dtype for name in (*names, "DQ")}
    integers = types.pop("DQ")
    if integers.kind not in "iu" or integers.itemsize < 4 or any(kind.kind != "f" for kind in types.values()):
        found = ", ".join(f"{name} {kind.name}" for name, kind in {**types, "DQ": integers}.items())
        raise FileFormatError(
            f"{cube.path} has data of another type than a JWST product's ({found}): make or download it again."
        )


@contextmanager
def values_from(path: str | Path, what: str) -> Iterator[None]:
    """Let no value that can not be true, in a header or a table, come out as anything but one sentence on the file.

    Parameters
    ----------
    path
        The file.
    what
        What is wrong with it then: 'wrong coordinates in its header'.

    Raises
    ------
    FileFormatError
        In place of what arithmetic, units, FITS and WCS raise.
    """
    try:
        yield
    except WRONG_VALUES as error:
        if isinstance(error, FileFormatError) and str(path) in str(error):
            raise
        reason = " ".join((str(error).strip() or type(error).__name__).split())
        raise FileFormatError(f"{path} has {what} ({reason[:200]}): make or download it again.") from error


def _check_coordinates(cube: Cube) -> None:
    """Refuse a cube whose header has coordinates that can not be true; one that has none may serve some steps."""
    header = cube.sci_header
    with values_from(cube.path, "wrong coordinates in its header"):
        for key, limit in LARGEST_VALUES.items():
            value = header.get(key, 0.0)
            # WCSLIB takes what is no number for 0.
            if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= limit:
                raise ValueError(f"{key} = {value!r}")
        mixed = [key for key in _MIXING_KEYS if header.get(key, 0) != 0]
        if mixed:
            raise ValueError(f"{', '.join(mixed)}: the place on the sky changes with wavelength")
        if not {"CRVAL3", "CDELT3", "CD3_3"}.isdisjoint(header):
            wavelength = cube.wavelength
            steps = np.diff(wavelength)
            if not (np.all(wavelength > 0) and (np.all(steps > 0) or np.all(steps < 0)) and wavelength.max() < np.inf):
                raise ValueError("wavelengths are not positive and in order")
        if not SKY_KEYS.isdisjoint(header):
            # WCSLIB has a default for each.
            if not set(header) >= SKY_KEYS:
                raise ValueError(f"{', '.join(sorted(SKY_KEYS - set(header)))} missing")
            sky = sky_coordinates(header)
            if not np.isfinite(sky).all():
                raise ValueError("spaxels have no place on the sky")
            short, long = np.sort(np.linalg.svd(celestial_wcs(header).pixel_scale_matrix, compute_uv=False)) * 3600
            if not (_SPAXEL_ARCSEC[0] < short <= long < _SPAXEL_ARCSEC[1] and long < _SQUARE * short):
                raise ValueError(f"spaxels of {short:.3g} x {long:.3g} arcsec")


def read_fits(path: str | Path) -> fits.HDUList:
    """Read a whole FITS file into memory, refusing one that is not FITS or cut short with one sentence.

    Raises
    ------
    FileFormatError
    """
    path = Path(path)
    if not path.is_file():
        raise FileFormatError(f"{path} does not exist: check the path.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", fits.verify.VerifyWarning)
            warnings.filterwarnings("error", message=".*truncated.*")
            # Opened here, since astropy leaves a file that it can't make sense of open.
            with open(path, "rb") as stream:
                hdul = fits.open(stream, memmap=False, lazy_load_hdus=False)
                for hdu in hdul:
                    _ = hdu.data
                # What could not be written again is damaged.
                hdul.verify("silentfix+exception")
            return hdul
    except (OSError, MemoryError, Warning, *WRONG_VALUES) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise FileFormatError(f"{path} is not a readable FITS file ({reason}): make or download it again.") from error


def write_cube(cube: Cube, path: str | Path) -> None:
    """Write a cube with all its extensions; the file appears whole or not at all."""
    cube.header["FILENAME"] = Path(path).name
    with written_whole(path) as temporary:
        cube.hdul.writeto(temporary, output_verify="silentfix")


def wavelengths(hdul: fits.HDUList) -> np.ndarray:
    """Wavelength of each plane of SCI [um], from the linear WCS or the WAVE-TAB table.

    Parameters
    ----------
    hdul
        The cube's file.

    Returns
    -------
    numpy.ndarray
        (wavelength,) float64. Linear: lambda_i = CRVAL3 + (i + 1 - CRPIX3) CDELT3, with CDELT3 times PC3_3 or
        CD3_3 as the step.
    """
    header = hdul["SCI"].header
    count = header["NAXIS3"]
    to_micron = units.Unit(header.get("CUNIT3", "um")).to(units.um)
    if str(header.get("CTYPE3", "WAVE")).strip() == "WAVE-TAB":
        table = hdul[header.get("PS3_0", "WCS-TABLE")].data
        values = np.ravel(table[header.get("PS3_1", "wavelength")]).astype(float)
        if values.size != count:
            raise FileFormatError(
                f"the wavelength table has {values.size} entries for {count} planes: make the cube again."
            )
        return values * to_micron
    step = header["CD3_3"] if "CD3_3" in header else header["CDELT3"] * header.get("PC3_3", 1.0)
    return (header["CRVAL3"] + (np.arange(count) + 1 - header.get("CRPIX3", 1.0)) * step) * to_micron


def celestial_wcs(header: fits.Header) -> WCS:
    """The two-dimensional sky WCS of a cube's SCI header, free of everything else in it."""
    keys = [f"{key}{axis}" for key in ("CRPIX", "CRVAL", "CDELT", "CTYPE", "CUNIT") for axis in (1, 2)]
    keys += [f"{matrix}{i}_{j}" for matrix in ("PC", "CD") for i in (1, 2) for j in (1, 2)]
    keys += ["RADESYS", "LONPOLE", "LATPOLE"]
    sky = fits.Header({key: header[key] for key in keys if key in header})
    sky["NAXIS"] = 2
    sky["NAXIS1"], sky["NAXIS2"] = header["NAXIS1"], header["NAXIS2"]
    return WCS(sky)


def sky_coordinates(header: fits.Header) -> tuple[np.ndarray, np.ndarray]:
    """RA and Dec [deg] of the spaxel centres by the header's WCS, each (y, x); RA in [0, 360)."""
    y, x = np.mgrid[: header["NAXIS2"], : header["NAXIS1"]]
    ra, dec = celestial_wcs(header).all_pix2world(x, y, 0)
    return ra % 360, dec


def spaxel_scale(header: fits.Header) -> float:
    """Side of a spaxel [arcsec], the square root of its area on the sky."""
    return float(np.sqrt(np.abs(np.linalg.det(celestial_wcs(header).pixel_scale_matrix))) * 3600)
