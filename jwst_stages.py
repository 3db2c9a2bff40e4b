"""Stages 1-3 of the `jwst` package as file functions: ramps to rates, rates to calibrated exposures, these to cubes.

In: `*_uncal.fits`, `*_rate.fits` or `*_cal.fits` of JWST integral-field exposures. Out: the next product, and beside it
the association it was made from. Every run of `jwst` works in a temporary directory, and what it made is moved into
place when it is complete. The reference files must be in the CRDS cache: `crds_references` puts them there.

Reference: Bushouse et al., JWST calibration pipeline, 10.5281/zenodo.6984365; https://jwst-pipeline.readthedocs.io.
"""

import ast
import difflib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from astropy.io import fits

from cube_covariance import add_covariance_factors
from errors import OptionError
from files import temporary_directory, written_whole
from flicker_noise import clean_rate_file
from observations import check_complete

PIPELINES = {"stage1": "Detector1Pipeline", "stage2": "Spec2Pipeline", "stage3": "Spec3Pipeline"}
StepParameters = Mapping[str, Mapping[str, Any]]


def run_stage1(path_in: Path, path_out: Path, *, steps: StepParameters | None = None) -> dict[str, Any]:
    """Fit the ramps of one exposure: `*_uncal.fits` to `*_rate.fits` (DN/s) with `Detector1Pipeline`.

    Parameters
    ----------
    path_in, path_out
        Raw exposure and rate image.
    steps
        Parameters of the pipeline's steps: {'jump': {'rejection_threshold': 5.0}}.

    Returns
    -------
    dict
        Facts for the run's log.

    Raises
    ------
    FileFormatError
        If the input is damaged.
    """
    check_complete(path_in)
    with temporary_directory(path_out.parent) as directory:
        _run_jwst("stage1", path_in, directory, steps)
        rate, facts = directory / path_out.name, {}
        # Saved where 1/f noise was cleaned and `save_mask` asked for.
        for mask in directory.glob("*_mask.fits") if rate.is_file() else ():
            facts = clean_rate_file(rate, mask)
        return facts | _deliver(directory, [path_out])


def run_stage2(
    path_in: Path,
    path_out: Path,
    *,
    backgrounds: Sequence[Path] = (),
    imprints: Sequence[Path] = (),
    steps: StepParameters | None = None,
) -> dict[str, Any]:
    """Calibrate one exposure: `*_rate.fits` to `*_cal.fits` (MJy/sr) with `Spec2Pipeline`.

    Parameters
    ----------
    path_in, path_out
        Rate image and calibrated exposure. The association is written beside `path_out`.
    backgrounds, imprints
        Rate images of background and leakcal exposures, subtracted by `jwst`.
    steps
        Parameters of the pipeline's steps.
    """
    members = [(path_in, "science")]
    members += [(path, "background") for path in backgrounds] + [(path, "imprint") for path in imprints]
    product = path_out.name.removesuffix("_cal.fits")
    association = Association(f"{product}_spec2_asn.json", "spec2", "DMSLevel2bBase", product, members)
    with temporary_directory(path_out.parent) as directory:
        _run_jwst("stage2", association.write(directory, absolute=True), directory, steps)
        association.write(path_out.parent)
        return _deliver(directory, [path_out])


def run_stage3(
    paths_in: Sequence[Path],
    paths_out: Sequence[Path],
    *,
    product: str,
    steps: StepParameters | None = None,
    missing: Sequence[Path] = (),
) -> dict[str, Any]:
    """Build the cubes of one setting: `*_cal.fits` to `*_s3d.fits` with `Spec3Pipeline`.

    Parameters
    ----------
    paths_in
        Calibrated exposures that go into the cubes.
    paths_out
        The cubes `{product}_{band}_s3d.fits` that the setting gives. The association is written beside them.
    product
        First part of the cubes' names.
    steps
        Parameters of the pipeline's steps.
    missing
        Exposures that should have been in `paths_in` but could not be made; the cubes' headers name them.
    """
    directory_out = paths_out[0].parent
    setting = paths_out[0].name.removeprefix(f"{product}_").removesuffix("_s3d.fits")
    members = [(path, "science") for path in paths_in]
    association = Association(f"{product}_{setting}_spec3_asn.json", "spec3", "DMS_Level3_Base", product, members)
    with temporary_directory(directory_out) as directory:
        _run_jwst("stage3", association.write(directory, absolute=True), directory, steps)
        association.write(directory_out)
        drizzled = (steps or {}).get("cube_build", {}).get("weighting", "drizzle") == "drizzle"
        _finish_cubes(directory, paths_in, missing, drizzled)
        facts = _deliver(directory, paths_out)
    if missing:
        names = ", ".join(path.name for path in missing)
        facts["warnings"] = [f"{directory_out.name}/{product}_{setting}: made without {names}"]
    return facts


@dataclass(frozen=True)
class Association:
    """A `jwst` association of one product.

    Attributes
    ----------
    name
        File name.
    kind, rule
        `asn_type` and `asn_rule`.
    product
        Name of the product.
    members
        Each file with its `exptype`.
    """

    name: str
    kind: str
    rule: str
    product: str
    members: Sequence[tuple[Path, str]]

    def write(self, directory: Path, absolute: bool = False) -> Path:
        """Write it; members are named relative to `directory`, so that a root can be moved, or absolutely.

        `jwst` itself is given absolute names, since its stage 2 takes relative ones from the current directory.
        """
        members = [
            {"expname": str(path.resolve()) if absolute else os.path.relpath(path, directory), "exptype": kind}
            for path, kind in self.members
        ]
        content = {
            "asn_type": self.kind,
            "asn_rule": self.rule,
            "asn_pool": "none",
            "asn_id": "a0001",
            "program": "noprogram",
            "products": [{"name": self.product, "members": members}],
        }
        path = directory / self.name
        with written_whole(path) as temporary:
            temporary.write_text(json.dumps(content, indent=4) + "\n")
        return path


def _run_jwst(stage: str, path_in: Path, output_directory: Path, steps: StepParameters | None) -> None:
    try:
        with _name_without_variables(output_directory) as directory:
            path_in = directory / path_in.name if path_in.parent == output_directory else path_in
            pipeline_class(stage).call(
                str(path_in),
                output_dir=str(directory),
                save_results=True,
                steps={name: dict(parameters) for name, parameters in (steps or {}).items()},
                # The engine keeps the log; `jwst` must not set up handlers of its own.
                configure_log=False,
            )
    except RuntimeError as error:
        # Stage 2 puts whole tracebacks into its message; what happened is in the last line.
        lines = str(error).strip().splitlines()
        if len(lines) > 1:
            raise RuntimeError(lines[-1]) from error
        raise


@contextmanager
def _name_without_variables(directory: Path) -> Iterator[Path]:
    """Another name for a directory in whose own `jwst` would take '$NAME' for a variable, and write elsewhere."""
    if os.path.expandvars(directory) == os.fspath(directory):
        yield directory
        return
    with tempfile.TemporaryDirectory() as name:
        link = Path(name) / "output"
        link.symlink_to(directory.absolute(), target_is_directory=True)
        yield link


def _finish_cubes(directory: Path, paths_in: Sequence[Path], missing: Sequence[Path], drizzled: bool) -> None:
    """Note in each cube what it was made of, and how the errors of its voxels go together."""
    for path in directory.glob("*_s3d.fits"):
        with fits.open(path, mode="update", memmap=False) as hdul:
            header = hdul[0].header
            header["NEXPCUBE"] = (len(paths_in), "number of exposures in this cube")
            for number, absent in enumerate(missing, start=1):
                header[f"MISSING{number}"] = (absent.name, "exposure that could not be used")
        if drizzled:
            add_covariance_factors(path, paths_in[0])


def _deliver(directory: Path, paths_out: Sequence[Path]) -> dict[str, Any]:
    """Move what `jwst` made from its temporary directory beside the outputs, these last and all of them."""
    made = {path.name: path for path in directory.iterdir() if path.is_file()}
    absent = [path.name for path in paths_out if path.name not in made]
    if absent:
        found = ", ".join(sorted(made)) or "nothing"
        raise RuntimeError(f"jwst did not make {', '.join(absent)} but {found}: see the log for the step that gave up.")
    wanted = {path.name for path in paths_out}
    for name, path in made.items():
        if name not in wanted and name.endswith("_x1d.fits"):
            shutil.move(path, paths_out[0].parent / name)
    for path in paths_out:
        os.replace(made[path.name], path)
    return {}


def check_step_parameters(stage: str, steps: StepParameters) -> None:
    """Refuse names of steps or parameters that the installed `jwst` does not know, before any work.

    Raises
    ------
    OptionError
        Naming the nearest name that is known.
    """
    known_steps = pipeline_class(stage).load_spec_file()["steps"]
    for step, parameters in steps.items():
        if step not in known_steps:
            raise OptionError(_unknown(f"--step_kwargs {stage}", step, known_steps, f"a step of {PIPELINES[stage]}"))
        if not isinstance(parameters, Mapping):
            raise OptionError(
                f'--step_kwargs {stage}: {step} needs its parameters as an object, {{"{step}": {{"skip": true}}}}, '
                f"not {parameters!r}."
            )
        for name in parameters:
            if name not in known_steps[step]:
                where = f"--step_kwargs {stage} {step}"
                raise OptionError(_unknown(where, name, known_steps[step], f"a parameter of {step}"))


def _unknown(where: str, name: str, known: Iterable[str], what: str) -> str:
    nearest = difflib.get_close_matches(name, list(known), n=1, cutoff=0)
    return f"{where}: {name!r} is not {what}; did you mean {nearest[0]!r}?"


def pipeline_class(stage: str) -> type:
    """The class of `jwst` that runs a stage: 'stage1', 'stage2' or 'stage3'."""
    import jwst.pipeline

    return getattr(jwst.pipeline, PIPELINES[stage])


def versions() -> dict[str, str]:
    """What the products of stages 1-3 depend on besides their inputs: the `jwst` version and the CRDS context."""
    from importlib.metadata import version

    return {"jwst": version("jwst"), "crds_context": crds_context()}


def crds_context() -> str:
    """The CRDS context in force: CRDS_CONTEXT, or the one the cache last heard of from the server."""
    context = os.environ.get("CRDS_CONTEXT")
    if context:
        return context
    config = Path(os.environ.get("CRDS_PATH", "")).expanduser() / "config" / "jwst" / "server_config"
    if not config.is_file():
        return "unknown"
    try:
        return str(ast.literal_eval(config.read_text()).get("operational_context", "unknown"))
    except (ValueError, SyntaxError):
        return "unknown"
