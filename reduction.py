"""How the steps of an instrument's pipeline become tasks: planning, without running anything.

In: the exposures of a data root, the steps of the instrument and the user's options. Out: a `pipeline.plan.Plan`. The
products that flow from step to step (`Product`) carry what their exposure's header told, so a whole run is planned
before the first file is made. A step that is left out passes on what it would have made where that exists already,
else what it would have read: no later step is starved.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from observations import Exposure, ExposureRoles, tile_labels
from pipeline import Task

GIGABYTE = 1e9
COMBINED = "combined"


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
    """

    path: Path
    level: str
    exposure: Exposure
    role: str = "science"
    band: str = ""
    place: str = ""
    tile: str = ""
    variants: frozenset[str] = frozenset()

    @property
    def directory(self) -> str:
        """Name of a cube's directory below its stage: 'd2_bg_fringe1d'."""
        return "_".join([self.place, *sorted(self.variants)])


Made = tuple[Task, list[Product]]


@dataclass(frozen=True)
class Options:
    """What the user asked for, as the planning of the steps needs it."""

    root: Path
    background_subtract: bool | str = "both"
    background_path: Path | None = None
    cube_build_weighting: str = "drizzle"
    basic_navigation: bool = False
    fit_pointing: bool = False
    step_kwargs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def of_step(self, step: str) -> dict[str, Any]:
        """The user's own parameters for a step."""
        return dict(self.step_kwargs.get(step, {}))


@dataclass(frozen=True)
class Step:
    """One step of a pipeline: what it reads and makes, and how its tasks are planned.

    `plan(products, options)` yields each task with the products it makes; `products` are those of level `reads`.
    """

    name: str
    reads: str
    makes: str | None
    plan: Callable[[list[Product], Options], Iterable[Made]]


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
    available = list(products)
    tasks = []
    for step in steps:
        inputs = [product for product in available if product.level == step.reads]
        made = list(step.plan(inputs, options))
        if step.name in active:
            tasks += [task for task, _ in made]
            new = [product for _, outputs in made for product in outputs]
        else:
            new = [product for _, outputs in made for product in outputs if product.path.exists()]
        if step.makes == step.reads:
            replaced = {(p.place, p.tile, p.band, p.variants, p.exposure.path.name) for p in new}
            available = [
                p for p in available if (p.place, p.tile, p.band, p.variants, p.exposure.path.name) not in replaced
            ]
        available += new
    return tasks


def merged_steps(*parameters: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Merge parameters of `jwst` steps; later ones win."""
    merged: dict[str, dict[str, Any]] = {}
    for steps in parameters:
        for name, values in steps.items():
            merged[name] = {**merged.get(name, {}), **values}
    return merged


def starting_products(roles: ExposureRoles, level: str) -> list[Product]:
    """The products that a run begins with, one for each exposure that is used."""
    groups = (("science", roles.science), ("background", roles.background), ("imprint", roles.imprint))
    return [Product(e.path, level, e, role) for role, exposures in groups for e in exposures]


def with_variants(product: Product, variants: Iterable[str]) -> Product:
    """The same product with these tags."""
    return dataclasses.replace(product, variants=frozenset(variants))


# --- the steps that every instrument has --------------------------------------------------------------------------


def plan_stage1(
    products: Iterable[Product],
    options: Options,
    *,
    defaults: Callable[[Exposure], Mapping[str, Mapping[str, Any]]],
    versions: Mapping[str, str],
) -> Iterator[Made]:
    """One ramp fit per exposure, `stage0/*_uncal.fits` to `stage1/*_rate.fits`."""
    for product in products:
        out = options.root / "stage1" / f"{product.exposure.name}_rate.fits"
        size = product.path.stat().st_size
        task = Task(
            step="stage1",
            function="jwst_stages:run_stage1",
            arguments={
                "path_in": product.path,
                "path_out": out,
                "steps": merged_steps(defaults(product.exposure), options.of_step("stage1")),
            },
            inputs=(product.path,),
            outputs=(out,),
            versions=dict(versions),
            memory=0.5 * GIGABYTE + 30 * size,
        )
        yield task, [dataclasses.replace(product, path=out, level="rate")]


def plan_stage2(
    products: list[Product],
    options: Options,
    *,
    defaults: Mapping[str, Mapping[str, Any]],
    backgrounds: Callable[[Exposure], Sequence[Path]],
    versions: Mapping[str, str],
) -> Iterator[Made]:
    """One calibration per science exposure and variant, to `stage2/` and, background-subtracted, `stage2/bg/`."""
    imprints = [p for p in products if p.role == "imprint"]
    for product in (p for p in products if p.role == "science"):
        exposure = product.exposure
        leakcal = [p for p in imprints if p.exposure.mode == exposure.mode]
        same_dither = [p for p in leakcal if p.exposure.dither == exposure.dither]
        for variants, background in _background_variants(options, backgrounds(exposure)):
            directory = options.root / "stage2" / "bg" if background else options.root / "stage2"
            out = directory / f"{exposure.name}_cal.fits"
            members = {"backgrounds": background, "imprints": [p.path for p in same_dither or leakcal]}
            task = Task(
                step="stage2",
                function="jwst_stages:run_stage2",
                arguments={
                    "path_in": product.path,
                    "path_out": out,
                    **members,
                    "steps": merged_steps(defaults, options.of_step("stage2")),
                },
                inputs=(product.path, *members["backgrounds"], *members["imprints"]),
                outputs=(out,),
                versions=dict(versions),
                memory=1.0 * GIGABYTE,
            )
            yield task, [dataclasses.replace(product, path=out, level="cal", variants=frozenset(variants))]


def _background_variants(options: Options, backgrounds: Sequence[Path]) -> list[tuple[set[str], list[Path]]]:
    variants: list[tuple[set[str], list[Path]]] = []
    if options.background_subtract is not True or not backgrounds:
        variants.append((set(), []))
    if options.background_subtract and backgrounds:
        variants.append(({"bg"}, list(backgrounds)))
    return variants


def plan_stage3(
    products: list[Product],
    options: Options,
    *,
    defaults: Mapping[str, Mapping[str, Any]],
    bands: Callable[[Exposure], Sequence[str]],
    versions: Mapping[str, str],
) -> Iterator[Made]:
    """Cubes of every dither, tile, setting and variant, and of all dithers combined where there is more than one."""
    tiles = tile_labels([product.exposure for product in products])
    groups: dict[tuple, list[Product]] = {}
    for product in products:
        key = (tiles[product.exposure], product.exposure.setting, product.variants)
        groups.setdefault(key, []).append(product)
    for (tile, _, variants), members in groups.items():
        dithers = sorted({product.exposure.dither for product in members})
        places = {f"d{dither}": [p for p in members if p.exposure.dither == dither] for dither in dithers}
        if len(dithers) > 1:
            places[COMBINED] = members
        for place, chosen in places.items():
            yield _stage3_task(place, tile, variants, chosen, options, defaults, bands, versions)


def _stage3_task(
    place: str,
    tile: str,
    variants: frozenset[str],
    members: list[Product],
    options: Options,
    defaults: Mapping[str, Mapping[str, Any]],
    bands: Callable[[Exposure], Sequence[str]],
    versions: Mapping[str, str],
) -> Made:
    exposure = members[0].exposure
    name = f"Level3_{tile}" if tile else "Level3"
    cubes = [
        Product(Path(), "cube", exposure, band=band, place=place, tile=tile, variants=variants)
        for band in bands(exposure)
    ]
    directory = options.root / "stage3" / cubes[0].directory
    cubes = [dataclasses.replace(cube, path=directory / f"{name}_{cube.band}_s3d.fits") for cube in cubes]
    # `jwst` compares exposures with one another to find outliers; in a single one there is nothing to compare.
    single = {"outlier_detection": {"skip": True}} if len(members) == 1 else {}
    weighting = {"cube_build": {"weighting": options.cube_build_weighting}}
    inputs = tuple(product.path for product in members)
    task = Task(
        step="stage3",
        function="jwst_stages:run_stage3",
        arguments={
            "paths_in": list(inputs),
            "paths_out": [cube.path for cube in cubes],
            "product": name,
            "steps": merged_steps(defaults, weighting, single, options.of_step("stage3")),
        },
        inputs=inputs,
        outputs=tuple(cube.path for cube in cubes),
        versions=dict(versions),
        memory=(0.5 + 0.6 * len(members)) * GIGABYTE,
        minimum_inputs=1 if len(members) > 1 else None,
    )
    return task, cubes


def plan_navigate(products: Iterable[Product], options: Options, *, versions: Mapping[str, str]) -> Iterator[Made]:
    """Backplanes for every cube, beside it with `_nav` in the name."""
    for product in products:
        out = product.path.with_name(f"{product.path.stem}_nav.fits")
        task = Task(
            step="navigate",
            function="navigate:navigate_file",
            arguments={
                "path_in": product.path,
                "path_out": out,
                "basic_navigation": options.basic_navigation,
                "fit_pointing": options.fit_pointing,
                **options.of_step("navigate"),
            },
            inputs=(product.path,),
            outputs=(out,),
            versions=dict(versions),
            memory=1.0 * GIGABYTE,
        )
        yield task, [dataclasses.replace(product, path=out)]


def plan_plot(
    products: Iterable[Product], options: Options, *, prefix: Callable[[Product], str], versions: Mapping[str, str]
) -> Iterator[Made]:
    """A picture of every cube, in `plots/<stage>/<dither>/`."""
    for product in products:
        stage = product.path.relative_to(options.root).parts[0]
        out = options.root / "plots" / stage / product.directory / f"{prefix(product)}{product.path.stem}.png"
        task = Task(
            step="plot",
            function="summary_plots:plot_file",
            arguments={"path_in": product.path, "path_out": out, **options.of_step("plot")},
            inputs=(product.path,),
            outputs=(out,),
            versions=dict(versions),
            memory=1.0 * GIGABYTE,
        )
        yield task, []
