"""The tasks of the steps that every pipeline has: stages 1 to 3, navigation, plots, animations, report.

Each function is the `plan` of a `reduction.Step`: products in, tasks with what they make out.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cube_files import group_cubes
from instruments import STAGE3_DEFAULTS, Instrument
from observations import Exposure, tile_labels
from pipeline import Task
from reduction import Made, Options, Product

GIGABYTE = 1e9
COMBINED = "combined"


def merged_steps(*parameters: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Merge parameters of `jwst` steps; later ones win."""
    merged: dict[str, dict[str, Any]] = {}
    for steps in parameters:
        for name, values in steps.items():
            merged[name] = {**merged.get(name, {}), **values}
    return merged


def stage3_defaults(instrument: Instrument) -> dict[str, dict[str, Any]]:
    """Parameters of the steps of stage 3 where an instrument's pipeline differs from the package."""
    return merged_steps(STAGE3_DEFAULTS, instrument.stage3_defaults)


def plan_stage1(
    products: Iterable[Product],
    options: Options,
    *,
    defaults: Callable[[Exposure], Mapping[str, Mapping[str, Any]]],
    versions: Mapping[str, str],
) -> Iterator[Made]:
    """One ramp fit per exposure, `stage0/*_uncal.fits` to `stage1/*_rate.fits`."""
    for product in products:
        out = product.base(options.root) / "stage1" / f"{product.exposure.name}_rate.fits"
        # Ramps cut to fewer groups do not exist yet; the whole one bounds them.
        size = product.exposure.path.stat().st_size
        task = Task(
            step="stage1",
            function="ramp_desaturation_step:run_stage1" if options.desaturate == "ramp" else "jwst_stages:run_stage1",
            arguments={
                "path_in": product.path,
                "path_out": out,
                "steps": stage1_parameters(product, options, defaults),
            },
            inputs=(product.path,),
            outputs=(out,),
            versions=dict(versions),
            memory=1.0 * GIGABYTE + 30 * size,
        )
        yield Made(task, [dataclasses.replace(product, path=out, level="rate")])


def stage1_parameters(
    product: Product, options: Options, defaults: Callable[[Exposure], Mapping[str, Mapping[str, Any]]]
) -> dict[str, dict[str, Any]]:
    """Parameters of the steps of stage 1 for one exposure, cut to fewer groups or not."""
    exposure = product.exposure
    if product.groups is not None:
        exposure = dataclasses.replace(exposure, groups=product.groups)
    return merged_steps(defaults(exposure), options.of_step("stage1"))


def plan_stage2(
    products: list[Product],
    options: Options,
    *,
    defaults: Mapping[str, Mapping[str, Any]],
    background_rates: Sequence[tuple[tuple[str, ...], Path]],
    versions: Mapping[str, str],
) -> Iterator[Made]:
    """One calibration per science exposure and variant, to `stage2/` and, background-subtracted, `stage2/bg/`.

    Backgrounds are the rate images of the same mode: those of `background_rates` (mode and path), or else the root's
    own background exposures. A leakcal exposure serves the same mode, if possible at the same dither.
    """
    imprints = [p for p in products if p.role == "imprint"]
    own_rates = [(p.exposure.mode, p.path) for p in products if p.role == "background" and p.groups is None]
    for product in (p for p in products if p.role == "science"):
        exposure = product.exposure
        leakcal = [p for p in imprints if p.exposure.mode == exposure.mode and p.groups == product.groups]
        same_dither = [p for p in leakcal if p.exposure.dither == exposure.dither]
        backgrounds = [path for mode, path in background_rates or own_rates if mode == exposure.mode]
        for variants, background in _background_variants(options, backgrounds):
            out = calibrated_directory(product, options, variants) / f"{exposure.name}_cal.fits"
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
                memory=1.5 * GIGABYTE,
            )
            yield Made(task, [dataclasses.replace(product, path=out, level="cal", variants=frozenset(variants))])


def calibrated_directory(product: Product, options: Options, variants: Iterable[str]) -> Path:
    """Where calibrated exposures of some variants lie: `stage2`, `stage2/bg`, `stage2/bg_fringe`."""
    directory = product.base(options.root) / "stage2"
    return directory / "_".join(sorted(variants)) if variants else directory


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
    gigabytes: Callable[[int], float],
    versions: Mapping[str, str],
) -> Iterator[Made]:
    """Cubes of every dither, tile, setting and variant, and of all dithers combined where there is more than one."""
    tiles = tile_labels([product.exposure for product in products])
    groups: dict[tuple, list[Product]] = {}
    for product in products:
        key = (tiles[product.exposure], product.exposure.setting, product.variants, product.groups)
        groups.setdefault(key, []).append(product)
    for (tile, *_), members in groups.items():
        dithers = sorted({product.exposure.dither for product in members})
        places = {f"d{dither}": [p for p in members if p.exposure.dither == dither] for dither in dithers}
        if len(dithers) > 1:
            places[COMBINED] = members
        for place, chosen in places.items():
            task, cubes = _stage3_task(place, tile, chosen, options, defaults, bands, versions)
            yield Made(dataclasses.replace(task, memory=gigabytes(len(chosen)) * GIGABYTE), cubes)


def _stage3_task(
    place: str,
    tile: str,
    members: list[Product],
    options: Options,
    defaults: Mapping[str, Mapping[str, Any]],
    bands: Callable[[Exposure], Sequence[str]],
    versions: Mapping[str, str],
) -> tuple[Task, list[Product]]:
    first = members[0]
    name = f"Level3_{tile}" if tile else "Level3"
    cubes = [
        dataclasses.replace(first, path=Path(), level="cube", band=band, place=place, tile=tile)
        for band in bands(first.exposure)
    ]
    directory = first.base(options.root) / "stage3" / cubes[0].directory
    cubes = [dataclasses.replace(cube, path=directory / f"{name}_{cube.band}_s3d.fits") for cube in cubes]
    # `jwst` compares exposures with one another to find outliers; in a single dither there is nothing to compare, also
    # where two detectors saw it.
    alone = len({product.exposure.dither for product in members}) == 1
    single = {"outlier_detection": {"skip": True}} if alone else {}
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
        minimum_inputs=1 if len(members) > 1 else None,
    )
    return task, cubes


def plan_navigate(products: list[Product], options: Options, *, versions: Mapping[str, str]) -> Iterator[Made]:
    """Backplanes for every cube, beside it with `_nav` in the name; if asked for, the pointing of each visit first."""
    parameters = options.of_step("navigate")
    pointings: dict[tuple[str, str], Path] = {}
    if options.fit_pointing:
        for visit in dict.fromkeys(_visit(product) for product in products):
            task = _pointing_task(visit, products, options, parameters, versions)
            pointings[visit] = task.outputs[0]
            yield Made(task)
    for product in products:
        out = product.path.with_name(f"{product.path.stem}_nav.fits")
        arguments = {"path_in": product.path, "path_out": out, "basic_navigation": options.basic_navigation}
        inputs = [product.path]
        if pointings:
            arguments["pointing"] = pointings[_visit(product)]
            inputs.append(arguments["pointing"])
        task = Task(
            step="navigate",
            function="navigate:navigate_file",
            arguments={**arguments, **parameters},
            inputs=tuple(inputs),
            outputs=(out,),
            versions=dict(versions),
            memory=1.0 * GIGABYTE,
        )
        yield Made(task, [dataclasses.replace(product, path=out)], [product])


def _visit(product: Product) -> tuple[str, str]:
    return product.exposure.observation, product.exposure.visit


def _pointing_task(
    visit: tuple[str, str],
    products: list[Product],
    options: Options,
    parameters: Mapping[str, Any],
    versions: Mapping[str, str],
) -> Task:
    # Of each cube that is of one dither, the plainest variant, and the shortest ramp: where the disc saturates it has
    # another shape.
    cubes: dict[tuple, Product] = {}
    for product in products:
        if _visit(product) == visit and product.place != COMBINED:
            key = product.place, product.tile, product.band
            cubes[key] = min(cubes.get(key, product), product, key=_plainness)
    inputs = tuple(product.path for product in cubes.values())
    out = options.root / "stage3" / f"pointing_o{visit[0]}v{visit[1]}.ecsv"
    known = ("ra_offset", "dec_offset", "kernel_path", "target")
    return Task(
        step="navigate",
        function="visit_pointing:fit_visit_pointing",
        arguments={
            "paths_in": list(inputs),
            "path_out": out,
            **{name: value for name, value in parameters.items() if name in known},
        },
        inputs=inputs,
        outputs=(out,),
        versions=dict(versions),
        memory=1.0 * GIGABYTE,
        minimum_inputs=1,
    )


def _plainness(product: Product) -> tuple:
    return len(product.variants), sorted(product.variants), product.groups or math.inf


def plan_plot(
    products: Iterable[Product], options: Options, *, prefix: Callable[[Product], str], versions: Mapping[str, str]
) -> Iterator[Made]:
    """A picture of every cube, in `plots/<stage>/<dither>/`."""
    for product in (p for p in products if p.groups is None):
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
        yield Made(task)


def plan_animate(
    products: Iterable[Product], options: Options, *, prefix: Callable[[Product], str], versions: Mapping[str, str]
) -> Iterator[Made]:
    """One video per band and variant that compares all its dithers and tiles, in `animation/<stage>/`."""
    groups: dict[tuple, list[Product]] = {}
    for product in (p for p in products if p.groups is None):
        groups.setdefault((product.band, product.variants), []).append(product)
    for members in groups.values():
        # A `combined` cube that a step passes over stays at an earlier stage than the dithers.
        first = next((p for p in members if p.place != COMBINED), members[0])
        stage = first.path.relative_to(options.root).parts[0]
        directory = options.root / "animation" / stage / "_".join(["dither_comparison", *sorted(first.variants)])
        stem = first.path.stem.replace(f"_{first.tile}_", "_") if first.tile else first.path.stem
        out = directory / f"{prefix(first)}{stem}.mp4"
        parameters = options.of_step("animate")
        inputs = tuple(product.path for product in members)
        task = Task(
            step="animate",
            function="summary_animation:animate_files",
            arguments={"paths_in": list(inputs), "path_out": out, **parameters},
            inputs=inputs,
            outputs=(out, out.with_suffix(".gif")) if parameters.get("gif") else (out,),
            versions=dict(versions),
            memory=1.0 * GIGABYTE,
            minimum_inputs=1,
        )
        yield Made(task)


def plan_report(products: Iterable[Product], options: Options, *, versions: Mapping[str, str]) -> Iterator[Made]:
    """What the report shows of each cube through its stages; the page itself is made when the run has ended."""
    for cubes in group_cubes(product.path for product in products if product.groups is None):
        out = cubes.summary(options.root)
        task = Task(
            step="report",
            function="report_cubes:summarise_files",
            arguments={"paths_in": list(cubes.paths), "path_out": out},
            inputs=cubes.paths,
            outputs=(out,),
            versions=dict(versions),
            memory=0.5 * GIGABYTE * len(cubes.paths),
            minimum_inputs=1,
        )
        yield Made(task)
