"""Synthetic flats as arrays with a place in the IFU, and as files.

A flat file has the flat in its primary extension, (wavelength, y, x) in IFU-aligned spaxels like the cube it is for
(the layout of the flats published with Fletcher et al. 2023, JGR Planets 128, e2023JE007924, which are read, too),
then FLAT_ERR, FLAT_CORRECTED, WAVELENGTH, and the scatter between dithers before and after, SCATTER_BEFORE and
SCATTER_AFTER.

The same place in the IFU is at the same offset from a cube's reference spaxel (CRPIX): 'ifualign' cubes put that at
the middle of the field. So flats and cubes whose sizes differ by a row are matched by CRPIX, spaxel size and
orientation relative to the telescope.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from scipy.ndimage import binary_dilation

from cubes import Cube, celestial_wcs, read_fits, values_from, write_cube
from errors import FileFormatError, InputError

STEP = "flat"
# Rings in front of the disc are no part of the scene: radii [km] (NASA planetary fact sheets), and how far the PSF
# carries them [spaxels].
RINGS_KM = {"SATURN": (66900.0, 140400.0), "URANUS": (37800.0, 51500.0)}
_RING_MARGIN = 3
_ANGLE_TOLERANCE = 1.0  # deg
_LARGEST_REFERENCE = 1e5  # spaxels
_PLACE_TOLERANCE = 0.2  # spaxels, over the whole field
# Flats and cubes of one band have the same.
SAME_BAND = ("INSTRUME", "CHANNEL", "BAND", "FILTER", "GRATING")
_IDENTITY_KEYS = ("TELESCOP", "INSTRUME", "DETECTOR", "CHANNEL", "BAND", "FILTER", "GRATING", "TARGNAME", "TARGPROP")


@dataclass(frozen=True)
class IfuGrid:
    """How the spaxels of an IFU-aligned cube lie in the IFU.

    Attributes
    ----------
    shape
        Rows and columns.
    reference
        Row and column (from 0) of the reference point.
    spaxel
        Height and width of a spaxel [arcsec].
    angle
        Position angle of the y axis from that of the telescope's V3 axis [deg]; NaN where the header has no PA_V3.
    """

    shape: tuple[int, int]
    reference: tuple[float, float]
    spaxel: tuple[float, float]
    angle: float = np.nan

    @classmethod
    def of_cube(cls, cube: Cube) -> "IfuGrid":
        """The grid of a cube, from its WCS; a pointing offset leaves it as it is."""
        header = cube.sci_header
        matrix = celestial_wcs(header).pixel_scale_matrix
        spaxel = tuple(float(v) * 3600 for v in np.hypot(*matrix)[::-1])
        y_axis = np.degrees(np.arctan2(matrix[0, 1], matrix[1, 1]))
        with values_from(cube.path, "a wrong place in the IFU in its header"):
            angle = float((y_axis - header.get("PA_V3", np.nan)) % 360)
            return cls(cube.shape[1:], (header["CRPIX2"] - 1.0, header["CRPIX1"] - 1.0), spaxel, angle)

    def steps_to(self, other: "IfuGrid") -> tuple[int, int] | None:
        """Rows and columns to add to an index to get the same place in `other`; None if the grids don't fit."""
        if abs((self.angle - other.angle + 180) % 360 - 180) > _ANGLE_TOLERANCE:
            return None
        steps = []
        for axis in (0, 1):
            step = other.reference[axis] - self.reference[axis]
            drift = abs(other.spaxel[axis] / self.spaxel[axis] - 1) * max(self.shape[axis], other.shape[axis]) / 2
            if abs(step - round(step)) + drift > _PLACE_TOLERANCE:
                return None
            steps.append(round(step))
        return steps[0], steps[1]

    def joined(self, other: "IfuGrid") -> "IfuGrid":
        """The smallest grid that holds both, which must fit."""
        dy, dx = other.steps_to(self)
        low = min(0, dy), min(0, dx)
        high = max(self.shape[0], other.shape[0] + dy), max(self.shape[1], other.shape[1] + dx)
        shape = high[0] - low[0], high[1] - low[1]
        return IfuGrid(shape, (self.reference[0] - low[0], self.reference[1] - low[1]), self.spaxel, self.angle)


def regrid(values: np.ndarray, steps: tuple[int, int], shape: tuple[int, int]) -> np.ndarray:
    """Shift images by whole spaxels onto a grid of another size.

    Parameters
    ----------
    values
        (..., y, x); anything that NaN can stand in for.
    steps
        Rows and columns to add to the indices.
    shape
        Rows and columns of the result.

    Returns
    -------
    numpy.ndarray
        `values` itself where nothing is to be done; else a copy, NaN (False for masks) where `values` has no spaxel.
    """
    if steps == (0, 0) and values.shape[-2:] == tuple(shape):
        return values
    empty = False if values.dtype == bool else np.nan
    out = np.full((*values.shape[:-2], *shape), empty, values.dtype)
    source, target = [], []
    for step, old, new in zip(steps, values.shape[-2:], shape, strict=True):
        start, stop = max(step, 0), max(min(old + step, new), max(step, 0))
        target.append(slice(start, stop))
        source.append(slice(start - step, stop - step))
    out[..., *target] = values[..., *source]
    return out


@dataclass
class Flat:
    """A flat with its error.

    Attributes
    ----------
    flat, error
        (wavelength, y, x): relative response, mean 1 at each wavelength, and its 1-sigma error; NaN where it is not
        known.
    corrected
        (wavelength,) False where the flat is 1 because the data do not tell it.
    wavelength
        (wavelength,) [um]; None for published flats, which do not say.
    grid
        Where the spaxels lie in the IFU; None for published flats.
    scatter_before, scatter_after
        (wavelength,) relative scatter of a dither about the scene of the others, without and with their flat; NaN
        where not known.
    identity
        Header values that say what the flat is of: CHANNEL, BAND ...
    exposures
        Of the dithers that it was made from, see `exposure_of`: their noise is in the flat.
    emission_cutoff
        Emission angle [deg] up to which their spaxels were used.
    """

    flat: np.ndarray
    error: np.ndarray
    corrected: np.ndarray
    wavelength: np.ndarray | None = None
    grid: IfuGrid | None = None
    scatter_before: np.ndarray | None = None
    scatter_after: np.ndarray | None = None
    identity: dict[str, Any] = field(default_factory=dict)
    exposures: tuple[str, ...] = ()
    emission_cutoff: float = 90.0

    def on_grid(self, wavelength: np.ndarray, grid: IfuGrid) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """Flat, error and `corrected` for the voxels of a cube, NaN outside the flat; None if they can't be matched."""
        flat, error, corrected = self.flat, self.error, self.corrected
        if self.wavelength is None:
            if flat.shape[0] != wavelength.size:
                return None
        elif not (self.wavelength.size == wavelength.size and np.allclose(self.wavelength, wavelength, rtol=1e-7)):
            plane, near = nearest_planes(self.wavelength, wavelength)
            if not near.any():
                return None
            flat, error = (np.where(near[:, None, None], values[plane], np.nan) for values in (flat, error))
            corrected = np.where(near, corrected[plane], True)
        steps = self.grid.steps_to(grid) if self.grid else None
        if steps is None:
            if self.grid is not None or flat.shape[1:] != tuple(grid.shape):
                return None
            steps = (0, 0)
        return regrid(flat, steps, grid.shape), regrid(error, steps, grid.shape), corrected


def nearest_planes(of: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Index of the plane of `of` nearest to each wavelength wanted, and whether it is within a tenth of a step."""
    plane = np.abs(np.subtract.outer(wanted, of)).argmin(axis=1)
    step = np.abs(np.gradient(of))[plane] if of.size > 1 else np.abs(of[plane]) * 1e-5
    return plane, np.abs(of[plane] - wanted) <= 0.1 * step


def identity_of(header: fits.Header) -> dict[str, Any]:
    """What instrument, band and target a cube is of."""
    return {key: header[key] for key in _IDENTITY_KEYS if key in header}


def exposure_of(header: fits.Header) -> str:
    """What tells a cube's exposure from others of its band: when it started."""
    return f"{header.get('DATE-OBS', '')}T{header.get('TIME-OBS', '')}"


def behind_rings(cube: Cube) -> np.ndarray:
    """Spaxels (y, x) that see the planet's rings, or light of them; of a cube that is not navigated, none."""
    rings = RINGS_KM.get(str(cube.header.get("NAVTARG", "")).upper())
    distance = cube.hdul["DISTANCE_RINGS"].data if "DISTANCE_RINGS" in cube.hdul else None
    if rings is None or np.shape(distance) != cube.shape[1:]:
        return np.zeros(cube.shape[1:], bool)
    return binary_dilation((distance > rings[0]) & (distance < rings[1]), iterations=_RING_MARGIN)


def write_flat(
    flat: Flat, path: str | Path, note: str, parameters: Mapping[str, Any], sources: list[str] | None = None
) -> None:
    """Write a flat file; it appears whole or not at all.

    Parameters
    ----------
    flat
        What to write; needs `wavelength` and `grid` to be matched later with cubes of another size.
    path
        The file.
    note, parameters
        For the header, see `cubes.Cube.add_note`.
    sources
        Names of the files that it was made from.
    """
    primary = fits.PrimaryHDU(flat.flat.astype(np.float32))
    cube = Cube(Path(path), fits.HDUList([primary]))
    header = cube.header
    header["BUNIT"] = ("", "relative response, mean 1 at each wavelength")
    for key, value in flat.identity.items():
        header[key] = value
    for number, source in enumerate(sources or [], start=1):
        header[f"SOURCE{number}"] = source
    for number, exposure in enumerate(flat.exposures, start=1):
        header[f"EXPOSU{number}"] = (exposure, "exposure whose noise is in the flat")
    header["EMISSMAX"] = (flat.emission_cutoff, "[deg] emission up to which they were used")
    if flat.grid is not None:
        for axis, name, i in ((1, "x", 1), (2, "y", 0)):
            header[f"CTYPE{axis}"] = ("LINEAR", f"{name} in the IFU from the middle of its field")
            header[f"CUNIT{axis}"] = "arcsec"
            header[f"CRPIX{axis}"] = flat.grid.reference[i] + 1
            header[f"CRVAL{axis}"] = 0.0
            header[f"CDELT{axis}"] = flat.grid.spaxel[i]
        if np.isfinite(flat.grid.angle):
            header["IFUANGLE"] = (flat.grid.angle, "[deg] position angle of y from V3")
    cube.add_note(STEP, note, parameters)
    cube.set_extension("FLAT_ERR", flat.error.astype(np.float32), "", "1-sigma error of the flat.")
    cube.set_extension(
        "FLAT_CORRECTED",
        flat.corrected.astype(np.uint8),
        "",
        "1: wavelength has a flat; 0: it does not, the flat is 1.",
    )
    if flat.wavelength is not None:
        cube.set_extension("WAVELENGTH", flat.wavelength, "um", "Wavelength of each plane.")
    for name, values, which in (
        ("SCATTER_BEFORE", flat.scatter_before, "without any flat"),
        ("SCATTER_AFTER", flat.scatter_after, "with a flat made of the others alone"),
    ):
        if values is not None:
            text = f"Relative scatter of a dither held out about the scene of the others, {which}."
            cube.set_extension(name, values.astype(np.float32), "", text)
    write_cube(cube, path)


def read_flat(path: str | Path) -> Flat:
    """Read a flat file, of this project or a published one.

    Raises
    ------
    FileFormatError
        If there is no flat in it.
    """
    hdul = read_fits(path)
    header, flat = hdul[0].header, hdul[0].data
    if flat is None or flat.ndim != 3:
        raise FileFormatError(
            f"{path} is no flat (its first extension has no cube): give a '*_constructed_flat*.fits'."
        )

    def extension(name: str) -> np.ndarray | None:
        return np.array(hdul[name].data, dtype=float) if name in hdul else None

    error = hdul["FLAT_ERR"].data if "FLAT_ERR" in hdul else np.zeros_like(flat)  # published ones have none
    corrected = extension("FLAT_CORRECTED")
    columns = {name: extension(name) for name in ("WAVELENGTH", "SCATTER_BEFORE", "SCATTER_AFTER")}
    shapes = {name: np.shape(values) for name, values in columns.items() if values is not None}
    shapes |= {} if corrected is None else {"FLAT_CORRECTED": corrected.shape}
    wrong = [name for name, shape in shapes.items() if shape != flat.shape[:1]]
    if np.shape(error) != flat.shape or wrong:
        names = ", ".join(wrong or ["FLAT_ERR"])
        raise FileFormatError(f"{path} is no flat ({names} and the flat differ in shape): make or download it again.")
    return Flat(
        flat,
        error,
        np.ones(flat.shape[0], bool) if corrected is None else corrected > 0,
        columns["WAVELENGTH"],
        _grid_of(header, flat.shape[1:], path),
        columns["SCATTER_BEFORE"],
        columns["SCATTER_AFTER"],
        identity_of(header),
        tuple(str(value) for value in header["EXPOSU*"].values()),
        float(cutoff) if isinstance(cutoff := header.get("EMISSMAX"), int | float) else 90.0,
    )


def _grid_of(header: fits.Header, shape: tuple[int, int], path: str | Path) -> IfuGrid | None:
    if header.get("CTYPE1") != "LINEAR":
        return None
    with values_from(path, "a wrong place in the IFU in its header"):
        reference = (float(header["CRPIX2"]) - 1.0, float(header["CRPIX1"]) - 1.0)
        spaxel = (float(header["CDELT2"]), float(header["CDELT1"]))
        if not (np.abs(reference).max() < _LARGEST_REFERENCE and 0 < spaxel[0] < np.inf and 0 < spaxel[1] < np.inf):
            raise ValueError(f"reference {reference}, spaxel {spaxel}")
        return IfuGrid(shape, reference, spaxel, float(header.get("IFUANGLE", np.nan)))


def fringe_label(cube: Cube) -> str:
    """The fringe corrections a cube has had, for the name of its flat: '', '_fringe', '_fringe1d' or both."""
    two = "_fringe" if str(cube.header.get("S_RESFRI", "")).strip() == "COMPLETE" else ""
    return two + ("_fringe1d" if "FRINGE1D_CORRECTED" in cube.hdul else "")


def flat_name(header: fits.Header, fringe: str = "") -> str:
    """Name of the flat file for a cube: 'ch4-long_constructed_flat.fits', 'g395h-f290lp_constructed_flat.fits'.

    Parameters
    ----------
    header
        Primary header of the cube.
    fringe
        See `fringe_label`.
    """
    fields = _name_fields(header)
    stem = "ch{channel}-{band}" if "channel" in fields else "{grating}-{filter}"
    return f"{stem.format(**fields)}_constructed_flat{fringe}.fits"


def flat_path_of(flat_path: str | Path, header: fits.Header, fringe: str = "") -> Path:
    """Where the flat for a cube should be.

    Parameters
    ----------
    flat_path
        A directory (the file in it is `flat_name`), or a file name in which {channel}, {band}, {filter}, {grating},
        {fringe} are filled in.
    header, fringe
        As in `flat_name`.

    Raises
    ------
    InputError
        If the name asks for something that the header does not have.
    """
    flat_path = Path(flat_path).expanduser()
    if flat_path.is_dir():
        return flat_path / flat_name(header, fringe)
    try:
        return Path(str(flat_path).format(fringe=fringe, **_name_fields(header)))
    except (KeyError, ValueError, IndexError) as error:
        known = ", ".join(f"{{{name}}}" for name in ("fringe", *_name_fields(header)))
        raise InputError(f"{flat_path} is no name of flats ({error}): what can be filled in is {known}.") from error


def _name_fields(header: fits.Header) -> dict[str, str]:
    keys = ("CHANNEL", "BAND") if "CHANNEL" in header else ("FILTER", "GRATING")
    return {key.lower(): str(header[key]).strip().lower() for key in keys if key in header}
