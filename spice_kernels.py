"""SPICE kernels: finding, ordering, loading and unloading them, and saying in one sentence what is missing.

In: a folder of kernels, by default the environment variable PLANETMAPPER_KERNEL_PATH or `~/spice_kernels`. Files
`*.bsp`, `*.tpc` and `*.tls` at any depth are loaded in PlanetMapper's order (`planetmapper.base.sort_kernel_paths`):
deeper folders first, then by folder and name; what is loaded later takes precedence. One thing differs: predicted JWST
trajectories (`jwst_pred*.bsp`) are loaded before everything else, so that they never outrank reconstructed ones.

SPICE keeps its kernels in one global pool. `kernels_loaded` leaves that pool as it found it.
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import spiceypy as spice
from spiceypy.utils.exceptions import SpiceyError

from errors import KernelError

KERNEL_PATH_VARIABLE = "PLANETMAPPER_KERNEL_PATH"
DEFAULT_KERNEL_PATH = "~/spice_kernels"
JWST = -170  # NAIF's number
PATTERNS = ("**/*.bsp", "**/*.tpc", "**/*.tls")

# NAIF's generic kernels with the satellites of each planet and the planet's own centre.
SATELLITE_KERNELS = {
    4: "mar097.bsp",
    5: "jup365.bsp",
    6: "sat441.bsp",
    7: "ura111.bsp",
    8: "nep097.bsp",
    9: "plu060.bsp",
}
PLANET_KERNEL = "de440s.bsp"


def kernel_directory(path: str | Path | None = None) -> Path:
    """The folder of kernels: `path`, else PLANETMAPPER_KERNEL_PATH, else `~/spice_kernels`."""
    return Path(path or os.environ.get(KERNEL_PATH_VARIABLE) or DEFAULT_KERNEL_PATH).expanduser()


def find_kernels(path: str | Path | None = None) -> list[Path]:
    """Kernel files in the order in which they have to be loaded.

    Parameters
    ----------
    path
        Folder of kernels (see `kernel_directory`) or a single kernel file.

    Returns
    -------
    list of Path
        The last one has the highest precedence.

    Raises
    ------
    KernelError
        If the folder is missing or holds no kernel.
    """
    directory = kernel_directory(path)
    if directory.is_file():
        return [directory]
    remedy = (
        f"download NAIF's generic kernels naif0012.tls, pck00011.tpc, {PLANET_KERNEL}, the satellites of your target's "
        f"planet ({SATELLITE_KERNELS[6]} for Saturn) and JWST's jwst_rec.bsp into it, or name another folder in "
        f"{KERNEL_PATH_VARIABLE}; --basic_navigation needs none."
    )
    if not directory.is_dir():
        raise KernelError(f"the folder of SPICE kernels {directory} does not exist: {remedy}")
    files = [file for pattern in PATTERNS for file in directory.glob(pattern) if file.is_file()]
    if not files:
        raise KernelError(f"the folder {directory} holds no SPICE kernel (*.bsp, *.tpc, *.tls): {remedy}")
    return sorted(files, key=_precedence)


def _precedence(file: Path) -> tuple:
    return not is_predicted(file), -len(file.resolve().parts), str(file.parent), file.name


def is_predicted(file: str | Path) -> bool:
    """Whether a kernel is a predicted JWST trajectory, by its name (`jwst_pred*.bsp`)."""
    name = Path(file).name.lower()
    return name.startswith("jwst") and "pred" in name


def kernel_fingerprint(path: str | Path | None = None) -> str:
    """A short text that changes when any kernel is added, removed, renamed or rewritten.

    Parameters
    ----------
    path
        See `find_kernels`.

    Returns
    -------
    str
        32 hexadecimal digits, made of the names, sizes and modification times.

    Raises
    ------
    KernelError
        As `find_kernels`.
    """
    root = kernel_directory(path)
    digest = hashlib.sha256()
    for file in find_kernels(path):
        stat = file.stat()
        digest.update(f"{os.path.relpath(file, root)} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:32]


@contextmanager
def kernels_loaded(path: str | Path | None = None) -> Iterator[list[Path]]:
    """Load a folder's kernels for the length of a `with` block.

    Afterwards the kernels that were loaded before are loaded again, in their order, and no others. Nested blocks on the
    same folder load nothing, so a process that navigates many files can hold one open.

    Parameters
    ----------
    path
        See `find_kernels`.

    Yields
    ------
    list of Path
        The files, in order of loading.

    Raises
    ------
    KernelError
        If there is no kernel, or SPICE cannot read one.
    """
    files = find_kernels(path)
    names = [str(file) for file in files]
    before = _loaded_names()
    if before[-len(names) :] == names:
        yield files
        return
    try:
        for name in names:
            try:
                spice.furnsh(name)
            except SpiceyError as error:
                raise KernelError(
                    f"SPICE cannot read the kernel {name} ({_first_line(error)}): download it again."
                ) from error
        yield files
    finally:
        _restore(before, names)


def _loaded_names() -> list[str]:
    loaded = [spice.kdata(i, "ALL") for i in range(spice.ktotal("ALL"))]
    # Kernels with a source were loaded by a meta-kernel, which stands in the list itself.
    return [name for name, _, source, _ in loaded if not source]


def _restore(before: list[str], names: list[str]) -> None:
    for name in reversed(names):
        spice.unload(name)
    if set(before) & set(names):
        # SPICE moved those that were loaded twice to the top.
        for name in reversed(before):
            spice.unload(name)
        for name in before:
            spice.furnsh(name)


def jwst_kernel_kind(et: float) -> str | None:
    """Which kind of trajectory the loaded kernels give for JWST: 'reconstructed', 'predicted', or None if none covers
    `et`.

    Parameters
    ----------
    et
        TDB seconds past J2000.

    Notes
    -----
    SPKSFS tells the segment that SPICE would use. A trajectory that is not called a prediction counts as reconstructed.
    """
    try:
        handle, _, _ = spice.spksfs(JWST, et, 41)
    except spice.NotFoundError:
        return None
    for i in range(spice.ktotal("SPK")):
        name, _, _, number = spice.kdata(i, "SPK")
        if number == handle:
            return "predicted" if is_predicted(name) else "reconstructed"
    return "reconstructed"


def missing_kernel_error(
    body: str, naif_id: int, et: float, path: str | Path | None, error: SpiceyError
) -> KernelError:
    """The `KernelError` that tells what to download, after SPICE failed on `body` at `et`.

    Parameters
    ----------
    body, naif_id
        The target.
    et
        TDB seconds past J2000.
    path
        The folder of kernels, for the message.
    error
        What SPICE said.
    """
    directory = kernel_directory(path)
    date = spice.et2utc(et, "ISOC", 0)
    if not spice.bodfnd(naif_id, "RADII") or not spice.bodfnd(naif_id, "PM"):
        return KernelError(
            f"no kernel in {directory} tells the size and rotation of {body}: download NAIF's pck00011.tpc into it."
        )
    planet = naif_id // 100
    for missing, name, kernel in (
        (naif_id, body, SATELLITE_KERNELS.get(planet, PLANET_KERNEL)),
        (10, "the Sun", PLANET_KERNEL),
        (planet if 0 < planet < 10 else 10, f"the barycentre of {body}'s planetary system", PLANET_KERNEL),
    ):
        if not _has_position(missing, et):
            return KernelError(
                f"no kernel in {directory} gives the position of {name} on {date} UTC{_coverage(missing)}: download "
                f"NAIF's {kernel} (satellites and planet centres) and {PLANET_KERNEL} (planets, Sun) into it."
            )
    return KernelError(f"SPICE failed for {body} on {date} UTC with the kernels in {directory} ({_first_line(error)}).")


def _has_position(naif_id: int, et: float) -> bool:
    try:
        spice.spkgeo(naif_id, et, "J2000", 0)
    except SpiceyError:
        return False
    return True


def _coverage(naif_id: int) -> str:
    window = spice.cell_double(2000)
    for i in range(spice.ktotal("SPK")):
        spice.spkcov(spice.kdata(i, "SPK")[0], naif_id, window)
    spans = [spice.wnfetd(window, i) for i in range(spice.wncard(window))]
    text = ", ".join(f"{spice.et2utc(a, 'ISOC', 0)[:10]} to {spice.et2utc(b, 'ISOC', 0)[:10]}" for a, b in spans[:3])
    return f" (covered: {text})" if text else ""


def _first_line(error: Exception) -> str:
    return " ".join(getattr(error, "short", "").split()) or str(error).strip().splitlines()[0]
