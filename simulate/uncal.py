"""Level-1b files as the archive has them: a ramp and its header, the tables of group and integration times.

Written through the `jwst` data model, so that the file has the ASDF extension that `jwst` reads its metadata from.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.time import Time, TimeDelta

from files import written_whole

if TYPE_CHECKING:
    from stdatamodels.jwst.datamodels import Level1bModel

SECONDS_PER_DAY = 86400.0
# The on-board clock counts from 2000-01-01 [MJD].
CLOCK_ZERO = 51544


def write_uncal(path: Path, ramp: np.ndarray, metadata: dict[str, Any]) -> None:
    """Write a ramp as a level-1b file: SCI, GROUP, INT_TIMES and the data model's own ASDF extension.

    Parameters
    ----------
    path
        File to write, whole or not at all.
    ramp
        Readings [DN], uint16, shape (groups, rows, columns).
    metadata
        As from `exposure_metadata`.
    """
    from stdatamodels.jwst import datamodels

    with datamodels.Level1bModel(ramp[np.newaxis]) as model:
        for place, value in metadata.items():
            model[place] = value
        model.group = _group_table(model, metadata)
        model.int_times = _integration_table(model, metadata)
        with written_whole(path) as temporary:
            model.save(str(temporary))


def _group_table(model: "Level1bModel", metadata: dict[str, Any]) -> np.ndarray:
    groups = metadata["meta.exposure.ngroups"]
    start = Time(metadata["meta.exposure.start_time"], format="mjd", scale="utc")
    ends = start + TimeDelta(metadata["meta.exposure.group_time"] * np.arange(1, groups + 1), format="sec")
    table = np.zeros(groups, dtype=model.get_dtype("group"))
    table["integration_number"] = 1
    table["group_number"] = np.arange(1, groups + 1)
    days = ends.mjd - CLOCK_ZERO
    table["end_day"] = np.floor(days)
    table["end_milliseconds"] = (days % 1) * SECONDS_PER_DAY * 1000
    table["group_end_time"] = ends.isot
    table["number_of_columns"] = metadata["meta.subarray.xsize"]
    table["number_of_rows"] = metadata["meta.subarray.ysize"]
    table["completion_code_text"] = "COMPLETE"
    for name, field in (("barycentric", "bary_end_time"), ("heliocentric", "helio_end_time")):
        table[field] = ends.mjd + metadata[f"meta.time.{name}_correction"] / SECONDS_PER_DAY
    return table


def _integration_table(model: "Level1bModel", metadata: dict[str, Any]) -> np.ndarray:
    table = np.zeros(1, dtype=model.get_dtype("int_times"))
    table["integration_number"] = 1
    for name in ("start", "mid", "end"):
        table[f"int_{name}_MJD_UTC"] = metadata[f"meta.exposure.{name}_time"]
        table[f"int_{name}_BJD_TDB"] = (
            metadata[f"meta.exposure.{name}_time_tdb"] + metadata["meta.time.barycentric_correction"] / SECONDS_PER_DAY
        )
    return table
