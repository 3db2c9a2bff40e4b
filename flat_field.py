"""Divide a cube by a synthetic flat field.

In: a `*_s3d*.fits` cube and the flat of its band (`construct_flat_field`, or a published one). Out: the cube divided
by it. With F the flat and dF its error, SCI' = SCI / F and ERR'^2 = (ERR / F)^2 + (SCI' dF / F)^2. Where the flat is
not known (NaN) voxels stay as they are and carry NO_FLAT_FIELD; at wavelengths that have no flat nothing changes.
The noise of a dither that the flat was made from is in the flat, too. F is the mean of a posterior distribution, so the
covariance of that noise and of the flat's error is dF^2, at most the n-th part of the noise's variance with n dithers;
twice that comes off ERR'^2 (without, it is up to 1.3 times too large in the four dithers of a flat).
FLAT and FLAT_ERR are added to the file. A cube that combines dithers is divided by the mean of their flats, each in its
own place (`combined_flat`).

Reference: Fletcher et al. 2023, JGR Planets 128, e2023JE007924, appendix.
"""

import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from combined_flat import effective_flat, positions_in
from command_line import ArgumentParser, run_command
from cubes import DQ, Cube, read_cube, write_cube
from errors import FileFormatError, InputError
from files import written_whole
from flat_files import SAME_BAND, Flat, IfuGrid, behind_rings, exposure_of, flat_path_of, fringe_label, read_flat

STEP = "flat"
_PLANES_AT_A_TIME = 16
# What is beyond is no flat of any detector, but damage; single-precision values divided by it may have no error left.
PLAUSIBLE = (1e-3, 1e3)


def apply_flat(
    sci: np.ndarray,
    err: np.ndarray,
    dq: np.ndarray,
    flat: np.ndarray,
    flat_err: np.ndarray,
    own_share: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Divide brightness and error by a flat.

    Parameters
    ----------
    sci, err, dq
        (wavelength, y, x) brightness, its 1-sigma error (any unit) and data-quality flags; NaN stays NaN.
    flat, flat_err
        The flat and its 1-sigma error, same shape. NaN, or a flat beyond `PLAUSIBLE`: not known. Where the flat is 1
        without error, values stay bit for bit.
    own_share
        (y, x) 1/n where the flat was made from n dithers, this one among them; 0 where without. None: 0 everywhere.

    Returns
    -------
    sci, err, dq : numpy.ndarray
        New arrays of the types given; DQ gains NO_FLAT_FIELD where the flat is not known.
    """
    known = (flat > PLAUSIBLE[0]) & (flat < PLAUSIBLE[1])
    divisor = np.where(known, flat, 1).astype(sci.dtype, copy=False)
    new_sci = sci / divisor
    added = new_sci * np.where(known, flat_err, 0)
    # Squares in double precision: in single those of small numbers vanish; the root of a square is the number itself.
    variance = np.square(err, dtype=float)
    added = np.fmax(np.square(added, dtype=float), 0)  # NaN adds nothing
    if own_share is not None:
        added -= 2 * np.fmin(added, variance * own_share)
    variance += added
    new_err = np.sqrt(variance, out=variance).astype(err.dtype)
    new_err /= divisor
    new_dq = np.where(known, dq, dq | np.asarray(DQ.NO_FLAT_FIELD, dq.dtype))
    return new_sci, new_err, new_dq


def flat_field_file(
    path_in: str | Path, path_out: str | Path, *, flat_path: str | Path, fringe: str | None = None
) -> dict[str, Any]:
    """Divide a cube by the flat of its band.

    Parameters
    ----------
    path_in, path_out
        The cube to read and the one to write; they may be the same.
    flat_path
        A flat file; or a directory of flats, or a name in which {channel}, {band}, {filter}, {grating} and {fringe}
        are filled in (`flat_files.flat_path_of`): there, a band without a flat goes on unchanged, with a note.
    fringe
        '', '_fringe' or '_fringe1d'; by default what the cube's header says.

    Returns
    -------
    dict
        'notes' and 'warnings' (lists of sentences), 'applied' (bool), 'flat' (path or None).

    Raises
    ------
    FileFormatError
        If cube or flat cannot be read.
    InputError
        If the flat is of another band, or it can't be told which of its spaxels belongs to which of the cube's.
    """
    cube = read_cube(path_in)
    fringe = fringe_label(cube) if fringe is None else fringe
    source = _source(flat_path, cube, fringe)
    if not source.is_file():
        return _pass_on(path_in, path_out, f"no flat {source.name}: left as it is")
    flat = read_flat(source)
    matched = _matched(flat, cube, source)
    return _flat_fielded(cube, path_out, matched, source, fringe, _own_share(flat, cube))


def flat_field_combined_file(
    path_in: str | Path,
    path_out: str | Path,
    *,
    dither_paths: Sequence[str | Path],
    flat_path: str | Path,
    fringe: str | None = None,
) -> dict[str, Any]:
    """Divide a cube of combined dithers by the mean of the dithers' flats, `combined_flat.effective_flat`.

    Parameters
    ----------
    path_in, path_out, flat_path, fringe
        As in `flat_field_file`.
    dither_paths
        The cubes of the single dithers, not flat-fielded. Without any the cube goes on unchanged, with a note.

    Returns
    -------
    dict
        As of `flat_field_file`.

    Raises
    ------
    FileFormatError, InputError
        As of `flat_field_file`; also if the dithers are of another band or have other wavelengths.
    """
    cube = read_cube(path_in)
    fringe = fringe_label(cube) if fringe is None else fringe
    source = _source(flat_path, cube, fringe)
    if not (dither_paths and source.is_file()):
        reason = f"no flat {source.name}" if dither_paths else "no cubes of single dithers"
        return _pass_on(path_in, path_out, f"{reason}: left as it is")
    flat = read_flat(source)
    corrected = np.ones(cube.shape[0], bool)

    def dithers() -> Iterator[tuple[np.ndarray, ...]]:
        for path in dither_paths:
            dither = read_cube(path)
            if dither.shape[0] != cube.shape[0] or not np.allclose(dither.wavelength, cube.wavelength, rtol=1e-7):
                raise InputError(f"{path} and {path_in} have different wavelengths: give the dithers of one band.")
            values, error, has_flat = _matched(flat, dither, source)
            np.logical_and(corrected, has_flat, out=corrected)
            weight = _weight(dither)
            sci = np.where(dither.good, dither.sci, np.nan)
            yield sci, dither.err, weight, values, error, positions_in(dither, cube)

    effective = effective_flat(dithers())
    return _flat_fielded(cube, path_out, (*effective, corrected), source, fringe, None, dithers=len(dither_paths))


def _weight(dither: Cube) -> np.ndarray:
    if "WMAP" not in dither.hdul:
        return np.ones(dither.shape)
    weight = dither.hdul["WMAP"].data
    if np.shape(weight) != dither.shape:
        raise FileFormatError(
            f"{dither.path} {dither.shape} has a WMAP of shape {np.shape(weight)}: make or download it again."
        )
    return weight


def _source(flat_path: str | Path, cube: Cube, fringe: str) -> Path:
    source = flat_path_of(flat_path, cube.header, fringe)
    if not source.is_file() and source == Path(flat_path).expanduser():
        raise InputError(
            f"{source} does not exist: name a flat file, a directory of flats or a pattern like "
            f"'ch{{channel}}-{{band}}.fits'."
        )
    return source


def _matched(flat: Flat, cube: Cube, source: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    _check_band(cube, flat.identity, source)
    matched = flat.on_grid(cube.wavelength, IfuGrid.of_cube(cube))
    if matched is None:
        raise InputError(
            f"{source} {flat.flat.shape} can't be matched to {cube.path} {cube.shape}, (wavelength, y, x): make the "
            "flat from cubes of the same spaxel size, orientation and wavelengths."
        )
    return matched


def _flat_fielded(
    cube: Cube,
    path_out: str | Path,
    flat: tuple[np.ndarray, np.ndarray, np.ndarray],
    source: Path,
    fringe: str,
    own_share: np.ndarray | None,
    **parameters: Any,
) -> dict[str, Any]:
    notes = _divide(cube, *flat, own_share)
    cube.add_note(STEP, "Flat-fielded", {"flat": source, "fringe": fringe.lstrip("_") or "none", **parameters})
    write_cube(cube, path_out)
    return {"notes": notes, "warnings": [], "applied": True, "flat": source}


def _own_share(flat: Flat, cube: Cube) -> np.ndarray | None:
    """Of `apply_flat`."""
    emission = cube.hdul["EMISSION"].data if "EMISSION" in cube.hdul else None
    if exposure_of(cube.header) not in flat.exposures or np.shape(emission) != cube.shape[1:]:
        return None
    used = (emission <= flat.emission_cutoff) & ~behind_rings(cube)
    return np.where(used, 1 / len(flat.exposures), 0.0)


def _divide(
    cube: Cube, flat: np.ndarray, error: np.ndarray, corrected: np.ndarray, own_share: np.ndarray | None
) -> list[str]:
    if not corrected.all():
        flat, error = flat.copy(), error.copy()
        flat[~corrected], error[~corrected] = 1, 0
    sci, err, dq = (cube.hdul[name].data for name in ("SCI", "ERR", "DQ"))
    n_good = n_unknown = 0
    # Some planes at a time stay in the processor's cache, and only there are FITS's bytes swapped.
    for start in range(0, len(sci), _PLANES_AT_A_TIME):
        planes = slice(start, start + _PLANES_AT_A_TIME)
        before = [_native(values[planes]) for values in (sci, err, dq, flat, error)]
        after = apply_flat(*before, own_share)
        for values, new in zip((sci, err, dq), after, strict=True):
            values[planes] = new
        good = np.isfinite(before[0]) & (before[2] & np.uint32(DQ.DO_NOT_USE) == 0)
        n_good += np.count_nonzero(good)
        n_unknown += np.count_nonzero(good & (after[2] & np.uint32(DQ.NO_FLAT_FIELD) > 0))
    cube.set_extension(
        "FLAT",
        flat.astype(">f4", copy=False),
        "",
        "Flat that SCI and ERR are divided by; NaN: not known, not divided.",
    )
    cube.set_extension("FLAT_ERR", error.astype(">f4", copy=False), "", "1-sigma error of FLAT, in ERR in quadrature.")
    notes = []
    if n_unknown:
        notes.append(f"{100 * n_unknown / n_good:.1f} % of the good voxels have no flat (DQ NO_FLAT_FIELD)")
    if not corrected.all():
        notes.append(f"{int((~corrected).sum())} of {corrected.size} wavelengths have no flat: left as they are")
    return notes


def _native(values: np.ndarray) -> np.ndarray:
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def _check_band(cube: Cube, identity: dict[str, Any], source: Path) -> None:
    for key in SAME_BAND:
        own, of_flat = cube.header.get(key), identity.get(key)
        if own is not None and of_flat is not None and own != of_flat:
            raise InputError(
                f"{source} is the flat of {key} {of_flat}, but {cube.path} has {key} {own}: give the flat of its band."
            )


def _pass_on(path_in: str | Path, path_out: str | Path, note: str) -> dict[str, Any]:
    if Path(path_in).resolve() != Path(path_out).resolve():
        with written_whole(path_out) as temporary:
            shutil.copyfile(path_in, temporary)
    return {"notes": [note], "warnings": [], "applied": False, "flat": None}


def _command(argv: Sequence[str] | None) -> dict[str, Any]:
    parser = ArgumentParser(prog="flat_field.py", description="Divide a cube by a synthetic flat field.")
    parser.add_argument("path_in", metavar="IN", help="cube to read (*_s3d.fits)")
    parser.add_argument("path_out", metavar="OUT", help="cube to write")
    parser.add_flag(
        "flat_path",
        required=True,
        help="flat file, directory of flats, or a pattern with {channel}, {band}, {filter}, {grating}, {fringe}",
    )
    parser.add_flag(
        "fringe",
        default=None,
        help="fringe label in the flat's name instead of the cube's own ('', _fringe, _fringe1d)",
    )
    parser.add_flag(
        "dithers",
        nargs="+",
        metavar="CUBE",
        default=None,
        help="IN is combined of these cubes of single dithers: divide it by the mean of their flats",
    )
    options = vars(parser.parse_args(argv))
    dither_paths = options.pop("dithers")
    if dither_paths:
        facts = flat_field_combined_file(dither_paths=dither_paths, **options)
    else:
        facts = flat_field_file(**options)
    return facts


def main(argv: Sequence[str] | None = None) -> int:
    """The command `python flat_field.py IN OUT --flat_path FLAT`; returns its exit status."""
    return run_command(_command, argv)


if __name__ == "__main__":
    sys.exit(main())
