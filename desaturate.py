"""Replace saturated voxels of a cube by those of the same exposure reduced from fewer groups.

In: cubes of one exposure and band, made from ramps cut to different numbers of groups (`remove_groups`). Out: the cube
of the longest ramp with SCI, ERR, DQ and WMAP of each saturated voxel from the longest ramp that is not saturated
there; extensions NGROUPS (groups used) and DESAT_TYPE (why not the longest: 0 it is the longest, 1 missing, 2
partially saturated, 3 an outlier). All other voxels keep every bit.

Two methods tell which voxels not to use. 'onset' (the default) asks the data: where a longer ramp's voxel is made of
fewer detector pixels than the shorter one's (WMAP), the brightest have saturated and the mean of the others is wrong;
and the brightness from which the ratio of the ramps falls tells partial saturation that no flag tells
(`saturation_onset`). 'factors' uses fixed factors and signal-to-noise limits, after King et al. 2023 (RNAAS 7, 223).
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from functools import reduce
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from command_line import ArgumentParser, run_command
from cubes import Cube, celestial_wcs, read_cube, spaxel_scale, write_cube
from desaturation_rules import MISSING, OUTLIER, PARTIAL, Thresholds, by_factors, by_onset, limit_steps, usable
from errors import InputError, OptionError
from saturation_onset import Onset, compare_ramps

STEP = "desaturate"
METHODS = ("onset", "factors")
UNEQUAL = 0.01  # by how much the flux of ramps may differ before the user is warned
# What cubes of one exposure and band have in common.
_SAME_KEYS = (
    *("INSTRUME", "DETECTOR", "CHANNEL", "BAND", "FILTER", "GRATING", "BUNIT"),
    *("PROGRAM", "OBSERVTN", "VISIT", "PATT_NUM", "DATE-OBS", "TIME-OBS"),
)
# Headers in which these are the same have the same sky: no need to work it out.
_SKY_KEYS = tuple(
    f"{key}{axis}" for key in ("CRPIX", "CRVAL", "CDELT", "PC1_", "PC2_", "CD1_", "CD2_") for axis in (1, 2)
)
# Channels of MIRI in which 1-group ramps are the last resort (King et al. 2023 leave them out).
_POOR_FIRST_GROUP = ("1", "2")


@dataclass(frozen=True)
class Merged:
    """The merged cube.

    Attributes
    ----------
    ramp
        Which of the ramps each voxel is from (0 the longest), int8, (wavelength, y, x).
    desat_type
        Why it is not from the longest, uint8; 0 where it is.
    has_data
        Where there is data in any of them, and so in the one that is used.
    onsets
        Of each ramp but the shortest and the reserve, against what is known from the shorter ones; the longest first.
    """

    ramp: np.ndarray
    desat_type: np.ndarray
    has_data: np.ndarray
    onsets: tuple[Onset, ...]

    def pick(self, cubes: Sequence[np.ndarray]) -> np.ndarray:
        """From the cubes of all ramps, longest first, the voxels that are used."""
        picked = cubes[0].copy()
        for number, cube in enumerate(cubes[1:], start=1):
            np.copyto(picked, cube, where=self.ramp == number)
        return picked


def desaturate_cubes(
    sci: Sequence[np.ndarray],
    err: Sequence[np.ndarray],
    dq: Sequence[np.ndarray],
    coverage: Sequence[np.ndarray] | None = None,
    *,
    method: str = "onset",
    reserve: int = 0,
    maximum_step: int | None = None,
    thresholds: Thresholds | None = None,
) -> Merged:
    """Decide for each voxel from which ramp to take it.

    Parameters
    ----------
    sci, err, dq
        Cubes of one exposure, the longest ramp first, all of one shape (wavelength, y, x) and unit. Without data are
        voxels that are NaN, 0 or flagged DO_NOT_USE.
    coverage
        How many detector pixels each voxel is made of (WMAP), for 'onset'. None: not known.
    method
        'onset' or 'factors'.
    reserve
        How many of the shortest ramps serve only as a last resort: for voxels that in all longer ramps are without data
        or (where `coverage` tells) have lost detector pixels.
    maximum_step
        By how many ramps neighbours with data (along all three axes) may differ; the voxel of the longer ramp is then
        taken from a shorter one that has data. By default ceil(number of ramps / 5). With 'onset', voxels that are good
        in the longest ramp are left alone, since it is known that they are not saturated.
    thresholds
        By default those of the class.

    Returns
    -------
    Merged
        `Merged.pick` applies it.

    Raises
    ------
    OptionError
        If the method is not known, `maximum_step` is below 1, or no ramp is left besides the `reserve`.
    InputError
        If the shapes differ.
    """
    copies = ([cube.copy() for cube in cubes] for cubes in (sci, err))
    coverage = None if coverage is None else [cube.copy() for cube in coverage]
    return _merge(*copies, dq, coverage, method, reserve, maximum_step, thresholds or Thresholds())


def _merge(
    sci: Sequence[np.ndarray],
    err: Sequence[np.ndarray],
    dq: Sequence[np.ndarray],
    coverage: Sequence[np.ndarray] | None,
    method: str,
    reserve: int,
    maximum_step: int | None,
    thresholds: Thresholds,
) -> Merged:
    """`desaturate_cubes` that overwrites all but the flags."""
    if method not in METHODS:
        raise OptionError(f"method {method!r} is not known: take one of {', '.join(METHODS)}.")
    if len({cube.shape for cube in (*sci, *err, *dq)}) > 1:
        shapes = ", ".join(str(cube.shape) for cube in sci)
        raise InputError(f"the cubes have different shapes ({shapes}): give cubes of one exposure and band.")
    step = default_step(len(sci)) if maximum_step is None else maximum_step
    if step < 1:
        raise OptionError(f"maximum_step {step} must be 1 or more.")
    if not 0 <= reserve < len(sci):
        raise OptionError(f"reserve {reserve} of {len(sci)} ramps: at least the longest must be left.")
    has_data = [usable(values, flags) for values, flags in zip(sci, dq, strict=True)]
    used = slice(len(sci) - reserve)
    if method == "onset":
        # It is overwritten, but the reserve is to be compared with it.
        cover = None if coverage is None else [cube.copy() if reserve else cube for cube in coverage[used]]
        ramp, desat_type, onsets = by_onset(sci[used], err[used], has_data[used], cover, thresholds)
        free = desat_type > 0
    else:
        ramp, desat_type = by_factors(sci[used], err[used], has_data[used], thresholds)
        onsets, free = (), np.ones(ramp.shape, bool)
    limited = limit_steps(ramp, has_data[used], step, free)
    desat_type[(limited > ramp) & (desat_type == 0)] = PARTIAL
    merged = Merged(limited, desat_type, reduce(np.logical_or, has_data[used]), onsets)
    return _with_reserve(merged, has_data, coverage, reserve)


def default_step(ramps: int) -> int:
    """By how many ramps neighbours may differ, of so many."""
    return math.ceil(ramps / 5)


def _with_reserve(
    merged: Merged, has_data: Sequence[np.ndarray], coverage: Sequence[np.ndarray] | None, reserve: int
) -> Merged:
    """Give the shortest ramps to the voxels that no longer one has whole."""
    for number in range(len(has_data) - reserve, len(has_data)):
        needy = ~merged.has_data
        if coverage is not None:
            needy |= merged.pick(coverage[:number]) < coverage[number]
        needy &= has_data[number]
        ramp, desat_type = merged.ramp.copy(), merged.desat_type.copy()
        ramp[needy] = number
        desat_type[needy] = np.where(has_data[0][needy], PARTIAL, MISSING)
        merged = Merged(ramp, desat_type, merged.has_data | needy, merged.onsets)
    return merged


def desaturate_files(
    paths_in: Sequence[str | Path],
    path_out: str | Path,
    *,
    method: str = "onset",
    minimum_groups: int | None = None,
    maximum_step: int | None = None,
    apply_ratio: bool = False,
    **thresholds: float,
) -> dict[str, Any]:
    """Merge cubes of one exposure and band made from ramps of different lengths.

    Parameters
    ----------
    paths_in
        The cubes, in any order. The headers and other extensions of that of the longest ramp are kept.
    path_out
        The cube to write.
    method, maximum_step
        As in `desaturate_cubes`.
    minimum_groups
        Shorter ramps are the last resort: for voxels that in all others are without data or have lost detector pixels,
        so that there is nothing better. By default 2 in MIRI's channels 1 and 2, whose first group is poor, else 1.
    apply_ratio
        Multiply the shorter ramps by the flux ratio (long to short) measured on unsaturated voxels. The header has it
        in any case.
    **thresholds
        Attributes of `Thresholds`.

    Returns
    -------
    dict
        'notes' and 'warnings' (lists of sentences), 'groups' (of the ramps used, longest first), 'replaced' (number of
        voxels by DESAT_TYPE), 'flux_ratios' (of each ramp to the next shorter one, with its error).

    Raises
    ------
    FileFormatError
        If a file is no cube.
    InputError
        If the cubes are not of one exposure and band, or are fewer than two.
    OptionError
        If an option has a wrong name or value.
    """
    names = [item.name for item in fields(Thresholds)]
    if wrong := set(thresholds) - set(names):
        raise OptionError(f"{min(wrong)!r} is no threshold of desaturation: they are {', '.join(names)}.")
    limits = Thresholds(**thresholds)
    facts: dict[str, Any] = {"notes": [], "warnings": []}
    cubes = sorted_ramps([read_cube(path) for path in paths_in])
    groups = [_groups_of(cube) for cube in cubes]
    if len({cube.header.get("NEXPCUBE") for cube in cubes}) > 1:
        facts["warnings"].append("the cubes are made of different numbers of exposures (NEXPCUBE)")
    minimum = _minimum_groups(cubes[0].header) if minimum_groups is None else minimum_groups
    reserve = last_resorts(cubes, minimum)
    names = ("SCI", "ERR", "DQ", "WMAP") if all(map(has_coverage, cubes)) else ("SCI", "ERR", "DQ")
    # The file's own data stay as they are, in its byte order too, but for the voxels that are replaced.
    data = {name: [cube.hdul[name].data for cube in cubes] for name in names}
    for name in set(names) - {"DQ"}:
        data[name] = [values.astype(np.float32) for values in data[name]]
    sci, err, dq, coverage = (data.get(name) for name in ("SCI", "ERR", "DQ", "WMAP"))
    merged = _merge(sci, err, dq, coverage, method, reserve, maximum_step, limits)
    onsets = [*merged.onsets, *_compare(sci, err, dq, len(merged.onsets))]
    factors = np.cumprod([1.0, *(onset.ratio if apply_ratio else 1.0 for onset in onsets)])
    for number in range(1, len(cubes)):
        places = np.flatnonzero(merged.ramp == number)
        for name in names:
            values = cubes[number].hdul[name].data.take(places)
            if name in ("SCI", "ERR"):
                values = values * np.float32(factors[number])
            np.put(cubes[0].hdul[name].data, places, values)
    _set_extensions(cubes[0], groups, merged)
    options = {
        "method": method,
        "minimum_groups": minimum,
        "maximum_step": default_step(len(cubes)) if maximum_step is None else maximum_step,
        "apply_ratio": apply_ratio,
    }
    measured = {}
    for longer, shorter, onset in zip(groups[:-1], groups[1:], onsets, strict=True):
        measured[f"flux_ratio_{longer}_{shorter}"] = onset.ratio
        measured[f"flux_ratio_error_{longer}_{shorter}"] = onset.ratio_error
        if method == "onset":
            measured[f"onset_{longer}"] = onset.brightness
    cubes[0].add_note(STEP, "Desaturated", {"groups": groups, **options, **asdict(limits), **measured})
    write_cube(cubes[0], path_out)
    facts["warnings"] += _unequal(groups, onsets)
    if reserve:
        last = int((merged.has_data & (merged.ramp >= len(cubes) - reserve)).sum())
        facts["notes"].append(f"{last} voxels from ramps of fewer than {minimum} groups, since no other has them whole")
    replaced = {reason: int((merged.desat_type == reason).sum()) for reason in (MISSING, PARTIAL, OUTLIER)}
    ratios = [(onset.ratio, onset.ratio_error) for onset in onsets]
    return facts | {"groups": groups, "replaced": replaced, "flux_ratios": ratios}


def _groups_of(cube: Cube) -> int:
    groups = cube.header.get("NGROUPS")
    if not isinstance(groups, int):
        raise InputError(f"{cube.path} has no NGROUPS in its header, so its ramp length is not known: make it anew.")
    return groups


def sorted_ramps(cubes: list[Cube]) -> list[Cube]:
    """Longest ramp first; `InputError` if the cubes are not ramps of one exposure and band, or fewer than two."""
    cubes = sorted(cubes, key=_groups_of, reverse=True)
    first = cubes[0]
    if len(cubes) < 2:
        raise InputError(f"{first.path} is the only cube: give those of the same exposure with fewer groups, too.")
    for longer, cube in pairwise(cubes):
        if _groups_of(longer) == _groups_of(cube):
            raise InputError(f"{longer.path} and {cube.path} both have {_groups_of(cube)} groups: give one of them.")
    for cube in cubes[1:]:
        for key in _SAME_KEYS:
            if first.header.get(key) != cube.header.get(key):
                raise InputError(
                    f"{cube.path} is of another exposure or band than {first.path} ({key} is {cube.header.get(key)}, "
                    f"not {first.header.get(key)}): give cubes of one exposure and band."
                )
        if cube.shape != first.shape or not _same_grid(first, cube):
            raise InputError(
                f"{cube.path} {cube.shape} and {first.path} {first.shape} have different spaxels or wavelengths: "
                "build them alike."
            )
    return cubes


def _same_grid(first: Cube, cube: Cube) -> bool:
    wavelength = first.wavelength
    step = np.ptp(wavelength) / max(wavelength.size - 1, 1)
    if not np.allclose(wavelength, cube.wavelength, rtol=1e-6, atol=1e-3 * step):
        return False
    if all(first.sci_header.get(key) == cube.sci_header.get(key) for key in _SKY_KEYS):
        return True
    # Navigation may have shifted each a little; half a spaxel is another field.
    a, b = celestial_wcs(first.sci_header), celestial_wcs(cube.sci_header)
    if not np.allclose(a.pixel_scale_matrix, b.pixel_scale_matrix, atol=1e-3 * spaxel_scale(first.sci_header) / 3600):
        return False
    place = (first.shape[2] / 2, first.shape[1] / 2)
    shift = np.subtract(b.all_world2pix(*a.all_pix2world(*place, 0), 0), place)
    return bool(np.hypot(*shift) < 0.5)


def _minimum_groups(header: fits.Header) -> int:
    return 2 if header.get("INSTRUME") == "MIRI" and str(header.get("CHANNEL")) in _POOR_FIRST_GROUP else 1


def last_resorts(cubes: Sequence[Cube], minimum: int | None = None) -> int:
    """How many of the cubes, longest ramp first, have fewer groups than `minimum_groups` of `desaturate_files`."""
    minimum = _minimum_groups(cubes[0].header) if minimum is None else minimum
    return sum(_groups_of(cube) < minimum for cube in cubes[1:])


def _compare(sci: Sequence[np.ndarray], err: Sequence[np.ndarray], dq: Sequence[np.ndarray], first: int) -> list[Onset]:
    """Each ramp, from the `first` on, with the next shorter one."""
    return [
        compare_ramps(sci[i], err[i], sci[i + 1], err[i + 1], usable(sci[i], dq[i]) & usable(sci[i + 1], dq[i + 1]))
        for i in range(first, len(sci) - 1)
    ]


def _unequal(groups: Sequence[int], onsets: Sequence[Onset]) -> list[str]:
    """A warning for each ramp that does not agree with the next shorter one where neither is saturated."""
    return [
        f"the flux of {longer} groups is {onset.ratio:.3f} x that of {shorter} where nothing saturates: 'apply_ratio' "
        "scales them"
        for longer, shorter, onset in zip(groups[:-1], groups[1:], onsets, strict=True)
        if abs(onset.ratio - 1) > max(UNEQUAL, 5 * onset.ratio_error)
    ]


def has_coverage(cube: Cube) -> bool:
    """Whether WMAP says how many detector pixels each voxel is made of."""
    return "WMAP" in cube.hdul and cube.hdul["WMAP"].shape == cube.shape


def _set_extensions(cube: Cube, groups: Sequence[int], merged: Merged) -> None:
    used = np.where(merged.has_data, np.array(groups, np.int16)[merged.ramp], np.int16(0))
    cube.set_extension("NGROUPS", used, "", "Number of groups of the ramp that each voxel is from; 0 without data.")
    comment = "Why a voxel is not from the longest ramp: there it was 1 missing, 2 partially saturated, 3 an outlier."
    cube.set_extension("DESAT_TYPE", merged.desat_type, "", f"{comment} 0: it is from the longest.")


def _command(argv: Sequence[str] | None) -> dict[str, Any]:
    parser = ArgumentParser(
        prog="desaturate.py", description="Merge cubes of one exposure, reduced from different numbers of groups."
    )
    parser.add_argument(
        "paths_in", metavar="IN", nargs="+", help="cubes to read (*_s3d.fits), two or more in any order"
    )
    parser.add_argument("path_out", metavar="OUT", help="cube to write")
    parser.add_flag("method", choices=METHODS, default="onset", help="how saturated voxels are found")
    parser.add_flag(
        "minimum_groups",
        type=int,
        default=None,
        help="shorter ramps are the last resort (MIRI ch. 1, 2: 2; else 1)",
    )
    parser.add_flag(
        "maximum_step", type=int, default=None, help="ramps that neighbours may differ by (number of cubes / 5)"
    )
    parser.add_flag("apply_ratio", action="store_true", help="scale shorter ramps by the measured flux ratio")
    for item in fields(Thresholds):
        parser.add_flag(
            item.name, type=type(item.default), default=item.default, help="threshold, see the class Thresholds"
        )
    facts = desaturate_files(**vars(parser.parse_args(argv)))
    missing, partial, outliers = facts["replaced"].values()
    print(f"replaced {missing} missing, {partial} partially saturated and {outliers} outlying voxels")
    return facts


def main(argv: Sequence[str] | None = None) -> int:
    """The command `python desaturate.py IN IN... OUT [options]`; returns its exit status."""
    return run_command(_command, argv)


if __name__ == "__main__":
    sys.exit(main())
