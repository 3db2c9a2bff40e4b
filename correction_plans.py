"""The tasks of the steps that correct a planet's data beyond `jwst`, from group removal to despiking.

Each function is the `plan` of a `reduction.Step`: products in, tasks with what they make out. A variant step (`fringe`,
`fringe1d`, `psf`) makes a tagged copy of each product; with yes it replaces the product, with both they go on side by
side.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from observations import Exposure
from pipeline import Task
from reduction import Made, Options, Product
from remove_groups import group_counts, grouped_path
from stage_plans import COMBINED, GIGABYTE, calibrated_directory

LEAST_DITHERS_FOR_FLAT = 4
# With more exposures to compare one with, its combination of them follows noise.
MOST_COMPARED = 3
Versions = Mapping[str, str]


def _one_to_one(
    step: str, function: str, product: Product, out: Path, arguments: Mapping[str, Any], versions: Versions
) -> Task:
    """A task that makes one file of one."""
    return Task(
        step=step,
        function=function,
        arguments={"path_in": product.path, "path_out": out, **arguments},
        inputs=(product.path,),
        outputs=(out,),
        versions=dict(versions),
        memory=1.0 * GIGABYTE,
    )


def plan_remove_groups(products: Iterable[Product], options: Options, *, versions: Versions) -> Iterator[Made]:
    """Raw exposures cut to fewer groups, in `groups/{n}_groups/stage0/`; only for desaturation of cubes."""
    if options.desaturate is not True:
        return
    for product in [p for p in products if p.groups is None and p.role != "background"]:
        for groups in group_counts(product.exposure.groups, options.groups_to_use):
            out = grouped_path(options.root, groups, product.path.name)
            arguments = {"groups": groups, **options.of_step("remove_groups")}
            task = _one_to_one("remove_groups", "remove_groups:remove_groups_file", product, out, arguments, versions)
            yield Made(task, [dataclasses.replace(product, path=out, groups=groups)])


def _plan_variant(
    products: Iterable[Product],
    options: Options,
    *,
    step: str,
    tag: str,
    switch: str,
    function: str,
    place: Callable[[Product, Options], Path],
    versions: Versions,
    defaults: Mapping[str, Any] = MappingProxyType({}),
) -> Iterator[Made]:
    wanted = getattr(options, switch)
    if not wanted:
        return
    for product in products:
        tagged = dataclasses.replace(product, variants=product.variants | {tag})
        out = place(tagged, options)
        task = _one_to_one(step, function, product, out, {**defaults, **options.of_step(step)}, versions)
        yield Made(task, [dataclasses.replace(tagged, path=out)], [product] if wanted is True else [])


def _calibrated_place(product: Product, options: Options) -> Path:
    return calibrated_directory(product, options, product.variants) / product.path.name


def _cube_place(product: Product, options: Options) -> Path:
    return product.base(options.root) / "stage3" / product.directory / product.path.name


# 2-D residual fringes of calibrated exposures: `stage2/fringe/`, `stage2/bg_fringe/`.
plan_defringe = partial(
    _plan_variant,
    step="defringe",
    tag="fringe",
    switch="defringe",
    function="defringe:defringe_file",
    place=_calibrated_place,
)
_plan_defringe_1d = partial(
    _plan_variant,
    step="defringe_1d",
    tag="fringe1d",
    switch="defringe_1d",
    function="defringe:defringe_1d_file",
    place=_cube_place,
    # A planet's spectrum is crowded with lines, which the plain fit takes for fringes.
    defaults={"shared_lines": True},
)


def plan_defringe_1d(products: Iterable[Product], options: Options, *, versions: Versions) -> Iterator[Made]:
    """1-D residual fringes of cubes, `stage3/d1_fringe1d/`; of ramps that saturate, with the help of shorter ones."""
    products = list(products)
    ramps: dict[tuple, list[Product]] = {}
    for product in sorted(products, key=lambda p: -(p.groups or 0)):
        if product.groups is not None and options.desaturate is True:
            ramps.setdefault(product.key[:-1], []).append(product)
    for product, made in zip(products, _plan_defringe_1d(products, options, versions=versions), strict=False):
        own = product.groups or math.inf
        shorter = tuple(p.path for p in ramps.get(product.key[:-1], ()) if p.groups < own)
        if not shorter:
            yield made
            continue
        task = dataclasses.replace(
            made.task,
            arguments={**made.task.arguments, "shorter_paths": list(shorter)},
            inputs=(product.path, *shorter),
            minimum_inputs=0,
            droppable=shorter,
            memory=made.task.memory + 0.3 * GIGABYTE * len(shorter),
        )
        yield dataclasses.replace(made, task=task)


# Darkening of the limb by the PSF: `stage3/d1_psf/`.
plan_psf = partial(
    _plan_variant,
    step="psf",
    tag="psf",
    switch="correct_psf",
    function="psf_correct:psf_correct_file",
    place=_cube_place,
)


def plan_cosmic_rays(products: Iterable[Product], options: Options, *, versions: Versions) -> Iterator[Made]:
    """Calibrated exposures with their cosmic rays mended, beside the others as `*_crf.fits`.

    Each is compared with other exposures of its detector and setting, the nearest dithers of its own tile first. One
    that has none to be compared with stays as it is.
    """
    products = list(products)
    for product in products:
        own = product.exposure
        others = [p for p in products if p is not product and _comparison_key(p) == _comparison_key(product)]
        others.sort(key=lambda p: (_tile_key(p.exposure) != _tile_key(own), abs(p.exposure.dither - own.dither)))
        if not others:
            continue
        paths = tuple(p.path for p in others[:MOST_COMPARED])
        out = product.path.with_name(f"{product.path.name.removesuffix('_cal.fits')}_crf.fits")
        arguments = {"others": list(paths), **options.of_step("cosmic_rays")}
        function = "cosmic_rays:mend_cosmic_rays_file"
        task = _one_to_one("cosmic_rays", function, product, out, arguments, versions)
        # Measured with four exposures of NIRSpec: 1.05 GB.
        memory = 1.5 * GIGABYTE
        inputs = (product.path, *paths)
        task = dataclasses.replace(task, inputs=inputs, minimum_inputs=0, droppable=paths, memory=memory)
        yield Made(task, [dataclasses.replace(product, path=out)], [product])


def _comparison_key(product: Product) -> tuple:
    return product.exposure.mode, product.variants, product.groups


def _tile_key(exposure: Exposure) -> tuple[str, ...]:
    return exposure.observation, exposure.visit, exposure.activity


def plan_desaturate(products: Iterable[Product], options: Options, *, versions: Versions) -> Iterator[Made]:
    """Cubes of one exposure and all ramp lengths merged, to `stage3_desaturated/`."""
    if options.desaturate is not True:
        return
    ramps: dict[tuple, list[Product]] = {}
    for product in products:
        ramps.setdefault(product.key[:-1], []).append(product)
    for members in ramps.values():
        whole = [product for product in members if product.groups is None]
        if len(members) < 2 or not whole:
            continue
        out = options.root / "stage3_desaturated" / whole[0].directory / whole[0].path.name
        inputs = tuple(product.path for product in [*whole, *sorted(members, key=lambda p: -(p.groups or 0))[:-1]])
        task = Task(
            step="desaturate",
            function="desaturate:desaturate_files",
            arguments={"paths_in": list(inputs), "path_out": out, **options.of_step("desaturate")},
            inputs=inputs,
            outputs=(out,),
            versions=dict(versions),
            memory=0.5 * GIGABYTE * len(inputs),
            minimum_inputs=2,
        )
        yield Made(task, [dataclasses.replace(whole[0], path=out)], members)


def plan_flat(products: Iterable[Product], options: Options, *, versions: Versions, stage: str) -> Iterator[Made]:
    """Flat-fielded cubes, by the user's flats or by ones constructed from this observation's dithers.

    A `combined` cube is divided by the mean of its dithers' flats.
    """
    products = [p for p in products if p.groups is None]
    singles = [p for p in products if p.place != COMBINED]
    flats: dict[tuple, Path] = {}
    if options.construct_flats:
        for made, key, flat in _plan_constructed_flats(singles, options, versions):
            flats[key] = flat
            yield made
    elif options.flat_data_path is None:
        return
    for product in products:
        flat = flats.get(_flat_key(product))
        if options.construct_flats and flat is None:
            continue
        inputs = (product.path,) if flat is None else (product.path, flat)
        arguments: dict[str, Any] = {"flat_path": flat or str(options.flat_data_path)}
        function, droppable = "flat_field:flat_field_file", ()
        if product.place == COMBINED:
            function = "flat_field:flat_field_combined_file"
            droppable = tuple(p.path for p in singles if (p.tile, *_flat_key(p)) == (product.tile, *_flat_key(product)))
            arguments["dither_paths"] = list(droppable)
        out = options.root / stage / product.directory / product.path.name
        task = _one_to_one("flat", function, product, out, arguments, versions)
        task = dataclasses.replace(task, inputs=(*inputs, *droppable))
        if droppable:
            task = dataclasses.replace(task, minimum_inputs=0, droppable=droppable)
        yield Made(task, [dataclasses.replace(product, path=out)], [product])


def _flat_key(product: Product) -> tuple:
    """What has a flat of its own: the tiles of a mosaic share theirs."""
    return product.band, product.variants


def _plan_constructed_flats(
    singles: Iterable[Product], options: Options, versions: Versions
) -> Iterator[tuple[Made, tuple, Path]]:
    """A flat of each tile that has the dithers for it, and of several tiles the mean, with key and path of the last."""
    dithers: dict[tuple, dict[str, list[Product]]] = {}
    for product in singles:
        dithers.setdefault(_flat_key(product), {}).setdefault(product.tile, []).append(product)
    for key, tiles in dithers.items():
        enough = {tile: members for tile, members in tiles.items() if len(members) >= LEAST_DITHERS_FOR_FLAT}
        flats = []
        for tile, members in enough.items():
            flats.append(options.root / "flats" / _flat_name(members[0], tile if len(enough) > 1 else ""))
            yield Made(_construct_task(members, flats[-1], options, versions)), key, flats[-1]
        if len(flats) > 1:
            merged = options.root / "flats" / _flat_name(next(iter(enough.values()))[0], "")
            yield Made(_merge_task(flats, merged, versions)), key, merged


def _flat_name(product: Product, tile: str) -> str:
    """`ch1-short_constructed_flat_fringe1d.fits`, in a folder of its own for a tile or another variant."""
    fringe = "".join(f"_{tag}" for tag in ("fringe", "fringe1d") if tag in product.variants)
    others = "_".join([tile, *sorted(product.variants - {"fringe", "fringe1d"})]).strip("_")
    name = f"{product.band}_constructed_flat{fringe}.fits"
    return f"{others}/{name}" if others else name


def _construct_task(members: list[Product], flat: Path, options: Options, versions: Versions) -> Task:
    inputs = tuple(product.path for product in members)
    return Task(
        step="flat",
        function="construct_flat_field:construct_flat_field_files",
        arguments={"paths_in": list(inputs), "path_out": flat, **options.of_step("flat")},
        inputs=inputs,
        outputs=(flat,),
        versions=dict(versions),
        memory=0.5 * GIGABYTE * len(inputs),
        minimum_inputs=LEAST_DITHERS_FOR_FLAT,
    )


def _merge_task(flats: list[Path], merged: Path, versions: Versions) -> Task:
    return Task(
        step="flat",
        function="flat_merging:merge_flat_files",
        arguments={"paths_in": list(flats), "path_out": merged},
        inputs=tuple(flats),
        outputs=(merged,),
        versions=dict(versions),
        memory=0.3 * GIGABYTE * len(flats),
        minimum_inputs=1,
    )


def plan_despike(products: Iterable[Product], options: Options, *, versions: Versions, stage: str) -> Iterator[Made]:
    """Despiked cubes, in the stage directory that the instrument has for them."""
    for product in [p for p in products if p.groups is None]:
        out = options.root / stage / product.directory / product.path.name
        task = _one_to_one("despike", "despike:despike_file", product, out, options.of_step("despike"), versions)
        yield Made(task, [dataclasses.replace(product, path=out)], [product])
