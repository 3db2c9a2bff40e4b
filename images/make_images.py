"""Make the pictures of the README from simulated observations: `make images`.

The quick look is one of the demo's own plots. The figure of the corrections shows a plane of an observation that
saturates, as each step of the pipeline leaves it, and a spectrum of the demo. The Makefile has the commands.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

IMAGES = Path(__file__).parent
ROOT = IMAGES.parent
QUICK_LOOK = "plots/stage5_despike/d1/1A_Level3_ch1-short_s3d_nav.png"
CUBE = "Level3_ch1-short_s3d_nav.fits"
STAGES = (
    ("stage3", "calibrated by jwst"),
    ("stage3_desaturated", "desaturated"),
    ("stage4_flat", "flat-fielded"),
    ("stage5_despike", "despiked"),
)
EMPTY_COLOUR = "0.85"


def corrections_figure(bright: Path, demo: Path, place: str = "d1"):
    """One plane of a cube after each correction, and a spectrum with and without residual fringes.

    Parameters
    ----------
    bright
        A data root reduced with `--desaturate --construct_flats`.
    demo
        A data root with 1-D defringed cubes.
    place
        The dither's directory.

    Returns
    -------
    matplotlib.figure.Figure
    """
    from matplotlib.figure import Figure

    from cubes import read_cube

    cubes = [read_cube(bright / stage / place / CUBE) for stage, _ in STAGES]
    wavelength = cubes[0].wavelength
    plane = _telling_plane(cubes)
    figure = Figure(figsize=(13, 7.4), layout="constrained")
    grid = figure.add_gridspec(2, len(cubes), height_ratios=(1.15, 1))
    final = cubes[-1].sci[plane]
    limits = np.nanpercentile(final, [0.5, 99.5])
    for column, (cube, (_, label)) in enumerate(zip(cubes, STAGES, strict=True)):
        axes = figure.add_subplot(grid[0, column])
        axes.set_facecolor(EMPTY_COLOUR)
        image = np.where(cube.good[plane], cube.sci[plane], np.nan)
        axes.imshow(image, origin="lower", cmap="cividis", vmin=limits[0], vmax=limits[1], interpolation="nearest")
        axes.set(xticks=[], yticks=[], title=label)
    figure.suptitle(f"Channel 1A at {wavelength[plane]:.3f} µm through the pipeline; grey: no value")
    _plot_fringes(figure.add_subplot(grid[1, :]), demo, place)
    return figure


def _telling_plane(cubes: list) -> int:
    # Where desaturation brought much back and some spikes went.
    valid = [cube.good.sum(axis=(1, 2)) for cube in cubes]
    recovered = valid[1] - valid[0]
    removed = valid[2] - valid[3]
    candidates = recovered >= np.percentile(recovered, 80)
    return int(np.argmax(np.where(candidates, removed, -1)))


def _plot_fringes(axes, root: Path, place: str) -> None:
    from cubes import read_cube

    before, after = (read_cube(root / "stage3" / name / CUBE) for name in (place, f"{place}_fringe1d"))
    both = before.good & after.good
    seen = both.mean(axis=0)
    brightness = np.where(seen > 0.95, np.where(both, before.sci, 0).mean(axis=0), 0)
    y, x = np.unravel_index(np.argmax(brightness), brightness.shape)
    good = both[:, y, x]
    for cube, colour, label in ((before, "#D55E00", "as calibrated"), (after, "#0072B2", "without residual fringes")):
        values = np.where(good, cube.sci[:, y, x], np.nan)
        axes.plot(cube.wavelength, values, color=colour, linewidth=0.9, label=label)
    axes.set(xlabel="wavelength [µm]", ylabel="radiance [MJy/sr]", xlim=(before.wavelength[0], before.wavelength[-1]))
    axes.set_title("Spectrum of one spaxel")
    axes.legend(frameon=False)


def main() -> int:
    """Make every picture from `demo/` and `demo/bright/`, which must have been reduced."""
    with Image.open(ROOT / "demo" / QUICK_LOOK) as image:
        # Half the size is plenty on a page.
        image.convert("RGB").reduce(2).save(IMAGES / "quick_look.png", optimize=True)
    corrections_figure(ROOT / "demo" / "bright", ROOT / "demo").savefig(IMAGES / "corrections.png", dpi=80)
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main())
