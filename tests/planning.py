"""Planning a run of either instrument without running anything: its exposures, and what it is expected to make."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from test_observations import MRS

import miri_pipeline
import nirspec_pipeline
from instrument_pipeline import _steps
from instruments import Instrument
from miri_pipeline import MIRI
from nirspec_pipeline import NIRSPEC
from observations import Exposure, sort_by_role
from pipeline import Task
from reduction import Options, plan_steps, starting_products

NRS1 = replace(
    MRS,
    instrument="NIRSPEC",
    exposure_type="NRS_IFU",
    detector="NRS1",
    channel="N/A",
    band="N/A",
    filter="F290LP",
    grating="G395H",
)


@dataclass(frozen=True)
class Planner:
    """Makes exposures of an instrument in a data root and plans what becomes of them.

    Attributes
    ----------
    instrument, steps
        Whose they are, and all its steps.
    exposure
        The usual one.
    bands
        Of the cubes that it contributes to.
    prefixes
        What plots and animations of each are called by.
    other
        Changes that make it an exposure of another setting.
    acquisition
        Changes that make it one of a target acquisition.
    root
        Of the data.
    """

    instrument: Instrument
    steps: tuple[str, ...]
    exposure: Exposure
    bands: tuple[str, ...]
    prefixes: tuple[str, ...]
    other: dict[str, str]
    acquisition: dict[str, str]
    root: Path = field(default_factory=Path)

    @property
    def cubes(self) -> list[str]:
        """Names of the cubes of a dither."""
        return [f"Level3_{band}_s3d" for band in self.bands]

    def expose(self, **changes) -> Exposure:
        """An exposure whose (empty) file exists in the root."""
        exposure = replace(self.exposure, **changes)
        name = (
            f"jw01247{exposure.observation}{exposure.visit}_02{exposure.activity}_{exposure.dither:05d}"
            f"_{exposure.detector.lower()}{'_sky' if exposure.is_background else ''}_uncal.fits"
        )
        path = self.root / "stage0" / name
        path.touch()
        return replace(exposure, path=path)

    def plan(self, exposures, active=None, backgrounds=(), **options) -> list[Task]:
        """The tasks of the steps `active`, by default all; fringes of cubes are left, unless asked for."""
        active = self.steps if active is None else active
        options = Options(root=self.root, **{"defringe_1d": False} | options)
        roles = sort_by_role(exposures, self.instrument.exposure_type, self.instrument.sees_light)
        steps = _steps(self.instrument, options, backgrounds, active)
        return plan_steps(steps, active, starting_products(roles, "uncal"), options)

    def outputs(self, tasks, step) -> list[str]:
        """What the tasks of a step make, relative to the root and sorted."""
        return sorted(str(path.relative_to(self.root)) for task in tasks if task.step == step for path in task.outputs)


PLANNERS = {
    "miri": Planner(
        MIRI,
        miri_pipeline.STEPS,
        MRS,
        bands=("ch1-short", "ch2-short"),
        prefixes=("1A_", "2A_"),
        other={"band": "LONG"},
        acquisition={"exposure_type": "MIR_TACQ", "detector": "MIRIMAGE"},
    ),
    "nirspec": Planner(
        NIRSPEC,
        nirspec_pipeline.STEPS,
        NRS1,
        bands=("g395h-f290lp",),
        prefixes=("",),
        other={"grating": "G235H", "filter": "F170LP"},
        acquisition={"exposure_type": "NRS_WATA"},
    ),
}


def planner_of(name: str, root: Path, monkeypatch) -> Planner:
    """The planner of an instrument in an empty data root, with a kernel somewhere."""
    monkeypatch.setenv("PLANETMAPPER_KERNEL_PATH", str(root))
    (root / "leapseconds.tls").touch()
    (root / "stage0").mkdir()
    return replace(PLANNERS[name], root=root)
