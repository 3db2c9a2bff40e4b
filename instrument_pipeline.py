"""What the pipelines of all instruments share: options, checks before any work, the plan and the run.

An instrument's script describes the instrument (`Instrument`) and hands it to `run_pipeline`.
"""

from __future__ import annotations

import difflib
import inspect
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import correction_plans
import jwst_stages
import reduction
import stage_plans
from cubes import SOFTWARE_VERSION
from errors import INTERRUPT_STATUS, DataRootError, InputError, OptionError, PreflightError
from instruments import STAGE2_DEFAULTS, Instrument
from observations import Exposure, find_exposures
from pipeline import Plan, RunResult, choose_executor, pending_tasks, run_plan
from pipeline_input import Input, find_input
from pipeline_options import check_options, make_options, option_names, select_steps
from preflight import DOUBTFUL, LOST, WRONG, Finding, by_state, check_input, check_needs, format_findings
from reduction import Options, Step

# What workers on other machines must find as it is here.
WORKER_VARIABLES = ("CRDS_", "PLANETMAPPER_")


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
    check: bool = False,
    quiet: bool = False,
    verbose: bool = False,
    command: Sequence[str] = (),
    **values: Any,
) -> RunResult | None:
    """Reduce the observation in a folder; each instrument's `run_pipeline` is this one without the first argument.

    Parameters
    ----------
    instrument
        What its script says about it.
    root_path
        Folder that holds `stage0/*_uncal.fits`; everything that is made goes into it.
    skip_steps
        Steps to leave out, of `instrument.step_names`.
    start_step, end_step
        First and last step to run.
    parallel
        False: one task after another; True: on all cores; a number in (0, 1]: on that fraction of them.
    cluster
        Run on a Dask cluster instead: address of its scheduler, 'slurm' or 'local'.
    workers
        How many workers to ask SLURM for, or jobs at once on a local cluster.
    memory_limit
        What tasks on one machine may need together: 16e9 or '16GB'. Others wait.
    overwrite
        Make everything anew, also what has been made from the same inputs with the same parameters.
    dry_run
        Print the plan and stop.
    check
        Check what the run needs, print a table and stop.
    quiet, verbose
        Say only what went wrong; say a line for each task.
    command
        The command line, for the log.
    **values
        What to do with the data: the attributes of `reduction.Options` other than `root`, as far as the instrument has
        the steps for them.

    Returns
    -------
    pipeline.RunResult or None
        What was done, skipped and failed; None after a dry run or a check.

    Raises
    ------
    errors.InputError
        If the input or an option is wrong. Nothing has been done then.
    """
    _check_names(instrument, values)
    root = Path(root_path).expanduser().resolve()
    options = make_options(root, **values)
    active = select_steps(instrument.step_names, skip_steps, start_step, end_step)
    check_options(instrument, options)
    variables = {name: value for name, value in os.environ.items() if name.startswith(WORKER_VARIABLES)}
    executor = choose_executor(parallel, cluster, workers, memory_limit, variables)
    found = find_input(instrument, root, active)
    backgrounds = _background_rates(options)
    plan = make_plan(instrument, options, active, found, backgrounds)
    findings = check_input(instrument, options, found, backgrounds)
    if dry_run:
        _report(findings, sys.stderr)
        print(plan.describe())
        return None
    pending = list(plan.tasks) if overwrite else pending_tasks(plan)
    findings += check_needs(instrument, options, plan, pending, found, None if cluster else executor)
    if check:
        print(format_findings(findings))
        _refuse(findings, (WRONG, LOST))
        return None
    _report(findings, sys.stderr)
    _refuse(findings, (WRONG,))
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
        **{name: getattr(options, name) for name in option_names(instrument)},
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
        facts={"defaults": _default_settings(root, settings), "kernels": _kernel_names(options, active)},
        unusable_inputs=found.unreadable,
    )
    if "report" in active and result.exit_status != INTERRUPT_STATUS:
        _write_report(root, result)
    if not quiet:
        print(describe_products(plan))
    return result


def _check_names(instrument: Instrument, values: Iterable[str]) -> None:
    own = [p.name for p in inspect.signature(run_pipeline).parameters.values() if p.kind is p.KEYWORD_ONLY]
    known = ["root_path", *own, *option_names(instrument)]
    for name in values:
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1, cutoff=0)[0]
            raise OptionError(f"{name!r} is not an option of the {instrument.name} pipeline; did you mean {nearest!r}?")


def _write_report(root: Path, result: RunResult) -> None:
    """Make the page, which tells of this run; if that fails, say so."""
    from report import write_report

    try:
        write_report(root)
    except (InputError, OSError) as error:
        print(f"warning: there is no report: {error}", file=sys.stderr)
        result.exit_status = 1


def _report(findings: Iterable[Finding], stream: TextIO) -> None:
    """Say what is not as it should be; what the run ends with is said then."""
    told = [finding for finding in findings if finding.state in (LOST, DOUBTFUL)]
    if told:
        print(format_findings(told), file=stream)


def _refuse(findings: Iterable[Finding], states: Sequence[str]) -> None:
    """Raise a `PreflightError` if there are findings of these states."""
    texts = [finding.text for finding in sorted(findings, key=by_state) if finding.state in states]
    if texts:
        more = f" (and {len(texts) - 1} more, see --check)" if len(texts) > 1 else ""
        raise PreflightError(f"{texts[0]}{more}")


def describe_products(plan: Plan) -> str:
    """Where to look: for each step of the plan, where its products lie and how many there are."""
    rows = []
    for step in (step for step in plan.steps if step != "report"):
        paths = [path for task in plan.tasks if task.step == step for path in task.outputs]
        counts = Counter(_place(path.relative_to(plan.root)) for path in paths if path.exists())
        rows += [(place, count, step) for place, count in counts.items()]
    lines = [f"  {place:<32} {count:>4} by {step}" for place, count, step in rows]
    if "report" in plan.steps:
        lines.append("  report/index.html                     all of it on one page, for a browser")
    return "\n".join([f"in {plan.root}:", *lines, "  logs/run.json, logs/<step>/*.log      what was run, and how"])


def _place(path: Path) -> str:
    """A pattern for files like this one: 'stage3/*/*_s3d_nav.fits'."""
    product = re.search(r"_(rate|cal|s3d(_\w+)?)\.fits$", path.name)
    name = f"*{product[0]}" if product else f"*{path.suffix}"
    return "/".join([path.parts[0], *("*" for _ in path.parts[1:-1]), name])


def _default_settings(root: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What these settings are where nothing is given."""
    options = make_options(root)
    parameters = [p for p in inspect.signature(run_pipeline).parameters.values() if p.kind is p.KEYWORD_ONLY]
    own = {p.name: list(p.default) if p.default == () else p.default for p in parameters}
    return {name: getattr(options, name, own.get(name)) for name in settings if name in own or hasattr(options, name)}


def _kernel_names(options: Options, active: Sequence[str]) -> list[str]:
    if not _needs_kernels(options, active):
        return []
    from spice_kernels import find_kernels

    return [path.name for path in find_kernels(options.of_step("navigate").get("kernel_path"))]


def _needs_kernels(options: Options, active: Sequence[str]) -> bool:
    return not options.basic_navigation and bool({"navigate", "psf", "plot", "animate"} & set(active))


# --- plan -----------------------------------------------------------------------------------------------------------


def make_plan(
    instrument: Instrument, options: Options, active: Sequence[str], found: Input, backgrounds: Sequence[Exposure]
) -> Plan:
    """Plan the run; `backgrounds` are the rate images of `background_path`."""
    steps = _steps(instrument, options, [(exposure.mode, exposure.path) for exposure in backgrounds], active)
    tasks = reduction.plan_steps(steps, active, found.products, options)
    return Plan(root=options.root, steps=tuple(active), tasks=tuple(tasks))


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
    needs_kernels = _needs_kernels(options, active)
    geometric = own | ({"kernels": kernel_fingerprint(kernel_path)} if needs_kernels else {})
    stage1 = partial(stage_plans.plan_stage1, defaults=instrument.stage1_defaults, versions=jwst)
    stage2 = partial(stage_plans.plan_stage2, defaults=STAGE2_DEFAULTS, background_rates=backgrounds, versions=jwst)
    stage3 = partial(
        stage_plans.plan_stage3,
        defaults=stage_plans.stage3_defaults(instrument),
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
        "cosmic_rays": ("cal", partial(correction_plans.plan_cosmic_rays, versions=jwst | own)),
        "defringe_1d": ("cube", partial(correction_plans.plan_defringe_1d, versions=jwst | own)),
        "psf": ("cube", partial(correction_plans.plan_psf, versions=geometric)),
        "desaturate": ("cube", partial(correction_plans.plan_desaturate, versions=own)),
        "flat": ("cube", partial(correction_plans.plan_flat, versions=own, stage=instrument.flat_stage)),
        "despike": ("cube", partial(correction_plans.plan_despike, versions=own, stage=instrument.despike_stage)),
        "navigate": ("cube", partial(stage_plans.plan_navigate, versions=geometric)),
        "plot": ("cube", partial(stage_plans.plan_plot, prefix=instrument.plot_prefix, versions=geometric)),
        "animate": ("cube", partial(stage_plans.plan_animate, prefix=instrument.plot_prefix, versions=geometric)),
        "report": ("cube", partial(stage_plans.plan_report, versions=own), True),
    }
    return [Step(name, *plans[name]) for name in instrument.step_names]


def _background_rates(options: Options) -> list[Exposure]:
    """The rate images in `background_path`.

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
    return [exposure for exposure in exposures if not exposure.is_imprint]
