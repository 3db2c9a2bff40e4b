"""Choose for each detector pixel which groups of its ramp are fitted, so that bright pixels are saved in one go.

In: the groups and group flags of an exposure inside `Detector1Pipeline`, after linearity and before the jump step.
Out, in place: flags with which the ramp fit uses every group that is not saturated, and only those. Stages 2 and 3
then run once, and no voxel is drizzled from what is left of a half-saturated neighbourhood; `desaturate` needs a run
of its own for each ramp length.

1. Onset: the reading from which ramps bend is found from the exposure itself: each step up a ramp is compared with the
   mean of the steps before it (`saturation_onset`). It matters where the saturation reference file is too high.
2. Pixels left with fewer than two groups get back those that the firstframe, rscd and lastframe steps have taken.
3. With `minimum_groups` 1, pixels that saturate in the second group get the rate of the first. MIRI's readings start
   from a pedestal, which is measured per amplifier on pixels that are not saturated, and taken off.

Pixels of 2 and 3 are flagged FLUX_ESTIMATED. `stage1_steps` gives the parameters of `Detector1Pipeline` that do so.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from saturation_onset import MINIMUM_SNR, compare_ramps

if TYPE_CHECKING:
    from stdatamodels.jwst.datamodels import RampModel

# Group flags, as in `stdatamodels.jwst.datamodels.dqflags.group`, and pixel flags, as in `dqflags.pixel`.
DO_NOT_USE, SATURATED = 1, 2
FLUX_ESTIMATED, REFERENCE_PIXEL = 2**28, 2**31
HOOK = "ramp_desaturation_step.ChooseGroupsStep"
AMPLIFIERS = 4  # MIRI reads every fourth column through the same amplifier
PIXELS_FOR_ONSET = 100_000
MINIMUM_STEP_DN = 25.0  # fainter ramps tell nothing about saturation


@dataclass(frozen=True)
class ChosenGroups:
    """What was chosen.

    Attributes
    ----------
    onset
        Linearised reading [DN] from which groups are not used; inf if none bend.
    newly_saturated
        Pixels that have lost groups by it.
    given_back
        Pixels that have got groups back.
    one_group
        Pixels that have the first group only.
    lost
        Pixels saturated in the first group, or in the second where that is one too few.
    """

    onset: float
    newly_saturated: int
    given_back: int
    one_group: int
    lost: int


def stage1_steps(
    steps: Mapping[str, Mapping[str, Any]] | None = None, *, minimum_groups: int = 1, onset_drop: float = 0.02
) -> dict[str, dict[str, Any]]:
    """Parameters of the steps of `Detector1Pipeline` with which it chooses the groups of each pixel.

    Parameters
    ----------
    steps
        Parameters that are wanted besides.
    minimum_groups
        Groups that a pixel needs: 2, or 1 to use also the first group alone. With 2, pixels that saturate in the second
        group have no value, and voxels beside them are made from what is left.
    onset_drop
        By what share a step up the ramp must fall short to be called saturated.

    Returns
    -------
    dict
        Plain data. The hook runs before the jump step, also where that is skipped.
    """
    merged = {name: dict(parameters) for name, parameters in (steps or {}).items()}
    jump, fit = merged.setdefault("jump", {}), merged.setdefault("ramp_fit", {})
    # `stpipe` takes whatever is before the last full stop for the module's name: the number must not have one.
    hook = f"{HOOK}(minimum_groups={minimum_groups}, onset_drop={round(onset_drop * 1e6)}e-6)"
    jump["pre_hooks"] = [*jump.get("pre_hooks", []), hook]
    fit["suppress_one_group"] = minimum_groups > 1
    return merged


def choose_groups(
    data: np.ndarray, groupdq: np.ndarray, pixeldq: np.ndarray, *, minimum_groups: int = 1, onset_drop: float = 0.02
) -> ChosenGroups:
    """Flag groups so that each pixel is fitted with all that are not saturated, in place.

    Parameters
    ----------
    data
        Linearised readings [DN], (integrations, groups, rows, columns).
    groupdq
        Group flags, same shape.
    pixeldq
        Pixel flags, (rows, columns).
    minimum_groups, onset_drop
        As in `stage1_steps`.

    Returns
    -------
    ChosenGroups
    """
    onset = find_ramp_onset(data, groupdq, pixeldq, onset_drop)
    newly_saturated = _flag_from(onset, data, groupdq)
    given_back, one_group, lost = 0, 0, 0
    science = _is_science(pixeldq)
    for flags in groupdq:
        whole = _unsaturated_run(flags)
        good = _count_good(flags)
        needy = science & (good < 2) & (whole > good) & (whole >= minimum_groups)
        for number in range(min(2, len(flags))):
            # Only what a step flagged for the whole exposure; a group with a fault of its own stays out.
            back = needy & (whole > number) & (flags[number] == DO_NOT_USE)
            flags[number][back] = 0
        single = science & (whole == 1) & (_count_good(flags) == 1)
        pixeldq[needy | single] |= FLUX_ESTIMATED
        given_back += int(needy.sum())
        one_group += int(single.sum())
        lost += int((science & (whole < minimum_groups)).sum())
    return ChosenGroups(onset, newly_saturated, given_back, one_group, lost)


def find_ramp_onset(data: np.ndarray, groupdq: np.ndarray, pixeldq: np.ndarray, onset_drop: float = 0.02) -> float:
    """The reading from which ramps bend.

    Parameters
    ----------
    data, groupdq, pixeldq
        As in `choose_groups`.
    onset_drop
        By what share the steps must fall short of those before them in the same ramp.

    Returns
    -------
    float
        Linearised reading [DN] at the end of the first step that falls short; inf if none does or there are too few
        ramps of three groups to tell.
    """
    if data.shape[1] < 3:
        return np.inf
    steps, before, readings = [], [], []
    for ramp, flags in zip(data, groupdq, strict=True):
        chosen = _pixels_for_onset(ramp, flags, pixeldq)
        values, usable = ramp[:, chosen], flags[:, chosen] == 0
        total, count = np.zeros(chosen.sum()), np.zeros(chosen.sum())
        for group in range(1, len(values)):
            step = values[group] - values[group - 1]
            valid = usable[group] & usable[group - 1]
            tested = valid & (count > 0)
            steps.append(step[tested])
            before.append(total[tested] / count[tested])
            readings.append(values[group][tested])
            total[valid] += step[valid]
            count[valid] += 1
    step, mean, reading = (np.concatenate(parts).astype(np.float32) for parts in (steps, before, readings))
    bright = mean > MINIMUM_SNR**2
    step, mean, reading = step[bright], mean[bright], reading[bright]
    # Proportional to the photon noise; what it really is, is measured.
    error = np.sqrt(mean)
    columns = (column[:, np.newaxis] for column in (step, error, mean, error, np.ones(step.shape, bool)))
    return compare_ramps(*columns, brightness=lambda places: reading[places], drop=onset_drop).brightness


def _pixels_for_onset(ramp: np.ndarray, flags: np.ndarray, pixeldq: np.ndarray) -> np.ndarray:
    """A sample of the pixels, the brighter half of it: mask (rows, columns)."""
    science = _is_science(pixeldq)
    rise = np.where(_unsaturated_run(flags) >= 2, ramp[min(1, len(ramp) - 1)] - ramp[0], np.inf)
    with np.errstate(invalid="ignore"):
        science &= rise > MINIMUM_STEP_DN
    places = np.flatnonzero(science)
    chosen = np.zeros(science.size, bool)
    chosen[places[:: 1 + places.size // PIXELS_FOR_ONSET]] = True
    return chosen.reshape(science.shape)


def _is_science(pixeldq: np.ndarray) -> np.ndarray:
    return pixeldq & np.uint32(DO_NOT_USE | REFERENCE_PIXEL) == 0


def _unsaturated_run(flags: np.ndarray) -> np.ndarray:
    """How many groups come before the first saturated one, (rows, columns)."""
    return np.cumprod(flags & SATURATED == 0, axis=0, dtype=np.int16).sum(axis=0)


def _count_good(flags: np.ndarray) -> np.ndarray:
    return (flags & (SATURATED | DO_NOT_USE) == 0).sum(axis=0)


def _flag_from(onset: float, data: np.ndarray, groupdq: np.ndarray) -> int:
    """Flag the groups from the first reading above the onset on as saturated; count the pixels that it changes."""
    if not np.isfinite(onset):
        return 0
    changed = 0
    for ramp, flags in zip(data, groupdq, strict=True):
        above = np.logical_or.accumulate(ramp >= onset, axis=0)
        changed += int((above & (flags & SATURATED == 0)).any(axis=0).sum())
        flags[above] |= SATURATED
    return changed


def pedestals(data: np.ndarray, groupdq: np.ndarray, pixeldq: np.ndarray) -> np.ndarray:
    """Reading of each amplifier without light [DN], from the first two groups of pixels that are unsaturated in both.

    Parameters
    ----------
    data, groupdq, pixeldq
        As in `choose_groups`.

    Returns
    -------
    numpy.ndarray
        (integrations, AMPLIFIERS): median of the straight lines through both, at the time of the reset; NaN where no
        pixel tells.
    """
    result = np.full((len(data), AMPLIFIERS), np.nan)
    science = _is_science(pixeldq)
    for ramp, flags, row in zip(data, groupdq, result, strict=True):
        if len(ramp) < 2:
            continue
        usable = science & (_unsaturated_run(flags) >= 2)
        for amplifier in range(AMPLIFIERS):
            columns = (slice(None), slice(amplifier, None, AMPLIFIERS))
            chosen = usable[columns]
            if chosen.any():
                row[amplifier] = np.median((2 * ramp[0][columns] - ramp[1][columns])[chosen])
    return result


def remove_pedestals(data: np.ndarray, groupdq: np.ndarray, pixeldq: np.ndarray) -> np.ndarray:
    """Take the `pedestals` off all readings, in place; slopes stay what they are. Returns them."""
    found = pedestals(data, groupdq, pixeldq)
    for ramp, row in zip(data, np.nan_to_num(found), strict=True):
        for amplifier, value in enumerate(row):
            ramp[:, :, amplifier::AMPLIFIERS] -= np.float32(value)
    return found


def choose_groups_of_model(model: "RampModel", *, minimum_groups: int = 1, onset_drop: float = 0.02) -> ChosenGroups:
    """`choose_groups` of a `RampModel`, in place; for MIRI with `minimum_groups` 1 after `remove_pedestals`."""
    arrays = model.data, model.groupdq, model.pixeldq
    if minimum_groups == 1 and model.meta.instrument.name == "MIRI":
        remove_pedestals(*arrays)
    return choose_groups(*arrays, minimum_groups=minimum_groups, onset_drop=onset_drop)
