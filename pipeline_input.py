"""What a run begins with: the exposures of a data root, checked before any work.

In: a data root. Out: `Input`, its usable products and a sentence for each file that is not usable.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import reduction
from cube_files import group_cubes
from errors import DataRootError, FileFormatError, InputError
from instruments import Instrument
from observations import Exposure, ExposureRoles, check_complete, find_exposures, read_exposure, sort_by_role
from reduction import Product


@dataclass(frozen=True)
class Input:
    """What a run begins with.

    Attributes
    ----------
    roles
        The exposures by what they are for.
    products
        Their files.
    unreadable
        A sentence for each file of which not even the header can be read; it is not in the plan.
    damaged
        A sentence for each file that is cut short. It stays in the plan, so that its task fails and what depends on it
        is named.
    """

    roles: ExposureRoles
    products: list[Product]
    unreadable: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)


def find_input(instrument: Instrument, root: Path, active: Sequence[str]) -> Input:
    """Find what the run begins with.

    `stage0` is the beginning. Where it has been removed and the run starts at a later step, the products of the
    latest stage before that step are.

    Raises
    ------
    DataRootError, FileFormatError
        If there is nothing that can be reduced.
    """
    if not root.is_dir():
        raise DataRootError(f"{root} does not exist: name the folder that holds 'stage0'.")
    first = instrument.step_names.index(active[0])
    if not (root / "stage0").is_dir() and first > instrument.step_names.index("stage1"):
        return _find_intermediate_input(instrument, root, first)
    if not (root / "stage0").is_dir():
        raise DataRootError(f"{root} has no 'stage0' folder: make it and put the '*_uncal.fits' files into it.")
    exposures, errors = find_exposures(root / "stage0", "uncal")
    roles = _usable(instrument, exposures, errors, root / "stage0")
    damaged = _damaged(roles.used)
    if len(damaged) == len(roles.used):
        raise damaged[0]
    products = reduction.starting_products(roles, "uncal")
    return Input(roles, products, [str(error) for error in errors], [str(error) for error in damaged])


def _damaged(exposures: Iterable[Exposure]) -> list[FileFormatError]:
    errors = []
    for exposure in exposures:
        try:
            check_complete(exposure.path)
        except FileFormatError as error:
            errors.append(error)
    return errors


def _find_intermediate_input(instrument: Instrument, root: Path, first: int) -> Input:
    names = instrument.step_names
    cubes = sorted(root.glob("stage3/*/Level3_*_s3d.fits"))
    if first > names.index("stage3") and cubes:
        exposures = [read_exposure(path) for path in cubes]
        _check_instrument(instrument, exposures)
        return Input(sort_by_role([], instrument.exposure_type), [_cube_product(e) for e in exposures])
    for level, after in (("cal", "stage2"), ("rate", "stage1")):
        found = sorted((root / after).rglob(f"*_{level}.fits"))
        if first > names.index(after) and found:
            exposures = [read_exposure(path) for path in found]
            roles = _usable(instrument, exposures, [], root / after)
            products = reduction.starting_products(roles, level)
            return Input(roles, [_with_variants_of_directory(p, root / after) for p in products])
    raise DataRootError(
        f"{root} has neither 'stage0' nor the products of a later stage that {names[first]!r} could start from."
    )


def _with_variants_of_directory(product: Product, directory: Path) -> Product:
    """The variants of a calibrated exposure are the name of its folder: `stage2/bg_fringe`."""
    parts = product.path.parent.relative_to(directory).parts
    return dataclasses.replace(product, variants=frozenset(parts[0].split("_") if parts else ()))


def _cube_product(exposure: Exposure) -> Product:
    """A cube found on disk, told from its place and name."""
    (files,) = group_cubes([exposure.path])
    variants = frozenset(filter(None, files.variant.split("_")))
    return Product(
        exposure.path, "cube", exposure, band=files.band, place=files.place, tile=files.tile, variants=variants
    )


def _check_instrument(instrument: Instrument, exposures: Iterable[Exposure]) -> None:
    for exposure in exposures:
        if exposure.instrument != instrument.name:
            other = f"{exposure.instrument.lower()}_pipeline.py"
            raise DataRootError(
                f"{exposure.path} is a {exposure.instrument} exposure, but this is the {instrument.name} pipeline: "
                f"use {other} for it, in a folder of its own."
            )


def _usable(
    instrument: Instrument, exposures: Sequence[Exposure], errors: Sequence[InputError], directory: Path
) -> ExposureRoles:
    if not exposures:
        raise errors[0]
    _check_instrument(instrument, exposures)
    roles = sort_by_role(exposures, instrument.exposure_type, instrument.sees_light)
    if not roles.science and not roles.background:
        types = ", ".join(sorted({exposure.exposure_type for exposure in exposures}))
        raise DataRootError(
            f"{directory} has no {instrument.exposure_type} science exposure, only {types or 'leakcal'}: "
            "download the integral-field exposures too."
        )
    return roles
