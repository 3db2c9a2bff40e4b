"""How much room the products of a plan take on disk, before they are made.

Sizes pass from file to file: rate images and calibrated exposures have the size of the detector, however many groups
the raw ones have; a corrected cube has the size of the cube it is made from and of what the step adds. Measured on
reductions of simulated observations: float32 images without compression.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from instruments import Instrument
from pipeline import Task

# Size of a step's output in sizes of the cube it reads: a voxel has 16 bytes (SCI, ERR, DQ, WMAP), and more with FLAT
# and FLAT_ERR (8), the model of the PSF (4), NGROUPS and DESAT_TYPE (3), SPIKES (1).
GROWTH = {"navigate": 1.02, "defringe_1d": 1.01, "psf": 1.26, "desaturate": 1.19, "flat": 1.5, "despike": 1.07}
CONSTRUCTED_FLAT = 0.5
# Of dithers that lie side by side, in cubes of one of them.
COMBINED_GROWTH = 1.45
PICTURE_BYTES = {"plot": 0.4e6, "animate": 5e6, "report": 5e6}


def product_bytes(instrument: Instrument, tasks: Sequence[Task], groups: Mapping[Path, int]) -> dict[Path, float]:
    """Expected size [bytes] of every file that tasks will make.

    Parameters
    ----------
    instrument
        Whose tasks they are.
    tasks
        In the order of the steps.
    groups
        Number of groups of each raw exposure.
    """
    sizes: dict[Path, float] = {}
    for task in tasks:
        sizes.update({path: _expected(instrument, task, path, sizes, groups) for path in task.outputs})
    return sizes


def _expected(
    instrument: Instrument, task: Task, output: Path, sizes: Mapping[Path, float], groups: Mapping[Path, int]
) -> float:
    if task.step in PICTURE_BYTES:
        return PICTURE_BYTES[task.step]
    if task.step == "stage1":
        return instrument.rate_bytes
    if task.step in ("stage2", "defringe", "cosmic_rays"):
        return instrument.calibrated_bytes
    if task.step == "stage3":
        band = output.name.split("_")[-2]
        return instrument.cube_bytes(band) * (COMBINED_GROWTH if output.parent.name.startswith("combined") else 1.0)
    first = task.inputs[0]
    size = sizes.get(first) or (first.stat().st_size if first.is_file() else 0.0)
    if task.step == "remove_groups":
        return size * task.arguments["groups"] / max(groups[first], 1)
    constructed = task.step == "flat" and "paths_in" in task.arguments
    return size * (CONSTRUCTED_FLAT if constructed else GROWTH[task.step])


def bytes_needed(
    instrument: Instrument,
    tasks: Sequence[Task],
    pending: Sequence[Task],
    groups: Mapping[Path, int],
    at_once: int,
) -> float:
    """Room [bytes] that tasks need on top of what is there: for their products, and for what they keep meanwhile.

    Parameters
    ----------
    instrument, tasks, groups
        As in `product_bytes`.
    pending
        Those of the tasks that will run.
    at_once
        How many of them run at one time: beside its outputs each may keep as much as it reads and writes.
    """
    sizes = product_bytes(instrument, tasks, groups)
    made, meanwhile = 0.0, []
    for task in pending:
        outputs = sum(sizes[path] for path in task.outputs)
        # What is there already is removed before it is made anew.
        made += outputs - sum(path.stat().st_size for path in task.outputs if path.is_file())
        meanwhile.append(outputs + sum(sizes.get(path, 0.0) for path in task.inputs))
    return made + sum(sorted(meanwhile)[-at_once:])
