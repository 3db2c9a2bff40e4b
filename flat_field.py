"""Divide a cube by a synthetic flat field.

In: a `*_s3d*.fits` cube and the flat of its band (`construct_flat_field`, or a published one). Out: the cube divided
by it. With F the flat and dF its error, SCI' = SCI / F and ERR'^2 = (ERR / F)^2 + (SCI' dF / F)^2. Where the flat is
not known (NaN) voxels stay as they are and carry NO_FLAT_FIELD; at wavelengths that have no flat nothing changes.
FLAT and FLAT_ERR are added to the file.

Reference: Fletcher et al. 2023, JGR Planets 128, e2023JE007924, appendix.
"""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from command_line import ArgumentParser, run_command
from cubes import DQ, Cube, read_cube, write_cube
from errors import InputError
from files import written_whole
from flat_files import IfuGrid, flat_path_of, fringe_label, read_flat

STEP = "flat"


def apply_flat(
    sci: np.ndarray, err: np.ndarray, dq: np.ndarray, flat: np.ndarray, flat_err: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Divide brightness and error by a flat.

    Parameters
    ----------
    sci, err, dq
        (wavelength, y, x) brightness, its 1-sigma error (any unit) and data-quality flags; NaN stays NaN.
    flat, flat_err
        The flat and its 1-sigma error, same shape. NaN, or a flat that is not positive: not known. Where the flat is
        1 without error, values stay bit for bit.

    Returns
    -------
    sci, err, dq : numpy.ndarray
        New arrays of the types given; DQ gains NO_FLAT_FIELD where the flat is not known.
    """
    known = (flat > 0) & (flat < np.inf)
    divisor = np.where(known, flat, 1).astype(sci.dtype, copy=False)
    new_sci = sci / divisor
    added = new_sci * flat_err.astype(sci.dtype, copy=False)
    np.copyto(added, 0, where=~known | np.isnan(added))
    # Squares in double precision: in single those of small numbers vanish; the root of a square is the number itself.
    variance = np.square(err, dtype=float)
    variance += np.square(added, dtype=float)
    new_err = np.sqrt(variance, out=variance).astype(err.dtype)
    new_err /= divisor
    new_dq = dq.copy()
    new_dq[~known] |= np.asarray(DQ.NO_FLAT_FIELD, dq.dtype)
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
    source = flat_path_of(flat_path, cube.header, fringe)
    if not source.is_file():
        if source == Path(flat_path).expanduser():
            raise InputError(
                f"{source} does not exist: name a flat file, a directory of flats or a pattern like "
                f"'ch{{channel}}-{{band}}.fits'."
            )
        _pass_on(Path(path_in), Path(path_out))
        return {"notes": [f"no flat {source.name}: left as it is"], "warnings": [], "applied": False, "flat": None}
    flat = read_flat(source)
    _check_band(cube, flat.identity, source)
    matched = flat.on_grid(cube.wavelength, IfuGrid.of_cube(cube))
    if matched is None:
        raise InputError(
            f"{source} {flat.flat.shape} can't be matched to {cube.path} {cube.shape}, (wavelength, y, x): make the "
            "flat from cubes of "
            "the same spaxel size, orientation and wavelengths."
        )
    values, error, corrected = matched
    notes = _divide(cube, values, error, corrected)
    cube.add_note(STEP, "Flat-fielded", {"flat": source, "fringe": fringe.lstrip("_") or "none"})
    write_cube(cube, path_out)
    return {"notes": notes, "warnings": [], "applied": True, "flat": source}


def _divide(cube: Cube, flat: np.ndarray, error: np.ndarray, corrected: np.ndarray) -> list[str]:
    if not corrected.all():
        flat, error = flat.copy(), error.copy()
        flat[~corrected], error[~corrected] = 1, 0
    good = cube.good
    sci, err, dq = apply_flat(cube.sci, cube.err, cube.dq, flat, error)
    for name, values in (("SCI", sci), ("ERR", err), ("DQ", dq)):
        cube.hdul[name].data = values
    cube.set_extension(
        "FLAT",
        flat.astype(np.float32, copy=False),
        "",
        "Flat that SCI and ERR are divided by; NaN: not known, not divided.",
    )
    cube.set_extension(
        "FLAT_ERR", error.astype(np.float32, copy=False), "", "1-sigma error of FLAT, in ERR in quadrature."
    )
    notes = []
    unknown = int((good & (dq & DQ.NO_FLAT_FIELD > 0)).sum())
    if unknown:
        notes.append(f"{100 * unknown / max(good.sum(), 1):.1f} % of the good voxels have no flat (DQ NO_FLAT_FIELD)")
    if not corrected.all():
        notes.append(f"{int((~corrected).sum())} of {corrected.size} wavelengths have no flat: left as they are")
    return notes


def _check_band(cube: Cube, identity: dict[str, Any], source: Path) -> None:
    for key in ("INSTRUME", "CHANNEL", "BAND", "FILTER", "GRATING"):
        own, of_flat = cube.header.get(key), identity.get(key)
        if own is not None and of_flat is not None and own != of_flat:
            raise InputError(
                f"{source} is the flat of {key} {of_flat}, but {cube.path} has {key} {own}: give the flat of its band."
            )


def _pass_on(path_in: Path, path_out: Path) -> None:
    if path_in.resolve() != path_out.resolve():
        with written_whole(path_out) as temporary:
            shutil.copyfile(path_in, temporary)


def _command(argv: Sequence[str] | None) -> int:
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
    facts = flat_field_file(**vars(parser.parse_args(argv)))
    for note in facts["notes"]:
        print(note)
    for warning in facts["warnings"]:
        print(f"warning: {warning}", file=sys.stderr)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """The command `python flat_field.py IN OUT --flat_path FLAT`; returns its exit status."""
    return run_command(_command, argv)


if __name__ == "__main__":
    sys.exit(main())
