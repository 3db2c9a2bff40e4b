"""Row of the table for an animation of five cubes, at 1800 x 1800 pixels or more."""

from pathlib import Path

from benchmarks.run import SHAPE, UTC, Benchmark

# Offsets of the fields from the planet's centre [arcsec east, north].
_FIELDS = ((0.4, 7.3), (-0.4, 7.7), (0.5, 7.6), (-0.5, 7.2), (0.0, 7.5))
_DPI = 142
_FRAMES = 10


def frame(path: Path, kernels: Path) -> Benchmark:
    """Draw and encode a few frames; the plain redraw of as many is without encoding."""
    from benchmarks.reference_animation import PlainDrawer
    from navigate import navigate_file
    from simulate.cubes import simulate_cube
    from simulate.scene import Scene
    from summary_animation import AnimationSettings, make_drawer
    from video import write_video

    paths = []
    for number, offset in enumerate(_FIELDS, start=1):
        paths.append(path.with_name(f"animated_d{number}_s3d_nav.fits"))
        scene = Scene("saturn", kernels)
        simulate_cube(
            scene, UTC, paths[-1], shape=SHAPE[1:], n_wave=_FRAMES, offset=offset, dither=number, dithers=len(_FIELDS)
        )
        navigate_file(paths[-1], paths[-1], kernel_path=kernels)
    drawer, _ = make_drawer(paths, AnimationSettings(dpi=_DPI), kernels)
    plain = PlainDrawer(drawer)
    height, width = drawer.pixels.shape[:2]
    video = path.with_name("animation.mp4")
    return Benchmark(
        name="animation (10 frames)",
        run=lambda: write_video(drawer, video, (width, height), 10),
        reference=lambda: [plain.draw(number) for number in range(_FRAMES)],
        limit=lambda floor: 0.060 * _FRAMES,
        rule="60 ms a frame",
    )
