"""Row of the table for navigating."""

from benchmarks.workspace import Benchmark, Workspace
from cubes import read_cube, sky_coordinates


def navigate(space: Workspace) -> Benchmark:
    """Navigate the full cube; the plain loop asks SPICE for each spaxel."""
    from benchmarks.reference_navigate import reference_backplanes
    from navigate import cube_geometry, navigate_file
    from spice_kernels import kernels_loaded

    cube = read_cube(space.cube)

    def reference() -> None:
        with kernels_loaded(space.kernels):
            geometry = cube_geometry(cube, kernel_path=space.kernels)
            reference_backplanes(*sky_coordinates(cube.sci_header), geometry.target, geometry.et)

    return Benchmark(
        name="navigate",
        run=lambda: navigate_file(space.cube, space.directory / "navigated.fits", kernel_path=space.kernels),
        inputs=[space.cube],
        limit=lambda floor, plain: floor + 0.1,
        rule="floor + 0.1 s",
        reference=reference,
    )
