"""What detectors of all instruments suffer: defective pixels and cosmic rays."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Defects:
    """Pixels that are not as they should be, the same in all exposures of a detector.

    Attributes
    ----------
    dead, hot
        Pixels that the mask knows: flat indices.
    warm
        Pixels with extra current that the mask does not know: flat indices.
    extra_rate
        Additional count rate of each pixel [DN/s], shape (rows, columns).
    """

    dead: np.ndarray
    hot: np.ndarray
    warm: np.ndarray
    extra_rate: np.ndarray


def draw_defects(
    usable: np.ndarray,
    numbers: tuple[int, int, int],
    hot_rates: tuple[float, float],
    warm_rates: tuple[float, float],
    random: np.random.Generator,
) -> Defects:
    """Choose defective pixels.

    Parameters
    ----------
    usable
        Which pixels may be, shape (rows, columns).
    numbers
        How many are dead, hot and warm.
    hot_rates, warm_rates
        Lowest and highest additional count rate, as the power of ten [DN/s].
    random
        Source of the choice.
    """
    chosen = random.choice(np.flatnonzero(usable), sum(numbers), replace=False)
    dead, hot, warm = np.split(chosen, np.cumsum(numbers)[:-1])
    extra = np.zeros(usable.shape)
    extra.flat[hot] = 10 ** random.uniform(*hot_rates, hot.size)
    extra.flat[warm] = 10 ** random.uniform(*warm_rates, warm.size)
    return Defects(dead, hot, warm, extra)


def add_cosmic_rays(
    charge: np.ndarray, y: np.ndarray, x: np.ndarray, sizes: tuple[float, float], random: np.random.Generator
) -> None:
    """Deposit the charge of cosmic rays in place; a hit spreads a little to its neighbours.

    Parameters
    ----------
    charge
        (rows, columns) [DN].
    y, x
        (hit,) where they hit, inside the last row and column.
    sizes
        Smallest and largest charge, as the power of ten [DN].
    random
        Source of the charges.
    """
    size = 10 ** random.uniform(*sizes, y.size)
    np.add.at(charge, (y, x), size)
    np.add.at(charge, (y, x + 1), size * random.uniform(0, 0.5, y.size))
    np.add.at(charge, (y + 1, x), size * random.uniform(0, 0.3, y.size))
