"""The pointing error that all exposures of a visit share, from the discs in its cubes.

In: cubes of single dithers, not navigated yet, of any bands. Out: a table (ECSV) with what each cube shows, and in its
`meta` the visit's offset, which `navigate` takes off all cubes of the visit, `combined` ones too.
Method: `pointing_fit` for each cube, then `mean_pointing`. One cube with an arc of limb has its pointing to some 0.04
arcsec along the limb; a visit has many cubes, and cubes that are corrected alike still fit one another.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from command_line import ArgumentParser, run_command
from errors import FileFormatError
from files import written_whole

if TYPE_CHECKING:
    from pointing_fit import PointingFit

_COLUMNS = ("ra_offset", "dec_offset", "ra_error", "dec_error", "correlation")


def fit_visit_pointing(
    paths_in: Sequence[str | Path],
    path_out: str | Path,
    *,
    ra_offset: float = 0.0,
    dec_offset: float = 0.0,
    kernel_path: str | Path | None = None,
    target: str | None = None,
) -> dict[str, Any]:
    """Fit the pointing of each cube and of their visit.

    Parameters
    ----------
    paths_in
        Cubes of one visit, each of one dither.
    path_out
        The table to write: a row for each cube, NaN where nothing was found.
    ra_offset, dec_offset, kernel_path, target
        As in `navigate.navigate_file`; what is found counts from the offsets given.

    Returns
    -------
    dict
        'notes', 'warnings' (lists of sentences) and 'fit', the facts of the visit's `pointing_fit.PointingFit`.

    Raises
    ------
    FileFormatError, KernelError, InputError
        As in `navigate.navigate_file`.
    """
    from astropy.table import Table

    from cube_pointing import set_offset
    from cubes import read_cube
    from navigate import cube_geometry
    from pointing_fit import fit_cube_pointing, mean_pointing

    fits, rows = [], []
    for path in paths_in:
        cube = read_cube(path)
        set_offset(cube, ra_offset, dec_offset)
        fit = fit_cube_pointing(cube, cube_geometry(cube, kernel_path=kernel_path, target=target))
        fits.append(fit)
        rows.append([f"{cube.path.parent.name}/{cube.path.name}", *_measured(fit), fit.reason])
    visit = mean_pointing(fits)
    table = Table(rows=rows, names=["cube", *_COLUMNS, "reason"])
    for name in _COLUMNS[:4]:
        table[name].unit = "arcsec"
        table[name].format = ".5f"
    table.meta["visit"] = visit.facts
    with written_whole(path_out) as temporary:
        table.write(temporary, format="ascii.ecsv")
    return {**_told(visit, sum(fit.position is not None for fit in fits), len(fits)), "fit": visit.facts}


def read_visit_pointing(path: str | Path) -> "PointingFit":
    """The visit's pointing from the table that `fit_visit_pointing` wrote.

    Raises
    ------
    FileFormatError
        If the file is no such table.
    """
    from astropy.table import Table

    from pointing_fit import PointingFit

    try:
        return PointingFit(**Table.read(path, format="ascii.ecsv").meta["visit"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FileFormatError(
            f"{path} is no table of a visit's pointing ({error}): make one with visit_pointing.py."
        ) from error


def _measured(fit: "PointingFit") -> list[float]:
    if fit.position is None:
        return [np.nan] * len(_COLUMNS)
    return [*map(float, fit.position.offset), fit.ra_error, fit.dec_error, fit.correlation]


def _told(visit: "PointingFit", found: int, number: int) -> dict[str, list[str]]:
    if not visit.significant:
        return {"notes": [], "warnings": [f"pointing not fitted, no offset applied: {visit.reason}"]}
    note = (
        f"pointing of the visit from {found} of {number} cubes: WCS reads too high by {visit.ra_offset:+.4f} +- "
        f"{visit.ra_error:.4f} arcsec in RA, {visit.dec_offset:+.4f} +- {visit.dec_error:.4f} arcsec in Dec"
    )
    return {"notes": [note], "warnings": [f"pointing fit: {visit.reason}"] if visit.reason else []}


def _command(argv: Sequence[str] | None) -> dict[str, Any]:
    parser = ArgumentParser(
        prog="visit_pointing.py", description="Find the pointing error of a visit from the discs in its cubes."
    )
    parser.add_argument("paths_in", metavar="CUBE", nargs="+", help="cubes of single dithers (*_s3d.fits) of one visit")
    parser.add_argument("path_out", metavar="OUT", help="table to write (.ecsv), for navigate.py --pointing")
    parser.add_flag("ra_offset", type=float, default=0.0, help="RA offset [arcsec on the sky] to begin with")
    parser.add_flag("dec_offset", type=float, default=0.0, help="Dec offset [arcsec] to begin with")
    parser.add_flag("kernel_path", default=None, help="folder of SPICE kernels, instead of PLANETMAPPER_KERNEL_PATH")
    parser.add_flag("target", default=None, help="name of the body, instead of that in the header")
    return fit_visit_pointing(**vars(parser.parse_args(argv)))


def main(argv: Sequence[str] | None = None) -> int:
    """The command `python visit_pointing.py CUBE... OUT [options]`; returns its exit status."""
    return run_command(_command, argv)


if __name__ == "__main__":
    sys.exit(main())
