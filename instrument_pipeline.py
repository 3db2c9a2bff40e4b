"""What the pipelines of all instruments share: options, checks before any work, the plan and the run.

An instrument's script describes the instrument (`Instrument`) and hands it to `run_pipeline`.
"""

from __future__ import annotations

import difflib
import inspect
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import jwst_stages
import reduction
from cubes import SOFTWARE_VERSION
from errors import DataRootError, FileFormatError, InputError, OptionError
from observations import Exposure, ExposureRoles, check_complete, find_exposures, read_exposure, sort_by_role
from pipeline import Plan, RunResult, Task, check_disk_space, pending_tasks, run_plan
from reduction import Options, Product, Step

JWST_STAGES = ("stage1", "stage2", "stage3")
WEIGHTINGS = ("drizzle", "emsm", "msm")
# Products of an exposure through stages 1-3 and their cubes come to about this many times its raw size.
DISK_FACTOR = 12
StepDefaults = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Instrument:
    """What distinguishes one instrument's pipeline.

    Attributes
    ----------
    name
        INSTRUME keyword.
    exposure_type
        EXP_TYPE of its integral-field exposures; all others are left out.
    step_names
        The steps in their order.
    bands
        Names of the cubes that an exposure contributes to: ['ch1-short', 'ch2-short'].
    stage1_defaults, stage2_defaults, stage3_defaults
        Parameters of the `jwst` steps where ours differ from the package's.
    plot_prefix
        First part of the name of a cube's plot.
    """

    name: str
    exposure_type: str
    step_names: tuple[str, ...]
    bands: Callable[[Exposure], Sequence[str]]
    stage1_defaults: Callable[[Exposure], StepDefaults]
    stage2_defaults: StepDefaults
    stage3_defaults: StepDefaults
    plot_prefix: Callable[[Product], str]


def run_pipeline(
    instrument: Instrument,
    root_path: str | Path,
    *,
    skip_steps: Iterable[str] = (),
    start_step: str | None = None,
    end_step: str | None = None,
    parallel: float | bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
    background_subtract: bool | str = "both",
    background_path: str | Path | None = None,
    cube_build_weighting: str = "drizzle",
    basic_navigation: bool = False,
    fit_pointing: bool = False,
    step_kwargs: Mapping[str, Mapping[str, Any]] | None = None,
    command: Sequence[str] = (),
) -> RunResult | None:
    """Reduce the observation in `root_path`; the instruments' `run_pipeline` functions describe the parameters.

    Returns
    -------
    pipeline.RunResult or None
        What was done and what failed; None after a dry run.

    Raises
    ------
    InputError
        If the input or an option is wrong; nothing has been done then.
    """
    root = Path(root_path).expanduser().resolve()
    options = Options(
        root=root,
        background_subtract=background_subtract,
        background_path=None if background_path is None else Path(background_path).expanduser().resolve(),
        cube_build_weighting=cube_build_weighting,
        basic_navigation=basic_navigation,
        fit_pointing=fit_pointing,
        step_kwargs=step_kwargs or {},
    )
    active = select_steps(instrument.step_names, skip_steps, start_step, end_step)
    _check_options(instrument, options)
    found = find_input(instrument, root, active)
    plan, messages = make_plan(instrument, options, active, found)
    for message in [*found.unreadable, *found.damaged, *messages]:
        print(f"note: {message}", file=sys.stderr)
    if dry_run:
        print(plan.describe())
        return None
    pending = list(plan.tasks) if overwrite else pending_tasks(plan)
    _prepare(instrument, options, pending, found.products)
    settings = {
        "instrument": instrument.name,
        "steps": list(active),
        "parallel": parallel,
        "overwrite": overwrite,
        **{name: getattr(options, name) for name in _option_names()},
    }
    versions = {"python": sys.version.split()[0], "pipeline": SOFTWARE_VERSION, **jwst_stages.versions()}
    result = run_plan(
        plan,
        parallel=parallel,
        overwrite=overwrite,
        command=list(command),
        settings=settings,
        versions=versions,
        unusable_inputs=found.unreadable,
    )
    print(describe_products(plan))
    return result


def describe_products(plan: Plan) -> str:
    """Where to look: for each step of the plan, where its products lie and how many there are."""
    rows = []
    for step in plan.steps:
        paths = [path for task in plan.tasks if task.step == step for path in task.outputs]
        counts = Counter(_place(path.relative_to(plan.root)) for path in paths if path.exists())
        rows += [(place, count, step) for place, count in counts.items()]
    lines = [f"  {place:<32} {count:>4} by {step}" for place, count, step in rows]
    return "\n".join([f"in {plan.root}:", *lines, "  logs/run.json, logs/<step>/*.log      what was run, and how"])


def _place(path: Path) -> str:
    """A pattern for files like this one: 'stage3/*/*_s3d_nav.fits'."""
    product = re.search(r"_(rate|cal|s3d(_\w+)?)\.fits$", path.name)
    name = f"*{product[0]}" if product else f"*{path.suffix}"
    return "/".join([path.parts[0], *("*" for _ in path.parts[1:-1]), name])


def _option_names() -> list[str]:
    return [name for name in Options.__dataclass_fields__ if name != "root"]


def select_steps(
    steps: Sequence[str], skip_steps: Iterable[str] = (), start_step: str | None = None, end_step: str | None = None
) -> tuple[str, ...]:
    """The steps from `start_step` to `end_step`, both included, without those to be skipped.

    Raises
    ------
    OptionError
        If a name is unknown (with the nearest that is known) or no step is left.
    """
    skip_steps = [skip_steps] if isinstance(skip_steps, str) else list(skip_steps)
    for option, names in (("--skip_steps", skip_steps), ("--start_step", [start_step]), ("--end_step", [end_step])):
        for name in names:
            if name is not None and name not in steps:
                nearest = difflib.get_close_matches(name, steps, n=1, cutoff=0)[0]
                raise OptionError(
                    f"{option}: {name!r} is not a step; did you mean {nearest!r}? The steps are {', '.join(steps)}."
                )
    first = steps.index(start_step) if start_step else 0
    last = steps.index(end_step) if end_step else len(steps) - 1
    chosen = tuple(step for step in steps[first : last + 1] if step not in skip_steps)
    if not chosen:
        raise OptionError(
            f"no step is left between --start_step {steps[first]} and --end_step {steps[last]}"
            f"{' without the skipped ones' if skip_steps else ''}: there is nothing to do."
        )
    return chosen


def _check_options(instrument: Instrument, options: Options) -> None:
    if options.cube_build_weighting not in WEIGHTINGS:
        raise OptionError(
            f"--cube_build_weighting: {options.cube_build_weighting!r} is unknown; take one of {', '.join(WEIGHTINGS)}."
        )
    if options.background_subtract not in (True, False, "both"):
        raise OptionError(f"background_subtract is {options.background_subtract!r}; take True, False or 'both'.")
    for step, parameters in options.step_kwargs.items():
        if step not in instrument.step_names:
            nearest = difflib.get_close_matches(step, instrument.step_names, n=1, cutoff=0)[0]
            raise OptionError(f"--step_kwargs: {step!r} is not a step; did you mean {nearest!r}?")
        if not isinstance(parameters, Mapping):
            raise OptionError(
                f"--step_kwargs: {step} needs its parameters as an object, "
                f'{{"{step}": {{"name": value}}}}, not {parameters!r}.'
            )
        if step in JWST_STAGES:
            jwst_stages.check_step_parameters(step, parameters)
        else:
            _check_function_parameters(step, parameters)


def _check_function_parameters(step: str, parameters: Mapping[str, Any]) -> None:
    if step == "navigate":
        from navigate import navigate_file as function
    elif step == "plot":
        from summary_plots import plot_file as function
    known = [name for name, p in inspect.signature(function).parameters.items() if p.kind is p.KEYWORD_ONLY]
    for name in parameters:
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1, cutoff=0)
            hint = f"; did you mean {nearest[0]!r}?" if nearest else "; it has none."
            raise OptionError(f"--step_kwargs {step}: {name!r} is not a parameter of {step}{hint}")


# --- input ----------------------------------------------------------------------------------------------------------


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
    cubes = sorted(root.glob("stage3/*/Level3*_s3d.fits"))
    if first > names.index("stage3") and cubes:
        exposures = [read_exposure(path) for path in cubes]
        _check_instrument(instrument, exposures)
        return Input(sort_by_role([], instrument.exposure_type), [_cube_product(e) for e in exposures])
    for level, directories, after in (("cal", ("stage2", "stage2/bg"), "stage2"), ("rate", ("stage1",), "stage1")):
        found = [path for directory in directories for path in sorted((root / directory).glob(f"*_{level}.fits"))]
        if first > names.index(after) and found:
            exposures = [read_exposure(path) for path in found]
            roles = _usable(instrument, exposures, [], root / directories[0])
            products = reduction.starting_products(roles, level)
            tagged = [reduction.with_variants(p, {"bg"} if p.path.parent.name == "bg" else set()) for p in products]
            return Input(roles, tagged)
    raise DataRootError(
        f"{root} has neither 'stage0' nor the products of a later stage that {names[first]!r} could start from."
    )


def _cube_product(exposure: Exposure) -> Product:
    """A cube found on disk, told from its place and name, which are a contract."""
    place, *variants = exposure.path.parent.name.split("_")
    *tile, band = exposure.path.name.removeprefix("Level3_").removesuffix("_s3d.fits").split("_")
    return Product(
        exposure.path, "cube", exposure, band=band, place=place, tile="_".join(tile), variants=frozenset(variants)
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
    roles = sort_by_role(exposures, instrument.exposure_type)
    if not roles.science and not roles.background:
        types = ", ".join(sorted({exposure.exposure_type for exposure in exposures}))
        raise DataRootError(
            f"{directory} has no {instrument.exposure_type} science exposure, only {types or 'leakcal'}: "
            "download the integral-field exposures too."
        )
    return roles


# --- plan -----------------------------------------------------------------------------------------------------------


def make_plan(instrument: Instrument, options: Options, active: Sequence[str], found: Input) -> tuple[Plan, list[str]]:
    """Plan the run; also give what the user should be told about its input."""
    roles = found.roles
    messages = [f"{e.path.name} is left out: {e.exposure_type} is no integral-field exposure" for e in roles.left_out]
    background_of = _background_finder(options, roles)
    if options.background_subtract is True or options.background_path is not None:
        for setting in dict.fromkeys(e.mode for e in roles.science if not background_of(e)):
            messages.append(f"no background for {' '.join(s for s in setting if s != 'N/A')}: left as it is")
    tasks = reduction.plan_steps(_steps(instrument, options, background_of, active), active, found.products, options)
    return Plan(root=options.root, steps=tuple(active), tasks=tuple(tasks)), messages


def _steps(
    instrument: Instrument,
    options: Options,
    backgrounds: Callable[[Exposure], Sequence[Path]],
    active: Sequence[str],
) -> list[Step]:
    from spice_kernels import kernel_fingerprint

    jwst = jwst_stages.versions()
    own = {"pipeline": SOFTWARE_VERSION}
    kernel_path = options.of_step("navigate").get("kernel_path")
    needs_kernels = not options.basic_navigation and {"navigate", "plot"} & set(active)
    kernels = {"kernels": kernel_fingerprint(kernel_path)} if needs_kernels else {}
    planners = {
        "stage1": Step(
            "stage1",
            "uncal",
            "rate",
            partial(reduction.plan_stage1, defaults=instrument.stage1_defaults, versions=jwst),
        ),
        "stage2": Step(
            "stage2",
            "rate",
            "cal",
            partial(reduction.plan_stage2, defaults=instrument.stage2_defaults, backgrounds=backgrounds, versions=jwst),
        ),
        "stage3": Step(
            "stage3",
            "cal",
            "cube",
            partial(reduction.plan_stage3, defaults=instrument.stage3_defaults, bands=instrument.bands, versions=jwst),
        ),
        "navigate": Step("navigate", "cube", "cube", partial(reduction.plan_navigate, versions={**own, **kernels})),
        "plot": Step(
            "plot",
            "cube",
            None,
            partial(reduction.plan_plot, prefix=instrument.plot_prefix, versions={**own, **kernels}),
        ),
    }
    return [planners[name] for name in instrument.step_names]


def _background_finder(options: Options, roles: ExposureRoles) -> Callable[[Exposure], list[Path]]:
    """Which rate images serve as the background of an exposure: those of the same mode.

    They come from `background_path`, else from the root's own dedicated background exposures.
    """
    if options.background_path is None:
        rates = [(e.mode, options.root / "stage1" / f"{e.name}_rate.fits") for e in roles.background]
    elif options.background_subtract is False:
        rates = []
    else:
        directory = options.background_path / "stage1"
        try:
            exposures, errors = find_exposures(directory, "rate")
        except DataRootError as error:
            raise DataRootError(
                f"--background_path: {directory} has no '*_rate.fits' file: reduce the background first, with "
                "'--end_step stage1' on its own folder."
            ) from error
        if errors:
            raise errors[0]
        rates = [(e.mode, e.path) for e in exposures if not e.is_imprint]
    return lambda exposure: [path for mode, path in rates if mode == exposure.mode]


# --- before the first task ------------------------------------------------------------------------------------------


def _prepare(instrument: Instrument, options: Options, pending: Sequence[Task], products: Sequence[Product]) -> None:
    """Make sure that what the pending tasks need is there: reference files, disk space."""
    if not pending:
        return
    stages = sorted({task.step for task in pending} & set(JWST_STAGES))
    if not stages:
        return
    raw = [product for product in products if product.path.exists() and product.level != "cube"]
    check_disk_space(options.root, DISK_FACTOR * sum(product.path.stat().st_size for product in raw))
    defaults = {"stage2": instrument.stage2_defaults, "stage3": instrument.stage3_defaults}
    wanted = {
        product.path: {
            stage: reduction.merged_steps(
                instrument.stage1_defaults(product.exposure) if stage == "stage1" else defaults[stage],
                options.of_step(stage),
            )
            for stage in stages
        }
        for product in raw
    }
    for problem in jwst_stages.prefetch_references(wanted):
        print(f"note: {problem}", file=sys.stderr)
