"""Row of the table for merging five ramp lengths of a bright planet that saturates in half of its voxels."""

from pathlib import Path

import numpy as np

from benchmarks.reference_desaturate import reference_onset, reference_usable
from benchmarks.workspace import Benchmark, Workspace
from cubes import read_cube, write_cube

GROUPS = (5, 4, 3, 2, 1)
_DRAWN = 50  # planes
_LOOP_PLANES = 5


def desaturate(space: Workspace) -> Benchmark:
    """Merge five full cubes."""
    from desaturate import desaturate_files

    paths = make_cubes(space)
    cubes = [read_cube(path) for path in paths]
    some = slice(_LOOP_PLANES)
    sci, err, dq, coverage = ([cube.hdul[name].data[some] for cube in cubes] for name in ("SCI", "ERR", "DQ", "WMAP"))
    del cubes

    def reference() -> None:
        usable = [reference_usable(*arrays) for arrays in zip(sci, dq, strict=True)]
        reference_onset(sci, err, usable, coverage)

    return Benchmark(
        name="desaturate (5 cubes)",
        run=lambda: desaturate_files(paths, space.directory / "merged_s3d.fits"),
        inputs=paths,
        limit=lambda floor, plain: 3 * floor,
        rule="3 x floor",
        reference=reference,
        share=_LOOP_PLANES / space.planes,
    )


def make_cubes(space: Workspace) -> list[Path]:
    """Cubes of the five ramp lengths, longest first."""
    scene = space.directory / "scene_s3d.fits"
    truth = space.draw(scene, "3", drawn=_DRAWN, offset=(0.0, 7.5))
    shape, known = truth.shape, np.isfinite(truth.sci)
    write_cube(truth, scene)
    random = np.random.default_rng(0)
    brightness = np.nan_to_num(truth.sci / np.nanmedian(truth.sci))
    groups = [brightness + 0.005 * np.sqrt(np.abs(brightness)) * random.standard_normal(shape) for _ in GROUPS]
    wells = 2.2 * random.normal(1, 0.03, shape)
    paths = []
    for n in GROUPS:
        cube = read_cube(scene)
        charge = n * brightness / wells
        low = 0.1 * np.clip((charge - 1) / 0.08, 0, 1)
        lost = (charge > 1.08) | ~known
        sci = np.where(lost, np.nan, np.mean(groups[:n], axis=0) * (1 - low))
        err = np.where(lost, np.nan, 0.005 * np.sqrt((np.abs(brightness) + 0.01) / n))
        for name, values in (("SCI", sci), ("ERR", err), ("WMAP", np.where(lost, 0, 8))):
            cube.hdul[name].data = values.astype(np.float32)
        cube.hdul["DQ"].data = np.where(lost, 1, 0).astype(np.uint32)
        cube.header["NGROUPS"] = n
        paths.append(space.directory / f"{n}_groups_s3d.fits")
        write_cube(cube, paths[-1])
    return paths
