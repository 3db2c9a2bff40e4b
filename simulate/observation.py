"""A simulated observation: raw ramps, reference files, kernels and truth in one directory.

OUT/stage0/*_uncal.fits     raw exposures, as the archive has them
OUT/crds/                   CRDS cache for the real `jwst`
OUT/kernels/                SPICE kernels
OUT/truth/                  scene.json, observation.json; per exposure a .json (pointing) and a .npz (images)
OUT/environment.sh          sets CRDS and kernel paths: `. OUT/environment.sh`

from simulate.mrs_exposure import MRS
from simulate.observation import simulate_observation
simulate_observation(MRS, "demo", target="saturn", dithers=4)
"""

import json
import os
import shlex
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from errors import InputError, OptionError
from files import written_whole
from simulate.crds_cache import CONTEXTS, SERVER_URL
from simulate.exposure import Instrument, simulate_exposure
from simulate.plan import Exposure, Settings, make_settings, plan_exposures

DESCRIPTION = Path("truth") / "observation.json"


def simulate_observation(
    instrument: Instrument,
    out: str | Path,
    *,
    jobs: int | None = None,
    if_needed: bool = False,
    report: Callable[[str], None] = lambda line: None,
    **settings: Any,
) -> Path:
    """Simulate an observation of a solar-system body.

    Parameters
    ----------
    instrument
        `simulate.mrs_exposure.MRS` or `simulate.nirspec_exposure.NIRSPEC`.
    out
        Directory to fill; an earlier simulation in it is replaced, other files are left alone.
    jobs
        Number of processes; default: one per core.
    if_needed
        Do nothing where the same observation is already complete.
    report
        Called with a line of text about each part that is made.
    **settings
        See `simulate.plan.Settings` and the instrument's own; sequences may be lists, directories strings.

    Returns
    -------
    Path
        `out`.

    Raises
    ------
    InputError
        If a setting is not possible, with one sentence that says why.
    """
    root = Path(out).expanduser().resolve()
    checked = make_settings(instrument.settings, **settings)
    exposures = plan_exposures(checked)
    if jobs is not None and jobs < 1:
        raise OptionError(f"--jobs {jobs} must be 1 or more.")
    if root.exists() and not root.is_dir():
        raise InputError(f"{root} is a file: name a directory for the observation.")
    if if_needed and _is_complete(root, checked, exposures):
        report(f"{root}: complete, nothing to do")
        return root
    instrument.check_geometry(checked, exposures)
    _remove_previous(root)
    description = {"settings": checked.describe(), "exposures": [exposure.name for exposure in exposures]}
    _write_json(root / DESCRIPTION, description | {"complete": False})
    (root / "stage0").mkdir(parents=True, exist_ok=True)
    kernels = _prepare_kernels(root, instrument, checked, exposures)
    scene = instrument.make_scene(checked, kernels)
    _write_json(root / "truth" / "scene.json", scene.describe())
    report(f"kernels/  {checked.target} and JWST" if checked.kernels is None else f"kernels of {kernels}")
    parts: list[tuple[Callable[..., Path], tuple]] = [
        (_expose, (root, instrument, checked, exposure, kernels, len(exposures))) for exposure in exposures
    ]
    parts.append((_write_cache, (root, instrument, checked)))
    for path in _run(parts, min(jobs or os.cpu_count() or 1, len(parts))):
        report(f"{path.relative_to(root)}  {_size(path)}")
    _write_environment(root, kernels, _context(checked))
    _write_json(root / DESCRIPTION, description | {"complete": True})
    report(f"truth/  what went in; start with '. {shlex.quote(str(root / 'environment.sh'))}'")
    return root


def _prepare_kernels(root: Path, instrument: Instrument, settings: Settings, exposures: list[Exposure]) -> Path:
    """The directory of kernels to use; our own are written."""
    import spiceypy as spice
    from spiceypy.utils.exceptions import SpiceyError

    from simulate.headers import Ephemeris, exposure_times
    from simulate.kernels import furnish, write_kernels

    first, last = exposure_times(settings, exposures[0])[0], exposure_times(settings, exposures[-1])[2]
    if settings.kernels is None:
        write_kernels(root / "kernels", first.isot, last.isot, settings.target)
        return root / "kernels"
    try:
        for time in (first, last):
            instrument.make_scene(settings, settings.kernels).snapshot(time.isot)
            with furnish(settings.kernels):
                Ephemeris.at(spice.str2et(time.isot))
    except (SpiceyError, FileNotFoundError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"--kernels {settings.kernels} do not give {settings.target} and JWST at {first.isot} ({reason}): "
            "add what is missing or leave the option out."
        ) from error
    return settings.kernels


def _expose(
    root: Path, instrument: Instrument, settings: Settings, exposure: Exposure, kernels: Path, total_exposures: int
) -> Path:
    scene = instrument.make_scene(settings, kernels)
    return simulate_exposure(root, instrument, settings, exposure, scene, total_exposures)


def _write_cache(root: Path, instrument: Instrument, settings: Settings) -> Path:
    instrument.write_references(root / "crds", settings)
    return root / "crds"


def _run(parts: list[tuple[Callable[..., Path], tuple]], jobs: int) -> Iterable[Path]:
    """Do the parts, in `jobs` processes if there are several, and yield what each made."""
    if jobs == 1:
        for function, arguments in parts:
            yield function(*arguments)
        return
    # Spawned, not forked: threads of numerical libraries do not survive a fork.
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_use_one_thread) as pool:
        futures = [pool.submit(function, *arguments) for function, arguments in parts]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            for future in futures:
                future.cancel()


def _use_one_thread() -> None:
    """Keep linear algebra to one thread: the processes fill the cores."""
    import numpy  # noqa: F401  (its libraries must be loaded to be limited)
    from threadpoolctl import threadpool_limits

    threadpool_limits(1)


def _write_environment(root: Path, kernels: Path, context: str) -> None:
    variables = {
        "CRDS_PATH": str(root / "crds"),
        "CRDS_CONTEXT": context,
        "CRDS_SERVER_URL": SERVER_URL,
        "PLANETMAPPER_KERNEL_PATH": str(kernels),
    }
    lines = [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
    with written_whole(root / "environment.sh") as temporary:
        temporary.write_text("\n".join(["# Use the simulated observatory: . environment.sh", *lines, ""]))


def _context(settings: Settings) -> str:
    return CONTEXTS[settings.mode.instrument]


def _read_description(root: Path) -> dict[str, Any]:
    try:
        return json.loads((root / DESCRIPTION).read_text())
    except (OSError, ValueError):
        return {}


def _is_complete(root: Path, settings: Settings, exposures: list[Exposure]) -> bool:
    description = _read_description(root)
    expected = [root / "environment.sh", root / "crds" / "mappings" / "jwst" / _context(settings)]
    expected += [root / "stage0" / f"{exposure.name}_uncal.fits" for exposure in exposures]
    if settings.kernels is None:
        expected.append(root / "kernels")
    same = description.get("complete") is True and description.get("settings") == settings.describe()
    return same and all(path.exists() for path in expected)


def _remove_previous(root: Path) -> None:
    """Remove what an earlier simulation left, finished or not, and nothing else: exposures must not mix."""
    description = _read_description(root)
    for name in description.get("exposures", []):
        (root / "stage0" / f"{name}_uncal.fits").unlink(missing_ok=True)
        for suffix in (".json", ".npz"):
            (root / "truth" / f"{name}{suffix}").unlink(missing_ok=True)
    if description:
        shutil.rmtree(root / "crds", ignore_errors=True)


def _write_json(path: Path, content: Any) -> None:
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n")


def _size(path: Path) -> str:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return f"{sum(file.stat().st_size for file in files) / 1e6:.1f} MB"
