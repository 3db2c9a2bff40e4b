"""Rows of the table for the plot of a cube, and for an animation of five cubes at 1800 x 1800 pixels or more."""

from benchmarks.workspace import FIELD, UTC, Benchmark, Workspace

# Offsets of the fields from the planet's centre [arcsec east, north].
_FIELDS = ((0.4, 7.3), (-0.4, 7.7), (0.5, 7.6), (-0.5, 7.2), (0.0, 7.5))
_DPI = 142
_FRAMES = 40  # so that FFmpeg's start, once a video, counts for little


def plot(space: Workspace) -> Benchmark:
    """Plot the full cube, navigated."""
    from navigate import navigate_file
    from summary_plots import plot_file

    navigated = space.directory / "plotted_s3d_nav.fits"
    navigate_file(space.cube, navigated, kernel_path=space.kernels)
    return Benchmark(
        name="plot",
        run=lambda: plot_file(navigated, space.directory / "plot.png", kernel_path=space.kernels),
        inputs=[navigated],
        limit=lambda floor, plain: 1.0,
        rule="1 s",
    )


def animation(space: Workspace) -> Benchmark:
    """Draw and encode some frames; the plain redraw of as many is without encoding."""
    from benchmarks.reference_animation import PlainDrawer
    from navigate import navigate_file
    from simulate.cubes import simulate_cube
    from simulate.scene import Scene
    from summary_animation import AnimationSettings, make_drawer
    from video import write_video

    paths = []
    for number, offset in enumerate(_FIELDS, start=1):
        paths.append(space.directory / f"animated_d{number}_s3d_nav.fits")
        scene = Scene("saturn", space.kernels)
        simulate_cube(
            scene, UTC, paths[-1], shape=FIELD, n_wave=_FRAMES, offset=offset, dither=number, dithers=len(_FIELDS)
        )
        navigate_file(paths[-1], paths[-1], kernel_path=space.kernels)
    drawer, _ = make_drawer(paths, AnimationSettings(dpi=_DPI), space.kernels)
    plain = PlainDrawer(drawer)
    height, width = drawer.pixels.shape[:2]
    return Benchmark(
        name=f"animation ({_FRAMES} frames)",
        run=lambda: write_video(drawer, space.directory / "animation.mp4", (width, height), 10),
        inputs=paths,
        limit=lambda floor, plain: 0.060 * _FRAMES,
        rule="60 ms a frame",
        reference=lambda: [plain.draw(number) for number in range(_FRAMES)],
    )
