"""How the steps of an instrument's pipeline become tasks: planning, without running anything.

In: the exposures of a data root, the steps of the instrument and the user's options. Out: a `pipeline.plan.Plan`. The
products that flow from step to step (`Product`) carry what their exposure's header told, so a whole run is planned
before the first file is made. A step that is left out passes on what it would have made where that exists already,
else what it would have read: no later step is starved.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from observations import Exposure, ExposureRoles
from pipeline import Task


@dataclass(frozen=True)
class Product:
    """A file that exists or will exist, and what is known of it.

    Attributes
    ----------
    path
        Where it is or will be.
    level
        'uncal', 'rate', 'cal' or 'cube'.
    exposure
        Header facts of the exposure (of the first one, for a cube).
    role
        'science', 'background' or 'imprint'.
    band
        Of a cube: 'ch1-short', 'g395h-f290lp'.
    place
        Of a cube: 'd1', 'd2', ..., 'combined'.
    tile
        Label of the mosaic tile, '' where there is only one.
    variants
        Tags such as 'bg', 'fringe1d'.
    groups
        Number of groups that the ramp was cut to; None for the whole ramp.
    """

    path: Path
    level: str
    exposure: Exposure
    role: str = "science"
    band: str = ""
    place: str = ""
    tile: str = ""
    variants: frozenset[str] = frozenset()
    groups: int | None = None

    def base(self, root: Path) -> Path:
        """The folder that has this product's stages: the root, or `groups/{n}_groups` in it."""
        return root if self.groups is None else root / "groups" / f"{self.groups}_groups"

    @property
    def key(self) -> tuple:
        """What tells a cube from all others of its step."""
        return self.place, self.tile, self.band, self.variants, self.groups

    @property
    def directory(self) -> str:
        """Name of a cube's directory below its stage: 'd2_bg_fringe1d'."""
        return "_".join([self.place, *sorted(self.variants)])


@dataclass(frozen=True)
class Made:
    """A planned task with the products that it makes, and those that later steps shall read no more because of it."""

    task: Task
    makes: list[Product] = field(default_factory=list)
    replaces: list[Product] = field(default_factory=list)


@dataclass(frozen=True)
class Options:
    """What the user asked for, as the planning of the steps needs it.

    Attributes
    ----------
    root
        Folder that holds `stage0`.
    background_subtract
        True, False or 'both': cubes with the background subtracted, without, or either. Where there is no background,
        cubes are made without.
    background_path
        Root of the background observation, reduced to stage 1. Without it the root's own background exposures
        (BKGDTARG) serve.
    cube_build_weighting
        'drizzle', 'emsm' or 'msm'.
    basic_navigation
        Only RA and Dec backplanes, without SPICE kernels.
    fit_pointing
        Find the disc in each cube and correct the pointing by it.
    desaturate
        True: reduce the data also with fewer groups and take saturated voxels from those. 'ramp': choose the groups of
        each detector pixel before the ramp fit; stages 2 and 3 run once only.
    groups_to_use
        Numbers of groups for `desaturate`; None: all.
    defringe, defringe_1d, correct_psf
        True, False or 'both': correct residual fringes of the calibrated exposures (2-D), of the cubes' spectra (1-D),
        the darkening of the limb by the PSF.
    flat_data_path
        Flat file, folder of flats, or file name in which {channel}, {band} and {fringe}, or {grating} and {filter}, are
        filled in.
    construct_flats
        Make flats of this observation's own dithers (at least four) and use them.
    step_kwargs
        Parameters of single steps; those of stages 1-3 by `jwst` step:
        {'stage1': {'jump': {'rejection_threshold': 5.0}}, 'navigate': {'ra_offset': 0.1}}.
    """

    root: Path
    background_subtract: bool | str = "both"
    background_path: Path | None = None
    cube_build_weighting: str = "drizzle"
    basic_navigation: bool = False
    fit_pointing: bool = False
    desaturate: bool | str = False
    groups_to_use: tuple[int, ...] | None = None
    defringe: bool | str = False
    defringe_1d: bool | str = "both"
    correct_psf: bool | str = False
    flat_data_path: str | None = None
    construct_flats: bool = False
    step_kwargs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def of_step(self, step: str) -> dict[str, Any]:
        """The user's own parameters for a step."""
        return dict(self.step_kwargs.get(step, {}))


@dataclass(frozen=True)
class Step:
    """One step of a pipeline: what it reads and makes, and how its tasks are planned.

    `plan(products, options)` yields each task with the products it makes; `products` are those of level `reads`, with
    `reads_replaced` also those that other steps have replaced by what they made of them.
    """

    name: str
    reads: str
    plan: Callable[[list[Product], Options], Iterable[Made]]
    reads_replaced: bool = False


def plan_steps(
    steps: Sequence[Step], active: Sequence[str], products: Iterable[Product], options: Options
) -> list[Task]:
    """Plan the active steps, in order.

    Parameters
    ----------
    steps
        All steps of the pipeline.
    active
        Names of those that are to run.
    products
        What there is to begin with.
    options
        The user's options.

    Returns
    -------
    list of Task
    """
    # By their paths: there may be tens of thousands.
    available = {product.path: product for product in products}
    ever = list(available.values())
    # What steps that are left out would have made and is not there (any more): later ones of them may have made
    # something of it that is.
    gone: list[Product] = []
    tasks = []
    for step in steps:
        pool = ever if step.reads_replaced else list(available.values())
        if step.name not in active:
            pool = pool + gone
        for made in step.plan([product for product in pool if product.level == step.reads], options):
            if step.name in active:
                tasks.append(made.task)
            elif not made.makes or not all(product.path.exists() for product in made.makes):
                gone += made.makes
                continue
            for product in made.replaces:
                available.pop(product.path, None)
            available |= {product.path: product for product in made.makes}
            ever += made.makes
    return tasks


def starting_products(roles: ExposureRoles, level: str) -> list[Product]:
    """The products that a run begins with, one for each exposure that is used."""
    groups = (("science", roles.science), ("background", roles.background), ("imprint", roles.imprint))
    return [Product(e.path, level, e, role) for role, exposures in groups for e in exposures]
