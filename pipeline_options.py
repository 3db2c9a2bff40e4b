"""The options of a run: which there are for an instrument, and whether what the user gave can be done."""

import difflib
import importlib
import inspect
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jwst_stages
from errors import OptionError
from instruments import SWITCHES, Instrument
from reduction import Options

JWST_STAGES = ("stage1", "stage2", "stage3")
# The functions whose parameters `step_kwargs` takes, for steps that are not stages of `jwst`.
STEP_FUNCTIONS = {
    "remove_groups": "remove_groups:remove_groups_file",
    "defringe": "defringe:defringe_file",
    "cosmic_rays": "cosmic_rays:mend_cosmic_rays_file",
    "defringe_1d": "defringe:defringe_1d_file",
    "navigate": "navigate:navigate_file",
    "psf": "psf_correct:psf_correct_file",
    "desaturate": "desaturate:desaturate_files",
    "flat": "construct_flat_field:construct_flat_field_files",
    "despike": "despike:despike_file",
    "plot": "summary_plots:plot_file",
    "animate": "summary_animation:animate_files",
    "report": "report_cubes:summarise_files",
}
WEIGHTINGS = ("drizzle", "emsm", "msm")


def make_options(root: Path, **values: Any) -> Options:
    """The options of a run, with paths made absolute and None for what is not given."""
    for name in ("background_path", "flat_data_path"):
        if values.get(name) is not None:
            values[name] = Path(values[name]).expanduser().absolute()
    if values.get("groups_to_use") is not None:
        values["groups_to_use"] = tuple(values["groups_to_use"])
    values["step_kwargs"] = values.get("step_kwargs") or {}
    return Options(root=root, **values)


def option_names(instrument: Instrument) -> list[str]:
    """The fields of `Options` that an instrument's pipeline has; another one's variants are not among them."""
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


def check_options(instrument: Instrument, options: Options) -> None:
    """Refuse values that are not possible, in one sentence that says which are.

    Raises
    ------
    OptionError
    """
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
