"""Cut raw ramps to their first n groups, as if the exposure had ended there.

In: `*_uncal.fits`. Out: the same exposure with SCI, REFOUT and the GROUP table cut to the first n groups of each
integration, and the times in the headers and in INT_TIMES as such an exposure would have them. Bright places saturate
in a long ramp; reduced from fewer groups they do not (King et al. 2023, RNAAS 7, 223), and `desaturate` merges the
cubes.

Files keep their names and go to `groups/{n}_groups/stage0/`.
"""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.io import fits

from command_line import ArgumentParser, run_command
from cubes import values_from
from errors import FileFormatError, OptionError
from files import written_whole
from observations import UNREADABLE, check_complete, read_exposure

if TYPE_CHECKING:
    from stdatamodels.jwst.datamodels import Level1bModel

SECONDS_PER_DAY = 86400.0
# Exposure keywords that count time spent on groups, by attribute of `meta.exposure`: for one integration, for all.
_INTEGRATION_SECONDS = ("integration_time",)
_EXPOSURE_SECONDS = (
    "exposure_time",
    "effective_exposure_time",
    "measurement_time",
    "duration",
    "elapsed_exposure_time",
)
# Dates [MJD] of the end and of the middle of the exposure, by place in the data model.
_END_DATES = (
    "meta.exposure.end_time",
    "meta.exposure.end_time_mjd",
    "meta.exposure.end_time_tdb",
    "meta.time.barycentric_expend",
    "meta.time.heliocentric_expend",
)
_MIDDLE_DATES = (
    "meta.exposure.mid_time",
    "meta.exposure.mid_time_mjd",
    "meta.exposure.mid_time_tdb",
    "meta.time.barycentric_expmid",
    "meta.time.heliocentric_expmid",
)


def group_counts(ngroups: int, groups_to_use: Iterable[int] | None = None) -> list[int]:
    """The shorter ramps to make of an exposure.

    Parameters
    ----------
    ngroups
        Groups of the exposure.
    groups_to_use
        Numbers of groups wanted; None: all from 1 on. Those that the exposure does not exceed are left out.

    Returns
    -------
    list of int
        Numbers of groups below `ngroups`, the largest first.

    Raises
    ------
    OptionError
        If a number is below 1.
    """
    wanted = set(range(1, ngroups) if groups_to_use is None else groups_to_use)
    if any(number < 1 for number in wanted):
        raise OptionError(f"groups_to_use has {min(wanted)}: numbers of groups start at 1.")
    return sorted((number for number in wanted if number < ngroups), reverse=True)


def grouped_path(root: Path, groups: int, name: str) -> Path:
    """Where the file `name`, cut to `groups` groups, goes below a data root."""
    return root / "groups" / f"{groups}_groups" / "stage0" / name


def remove_groups_file(path_in: str | Path, path_out: str | Path, *, groups: int) -> dict[str, Any]:
    """Cut one raw exposure to its first groups.

    Parameters
    ----------
    path_in, path_out
        `*_uncal.fits` to read, and the file to write; it appears whole or not at all.
    groups
        Groups to keep of each integration, from 1 to the exposure's number.

    Returns
    -------
    dict
        'notes' and 'warnings' (lists of sentences), 'groups_before' and 'groups'.

    Raises
    ------
    FileFormatError
        If the input is missing, damaged or no raw exposure.
    OptionError
        If the exposure has not that many groups, or `groups` is below 1.
    """
    path_in, path_out = Path(path_in), Path(path_out)
    if not path_in.is_file():
        raise FileFormatError(f"{path_in} does not exist: check the path.")
    check_complete(path_in)
    before = read_exposure(path_in).groups
    if not 1 <= groups <= before:
        raise OptionError(f"{path_in.name} has {before} groups, so it cannot be cut to {groups}: give 1 to {before}.")
    header = fits.getheader(path_in, "SCI")
    if header["NAXIS"] != 4 or header["NAXIS3"] != before:
        raise FileFormatError(f"{path_in} is no raw exposure of {before} groups: give an '*_uncal.fits' file.")
    from stdatamodels.jwst import datamodels

    try:
        model = datamodels.Level1bModel(path_in)
        cut_model(model, groups)
    except UNREADABLE as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise FileFormatError(f"{path_in} is no raw exposure ({reason}): download it again.") from error
    with model, values_from(path_in, "a header that can't be written again"):
        model.meta.filename = path_out.name
        with written_whole(path_out) as temporary:
            model.save(str(temporary))
    return {"notes": [], "warnings": [], "groups_before": before, "groups": groups}


def cut_model(model: "Level1bModel", groups: int) -> None:
    """Keep the first groups of each integration of a raw exposure, in place.

    Parameters
    ----------
    model
        `Level1bModel`, or another with `data` of shape (integrations, groups, rows, columns).
    groups
        Groups to keep, at most as many as there are.
    """
    before = model.data.shape[1]
    model.data = model.data[:, :groups].copy()
    if model.hasattr("refout") and model.refout is not None and model.refout.shape[1:2] == (before,):
        model.refout = model.refout[:, :groups].copy()
    if model.hasattr("group") and model.group is not None and len(model.group):
        model.group = model.group[model.group["group_number"] <= groups].copy()
    exposure = model.meta.exposure
    seconds = (before - groups) * (exposure.group_time or 0.0)
    _shorten(exposure, _INTEGRATION_SECONDS, seconds)
    _shorten(exposure, _EXPOSURE_SECONDS, seconds * (exposure.nints or 1))
    _set_back(model, _END_DATES, seconds)
    _set_back(model, _MIDDLE_DATES, seconds / 2)
    _set_back_integrations(model, seconds)
    _set_end_date(model, seconds)
    if exposure.read_times is not None:
        exposure.read_times = list(exposure.read_times)[:groups]
    exposure.ngroups = groups


def _shorten(exposure: Any, names: Sequence[str], seconds: float) -> None:
    for name in names:
        value = getattr(exposure, name, None)
        if value is not None:
            setattr(exposure, name, value - seconds)


def _set_back(model: "Level1bModel", places: Sequence[str], seconds: float) -> None:
    for place in places:
        value = model[place]
        if value is not None:
            model[place] = value - seconds / SECONDS_PER_DAY


def _set_back_integrations(model: "Level1bModel", seconds: float) -> None:
    """An integration starts when it did, but its middle and end come earlier."""
    if not model.hasattr("int_times") or model.int_times is None or not len(model.int_times):
        return
    table = np.array(model.int_times)
    for name in table.dtype.names:
        share = {"int_mid": 0.5, "int_end": 1.0}.get(name[:7].lower(), 0.0)
        if share:
            table[name] -= share * seconds / SECONDS_PER_DAY
    model.int_times = table


def _set_end_date(model: "Level1bModel", seconds: float) -> None:
    from astropy.time import Time, TimeDelta

    end = model["meta.observation.date_end"]
    if end:
        model["meta.observation.date_end"] = (Time(end, scale="utc") - TimeDelta(seconds, format="sec")).isot


def _command(argv: Sequence[str] | None) -> int:
    parser = ArgumentParser(prog="remove_groups.py", description="Cut raw ramps to their first groups.")
    parser.add_argument("path_in", metavar="IN", help="raw exposure to read (*_uncal.fits)")
    parser.add_argument("path_out", metavar="OUT", help="raw exposure to write")
    parser.add_flag("groups", type=int, required=True, help="groups to keep of each integration")
    facts = remove_groups_file(**vars(parser.parse_args(argv)))
    print(f"kept {facts['groups']} of {facts['groups_before']} groups")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """The command `python remove_groups.py IN OUT --groups N`; returns its exit status."""
    return run_command(_command, argv)


if __name__ == "__main__":
    sys.exit(main())
