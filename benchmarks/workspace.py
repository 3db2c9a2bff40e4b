"""What the rows of the table share: a folder with a full cube, and how a row is described."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cubes import Cube, read_cube, write_cube

FIELD = (45, 41)  # spaxels
PLANES = 1050
UTC = "2022-11-13T10:00:00"


@dataclass(frozen=True)
class Benchmark:
    """One row of the table.

    Attributes
    ----------
    name
        Of the step.
    run
        What is timed.
    inputs
        The cubes it reads. Reading them and writing one is the floor; memory is counted in their sizes.
    limit
        Longest time allowed [s], from the time of the floor and that of the plain loop [s].
    rule
        That limit in words.
    reference
        The plain loop without reading and writing, or None.
    share
        The part of the work that `reference` does.
    """

    name: str
    run: Callable[[], object]
    inputs: Sequence[Path]
    limit: Callable[[float, float], float]
    rule: str
    reference: Callable[[], object] | None = None
    share: float = 1.0


@dataclass(frozen=True)
class Workspace:
    """Where the benchmarks work.

    Attributes
    ----------
    directory
        For their files.
    kernels
        SPICE kernels of Saturn.
    planes
        Number of wavelengths of a cube.
    """

    directory: Path
    kernels: Path
    planes: int = PLANES

    @classmethod
    def make(cls, directory: Path, planes: int) -> "Workspace":
        """Write the kernels and the cube."""
        from simulate.kernels import write_kernels

        space = cls(directory, directory / "kernels", planes)
        write_kernels(space.kernels, "2022-11-11", "2022-11-15", "saturn")
        write_cube(space.draw(space.cube, offset=(0.0, 7.5), noise=100.0), space.cube)
        return space

    @property
    def cube(self) -> Path:
        """A cube of Saturn's limb, not navigated."""
        return self.directory / "full_s3d.fits"

    def draw(self, path: Path, channel: str = "1", drawn: int = 10, **options) -> Cube:
        """A cube of the whole field of which `drawn` planes are simulated, and then repeated; `path` is overwritten."""
        from simulate.cubes import simulate_cube
        from simulate.scene import Scene

        drawn = min(drawn, self.planes)
        scene = Scene("saturn", self.kernels)
        cube = read_cube(simulate_cube(scene, UTC, path, channel, shape=FIELD, n_wave=drawn, **options))
        numbers = np.arange(self.planes) * drawn // self.planes
        for name in ("SCI", "ERR", "DQ", "WMAP"):
            cube.hdul[name].data = cube.hdul[name].data[numbers]
        cube.sci_header["CDELT3"] *= drawn / self.planes
        return cube
