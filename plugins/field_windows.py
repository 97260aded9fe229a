"""A pipeline's fields by windows: what is settled beforehand, and how they are painted."""

from collections.abc import Callable
from pathlib import Path

from ..core.errors import MsdmError
from ..core.mapped import MappedTensor
from ..core.recipe import SampleSection
from ..core.sample import Image, Sample
from ..core.sampling import Sampler
from ..core.window_conditions import WindowConditions
from ..core.window_sampling import draw_windows
from ..core.windows import Grid, check_overlap
from .kept_pixels import known_images


def settle_windows(settings: SampleSection, multiple: int, stride: int = 1) -> SampleSection:
    """The settings with the overlap of windows filled in, where there are windows.

    Parameters
    ----------
    settings : SampleSection
    multiple : int
        The network's.
    stride : int
        The autoencoder's.

    Raises
    ------
    MsdmError
        The window or its overlap is illegal.
    """
    if settings.window is None:
        if settings.overlap is not None:
            raise MsdmError(
                f"an overlap of {settings.overlap} pixels is that of windows; give --window too, or leave it "
                f"out"
            )
        return settings
    quarter = settings.window // 4
    overlap = quarter - quarter % stride if settings.overlap is None else settings.overlap
    check_overlap(settings.window, overlap, multiple, stride)
    return settings.model_copy(update={"overlap": overlap})


def grid_of(size: tuple[int, int], settings: SampleSection, multiple: int) -> Grid:
    """The windows of a field of `size`; the settings are settled and have a window.

    Raises
    ------
    MsdmError
        They have none.
    """
    if settings.window is None or settings.overlap is None:
        raise MsdmError("a large field is painted by windows; give --window, such as the crop of training")
    height, width = (side + -side % multiple for side in size)
    return Grid((height, width), settings.window, settings.overlap)


def draw_by_windows(
    sampler: Sampler,
    field: Sample,
    seed: int,
    batch: int,
    folder: Path | None = None,
    on_windows: Callable[[int], None] | None = None,
) -> MappedTensor:
    """The image of a field (1, 3, H, W), padded to what the backbone needs, in a file."""
    grid = grid_of(field.size, sampler.settings, sampler.network.multiple)
    return draw_windows(
        sampler,
        WindowConditions(sampler.network, field, sampler.device),
        id=field.id,
        seed=seed,
        window=grid.window,
        overlap=grid.overlap,
        batch=batch,
        known=known_images([field], sampler.settings, sampler.network.multiple),
        folder=folder,
        on_windows=on_windows,
    )


def image_by_windows(
    sampler: Sampler, field: Sample, seed: int, batch: int, on_step: Callable[[int], None] | None
) -> Image:
    """The image of a field in memory; `on_step` is called after each evaluation of all windows, with 1."""
    left = whole = len(grid_of(field.size, sampler.settings, sampler.network.multiple).windows)

    def count(windows: int) -> None:
        nonlocal left
        left -= windows
        if left == 0:
            left = whole
            if on_step is not None:
                on_step(1)

    drawn = draw_by_windows(sampler, field, seed, batch, on_windows=count)
    height, width = field.size
    image: Image = drawn.at(slice(height), slice(width))[0].numpy().copy()
    return image
