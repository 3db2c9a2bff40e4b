"""What the pipelines of all instruments share: options, checks before any work, the plan and the run.

An instrument's script describes the instrument (`Instrument`) and hands it to `run_pipeline`.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import correction_plans
import jwst_stages
import reduction
import stage_plans
from correction_plans import LEAST_DITHERS_FOR_FLAT
from cubes import SOFTWARE_VERSION
from errors import DataRootError, OptionError
from instruments import SWITCHES, Instrument
from observations import Exposure, ExposureRoles, find_exposures
from pipeline import Plan, RunResult, Task, check_disk_space, choose_executor, pending_tasks, run_plan
from pipeline_input import Input, find_input
from reduction import Options, Product, Step

JWST_STAGES = ("stage1", "stage2", "stage3")
# The functions whose parameters `step_kwargs` takes, for steps that are not stages of `jwst`.
STEP_FUNCTIONS = {
    "remove_groups": "remove_groups:remove_groups_file",
    "defringe": "defringe:defringe_file",
    "defringe_1d": "defringe:defringe_1d_file",
    "navigate": "navigate:navigate_file",
    "psf": "psf_correct:psf_correct_file",
    "desaturate": "desaturate:desaturate_files",
    "flat": "construct_flat_field:construct_flat_field_files",
    "despike": "despike:despike_file",
    "plot": "summary_plots:plot_file",
    "animate": "summary_animation:animate_files",
}
WEIGHTINGS = ("drizzle", "emsm", "msm")
# What workers on other machines must find as it is here.
WORKER_VARIABLES = ("CRDS_", "PLANETMAPPER_")
# Products of an exposure through stages 1-3 and their cubes come to about this many times its raw size.
DISK_FACTOR = 12


def run_pipeline(
    instrument: Instrument,
    root_path: str | Path,
    *,
    skip_steps: Iterable[str] = (),
    start_step: str | None = None,
    end_step: str | None = None,
    parallel: float | bool = False,
    cluster: str | None = None,
    workers: int | None = None,
    memory_limit: str | float | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    quiet: bool = False,
    verbose: bool = False,
    command: Sequence[str] = (),
    **values: Any,
) -> RunResult | None:
    """Reduce the observation in `root_path`; the instruments' `run_pipeline` functions describe the parameters.

    Parameters
    ----------
    **values
        Fields of `reduction.Options`.

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
    options = make_options(root, **values)
    active = select_steps(instrument.step_names, skip_steps, start_step, end_step)
    _check_options(instrument, options)
    variables = {name: value for name, value in os.environ.items() if name.startswith(WORKER_VARIABLES)}
    executor = choose_executor(parallel, cluster, workers, memory_limit, variables)
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
        "skip_steps": [skip_steps] if isinstance(skip_steps, str) else list(skip_steps),
        "start_step": start_step,
        "end_step": end_step,
        "parallel": parallel,
        "cluster": cluster,
        "workers": workers,
        "memory_limit": memory_limit,
        "overwrite": overwrite,
        **{name: getattr(options, name) for name in _option_names(instrument)},
    }
    versions = {"python": sys.version.split()[0], "pipeline": SOFTWARE_VERSION, **jwst_stages.versions()}
    result = run_plan(
        plan,
        executor=executor,
        overwrite=overwrite,
        quiet=quiet,
        verbose=verbose,
        command=list(command),
        settings=settings,
        versions=versions,
        unusable_inputs=found.unreadable,
    )
    if not quiet:
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


def make_options(root: Path, **values: Any) -> Options:
    """The options of a run, with paths made absolute and None for what is not given."""
    for name in ("background_path", "flat_data_path"):
        if values.get(name) is not None:
            values[name] = Path(values[name]).expanduser().absolute()
    if values.get("groups_to_use") is not None:
        values["groups_to_use"] = tuple(values["groups_to_use"])
    values["step_kwargs"] = values.get("step_kwargs") or {}
    return Options(root=root, **values)


def _option_names(instrument: Instrument) -> list[str]:
    foreign = {"root", *SWITCHES} - set(instrument.switches)
    return [name for name in Options.__dataclass_fields__ if name not in foreign]


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
    for name in instrument.switches:
        if getattr(options, name) not in (True, False, "both"):
            raise OptionError(f"{name} is {getattr(options, name)!r}; take True, False or 'both'.")
    if options.desaturate not in (True, False, "ramp"):
        raise OptionError(f"desaturate is {options.desaturate!r}; take True, False or 'ramp'.")
    for name, needs in (("correct_psf", options.correct_psf), ("construct_flats", options.construct_flats)):
        if options.basic_navigation and needs:
            raise OptionError(f"--{name} needs all backplanes: leave --basic_navigation out.")
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
    module, name = STEP_FUNCTIONS[step].split(":")
    function = getattr(importlib.import_module(module), name)
    if any(p.kind is p.VAR_KEYWORD for p in inspect.signature(function).parameters.values()):
        return  # it checks them itself
    known = [name for name, p in inspect.signature(function).parameters.items() if p.kind is p.KEYWORD_ONLY]
    for name in parameters:
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1, cutoff=0)
            hint = f"; did you mean {nearest[0]!r}?" if nearest else "; it has none."
            raise OptionError(f"--step_kwargs {step}: {name!r} is not a parameter of {step}{hint}")


# --- plan -----------------------------------------------------------------------------------------------------------


def make_plan(instrument: Instrument, options: Options, active: Sequence[str], found: Input) -> tuple[Plan, list[str]]:
    """Plan the run; also give what the user should be told about its input."""
    roles = found.roles
    messages = [f"{e.path.name} is left out: {_why_left_out(instrument, e)}" for e in roles.left_out]
    backgrounds = _background_rates(options)
    modes = {mode for mode, _ in backgrounds} | {exposure.mode for exposure in roles.background}
    if options.background_subtract is True or options.background_path is not None:
        for mode in dict.fromkeys(e.mode for e in roles.science if e.mode not in modes):
            messages.append(f"no background for {' '.join(part for part in mode if part != 'N/A')}: not subtracted")
    if options.construct_flats:
        messages += _too_few_dithers(roles)
    steps = _steps(instrument, options, backgrounds, active)
    tasks = reduction.plan_steps(steps, active, found.products, options)
    return Plan(root=options.root, steps=tuple(active), tasks=tuple(tasks)), messages


def _why_left_out(instrument: Instrument, exposure: Exposure) -> str:
    if exposure.exposure_type != instrument.exposure_type:
        return f"{exposure.exposure_type} is no integral-field exposure"
    return f"no light of {exposure.grating}/{exposure.filter} falls on {exposure.detector}"


def _too_few_dithers(roles: ExposureRoles) -> list[str]:
    dithers: dict[tuple[str, ...], set[int]] = {}
    for exposure in roles.science:
        dithers.setdefault(exposure.setting, set()).add(exposure.dither)
    return [
        f"no flat is constructed for {' '.join(setting)}: {LEAST_DITHERS_FOR_FLAT} dithers needed, {len(numbers)} there"
        for setting, numbers in dithers.items()
        if len(numbers) < LEAST_DITHERS_FOR_FLAT
    ]


def _steps(
    instrument: Instrument,
    options: Options,
    backgrounds: Sequence[tuple[tuple[str, ...], Path]],
    active: Sequence[str],
) -> list[Step]:
    from spice_kernels import kernel_fingerprint

    jwst = jwst_stages.versions()
    own = {"pipeline": SOFTWARE_VERSION}
    kernel_path = options.of_step("navigate").get("kernel_path")
    needs_kernels = not options.basic_navigation and {"navigate", "psf", "plot", "animate"} & set(active)
    geometric = own | ({"kernels": kernel_fingerprint(kernel_path)} if needs_kernels else {})
    stage1 = partial(stage_plans.plan_stage1, defaults=instrument.stage1_defaults, versions=jwst)
    stage2 = partial(
        stage_plans.plan_stage2, defaults=instrument.stage2_defaults, background_rates=backgrounds, versions=jwst
    )
    stage3 = partial(
        stage_plans.plan_stage3,
        defaults=instrument.stage3_defaults,
        bands=instrument.bands,
        gigabytes=instrument.stage3_gigabytes,
        versions=jwst,
    )
    plans = {
        "stage1": ("uncal", stage1),
        "stage2": ("rate", stage2),
        "stage3": ("cal", stage3),
        "remove_groups": ("uncal", partial(correction_plans.plan_remove_groups, versions=jwst)),
        "defringe": ("cal", partial(correction_plans.plan_defringe, versions=jwst)),
        "defringe_1d": ("cube", partial(correction_plans.plan_defringe_1d, versions=jwst | own)),
        "psf": ("cube", partial(correction_plans.plan_psf, versions=geometric)),
        "desaturate": ("cube", partial(correction_plans.plan_desaturate, versions=own)),
        "flat": ("cube", partial(correction_plans.plan_flat, versions=own, stage=instrument.flat_stage)),
        "despike": ("cube", partial(correction_plans.plan_despike, versions=own, stage=instrument.despike_stage)),
        "navigate": ("cube", partial(stage_plans.plan_navigate, versions=geometric)),
        "plot": ("cube", partial(stage_plans.plan_plot, prefix=instrument.plot_prefix, versions=geometric)),
        "animate": ("cube", partial(stage_plans.plan_animate, prefix=instrument.plot_prefix, versions=geometric)),
    }
    return [Step(name, *plans[name]) for name in instrument.step_names]


def _background_rates(options: Options) -> list[tuple[tuple[str, ...], Path]]:
    """Mode and path of the rate images in `background_path`.

    Raises
    ------
    DataRootError
        If there are none.
    """
    if options.background_path is None or options.background_subtract is False:
        return []
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
    return [(exposure.mode, exposure.path) for exposure in exposures if not exposure.is_imprint]


# --- before the first task ------------------------------------------------------------------------------------------


def _prepare(instrument: Instrument, options: Options, pending: Sequence[Task], products: Sequence[Product]) -> None:
    """Make sure that what the pending tasks need is there: reference files, disk space."""
    if not pending:
        return
    steps = {task.step for task in pending}
    stages = sorted(steps & set(JWST_STAGES) | ({"stage2"} if "defringe" in steps else set()))
    if not stages:
        return
    raw = [product for product in products if product.path.exists() and product.level != "cube"]
    check_disk_space(options.root, DISK_FACTOR * sum(product.path.stat().st_size for product in raw))
    stage2 = instrument.stage2_defaults
    if "defringe" in steps:
        # That step is one of stage 2 in `jwst`, where it is skipped by default.
        stage2 = {**stage2, "residual_fringe": {"skip": False}}
    defaults = {"stage2": stage2, "stage3": instrument.stage3_defaults}
    wanted = {
        product.path: {
            stage: stage_plans.merged_steps(
                instrument.stage1_defaults(product.exposure) if stage == "stage1" else defaults[stage],
                options.of_step(stage),
            )
            for stage in stages
        }
        for product in raw
    }
    for problem in jwst_stages.prefetch_references(wanted):
        print(f"note: {problem}", file=sys.stderr)
