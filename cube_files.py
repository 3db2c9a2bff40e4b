"""The cubes of a data root by their places and names, which are a contract: which are the same at different stages.

stage5_despike/d2_bg_fringe1d/Level3_o330v001_ch1-short_s3d_nav.fits
stage          place_variant         tile     band
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_NAME = re.compile(r"(Level3_.*_s3d)(_nav)?\.fits")
_STAGE = re.compile(r"stage[3-9](_\w+)?")


@dataclass(frozen=True)
class CubeFiles:
    """The cubes of one dither, tile, band and variant.

    Attributes
    ----------
    directory
        Of the cubes below their stages: 'd2_bg_fringe1d'.
    name
        Of the cubes without '_nav.fits': 'Level3_ch1-short_s3d'.
    paths
        One of each stage, in the order of the stages.
    """

    directory: str
    name: str
    paths: tuple[Path, ...]

    @property
    def place(self) -> str:
        """'d2' or 'combined'."""
        return self.directory.split("_")[0]

    @property
    def variant(self) -> str:
        """'bg_fringe1d'; '' for none."""
        return self.directory.partition("_")[2]

    @property
    def tile(self) -> str:
        """Label of the mosaic tile, '' where there is only one."""
        return self.name.removesuffix("_s3d").partition("_")[2].rpartition("_")[0]

    @property
    def band(self) -> str:
        """'ch1-short', 'g395h-f290lp'."""
        return self.name.removesuffix("_s3d").rpartition("_")[2]

    def summary(self, root: Path) -> Path:
        """Where what the report shows of them lies."""
        return root / "report" / "cubes" / self.directory / f"{self.name}.json"


def group_cubes(paths: Iterable[Path]) -> list[CubeFiles]:
    """Which cubes are one and the same at different stages.

    Parameters
    ----------
    paths
        '.../<stage>/<directory>/Level3_..._s3d.fits' and '..._s3d_nav.fits'. Where both are in one place, the
        navigated one is taken. Others are left out.
    """
    groups: dict[tuple[str, str], dict[str, Path]] = {}
    for path in sorted(set(paths)):
        name = _NAME.fullmatch(path.name)
        stage = path.parent.parent.name
        if name and _STAGE.fullmatch(stage):
            # '..._s3d.fits' comes before '..._s3d_nav.fits', and the stages are numbered.
            groups.setdefault((path.parent.name, name[1]), {})[stage] = path
    return [CubeFiles(*key, tuple(own[stage] for stage in sorted(own))) for key, own in groups.items()]


def find_cubes(root: Path) -> list[CubeFiles]:
    """All cubes of a data root."""
    stages = [path for path in sorted(root.iterdir()) if path.is_dir() and _STAGE.fullmatch(path.name)]
    return group_cubes(path for stage in stages for path in stage.glob("*/*.fits"))
