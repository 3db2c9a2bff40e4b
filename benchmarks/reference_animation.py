"""The plain way to draw a frame of an animation: matplotlib's images get new data and the whole figure is drawn."""

import numpy as np

from animation_frames import FrameDrawer, draw_figure


class PlainDrawer:
    """Draws the panels of a `FrameDrawer`'s frames with matplotlib alone, without cursor and numbers.

    Parameters
    ----------
    drawer
        Whose frames they are.
    """

    def __init__(self, drawer: FrameDrawer) -> None:
        from matplotlib.colors import ListedColormap

        self.drawer = drawer
        layout = drawer.layout
        self.figure, axes = draw_figure(drawer.cubes, layout, drawer.colours, drawer.words)
        colours = ListedColormap(drawer.colours / 255)
        self.images = []
        for panel, axis in zip(layout.panels, axes, strict=True):
            axis.set_facecolor((217 / 255,) * 3)
            image = axis.imshow(
                np.zeros((panel.place.height, panel.place.width)),
                extent=(*panel.xlim, *panel.ylim),
                aspect="auto",
                interpolation="nearest",
                cmap=colours,
                zorder=-1,
            )
            axis.set(xlim=panel.xlim, ylim=panel.ylim)
            self.images.append(image)

    def draw(self, number: int) -> np.ndarray:
        """Draw one frame, (height, width, 4) uint8 RGBA."""
        low, high = np.nan_to_num(self.drawer.ranges[number], nan=0.0)
        for panel, image in zip(self.drawer.layout.panels, self.images, strict=True):
            values = np.full((panel.place.height, panel.place.width), np.nan)
            for cube, projection in panel.sources:
                mapped = projection(self.drawer.cubes[cube].values[number])
                values = np.where(np.isfinite(mapped), mapped, values)
            image.set_data(np.ma.masked_invalid(values))
            image.set_clim(low, high)
        self.figure.canvas.draw()
        return np.array(self.figure.canvas.buffer_rgba())
