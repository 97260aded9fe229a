"""The job of painting one large field: masks from files, a tiled OME-TIFF, and a record of both."""

import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.dataset import FieldDataset
from ..core.errors import MsdmError
from ..core.files import file_hash, write_text
from ..core.images import to_uint8
from ..core.mapped import MappedTensor, scratch_array
from ..core.sample import FACETS, Appearance, Labels, Sample, recombine
from ..core.window_conditions import WindowConditions, boxes
from ..core.windows import Window
from .data import data_folder
from .field_masks import FieldMasks, read_field_masks
from .field_windows import grid_of
from .given_colours import Colour, ColourRange, draw_colour, statistics
from .ome_tiff import pyramid, write_ome_tiff
from .pipeline import Pipeline
from .solver import load_solver

_SUFFIXES = (".ome.tif", ".ome.tiff")


@dataclass(frozen=True)
class FieldPlanned:
    """What will be painted: `windows` windows, each in so many evaluations of the network."""

    size: tuple[int, int]
    instances: Mapping[str, int]
    windows: int
    steps: int
    evaluations: int
    device: str


@dataclass(frozen=True)
class WindowsDone:
    """The network was evaluated on `windows` windows."""

    windows: int


@dataclass(frozen=True)
class Writing:
    """A file is being written."""

    path: Path


Listener = Callable[[FieldPlanned | WindowsDone | Writing], None]


@dataclass(frozen=True)
class PaintedField:
    """The files of a painted field: its image, its masks by kind, and the record."""

    image: Path
    masks: Mapping[str, Path]
    record: Path


def paint_field(
    run: str | Path,
    masks: Sequence[tuple[str, str | Path]],
    out: str | Path,
    *,
    size: tuple[int, int] | None = None,
    data: str | Path = "histology-nuclei",
    look: str | None = None,
    colours: Mapping[str, ColourRange] | None = None,
    metadata: Mapping[str, str] | None = None,
    pixel_size: float | None = None,
    seed: int = 0,
    batch: int = 4,
    device: str | None = None,
    listener: Listener = lambda event: None,
    **settings: Any,
) -> PaintedField:
    """Paint one field of any size by windows (see `core.window_sampling`).

    Parameters
    ----------
    run : str or Path
        What `Pipeline.load` takes.
    masks : sequence of (kind, path)
        As `read_field_masks` takes them; no kind is the only one of the model, or nuclei.
    out : str or Path
        The image, ``NAME.ome.tif``. Beside it come ``NAME.KIND.ome.tif`` and ``NAME.json``; none may be
        there. Scratch files without a name take about 170 bytes a pixel in its folder.
    size : (int, int) or None
        Of a field that GeoJSON gives.
    data, look : str
        Colours and metadata are those of the field `look` of this data set; None takes them from nowhere.
    colours : mapping kind -> ColourRange
        Given colours, as `Recombination` takes them; without a `look` with deviations.
    metadata : mapping column -> value
    pixel_size : float or None
        Micrometres; None is what a mask's OME-TIFF says, if any.
    seed, batch, device, **settings
        As `Pipeline.sample` takes them. Without a window it is the recipe's, or the crop of training. The
        field is painted from noise, whatever the recipe says: there is no image of it.
    listener : callable
        Called with every event.

    Returns
    -------
    PaintedField

    Raises
    ------
    MsdmError
        Anything is wrong with the run, the masks, the files or the settings; nothing is written then.
    """
    files = _files(Path(out))
    if pixel_size is not None and not 0 < pixel_size < 1e6:
        raise MsdmError(f"a pixel size of {pixel_size:g} micrometres; give one above 0, such as 0.5")
    pipeline = Pipeline.load(run, device=device)
    recipe = pipeline.recipe
    window = settings.pop("window", None) or recipe.sample.window or recipe.data.crop
    # it has no image to start from or to keep pixels of, whatever the recipe says
    chosen = pipeline.settings(**{"start": "noise", "keep": "nothing", **settings, "window": window})
    kinds = recipe.data.masks
    folder = files.image.parent
    made = _make(folder)
    try:
        named = [(kind or (kinds[0] if len(kinds) == 1 else "nucleus"), Path(path)) for kind, path in masks]
        given = read_field_masks(named, folder, size)
        lacking = [kind for kind in kinds if kind not in given.masks]
        if lacking:
            raise MsdmError(
                f"there are no {lacking[0]!r} masks, and the model reads {', '.join(kinds)}; add "
                f"--also {lacking[0]}=FILE"
            )
        given = replace(given, masks={kind: given.masks[kind] for kind in kinds})
        drawn = {k: draw_colour(seed, files.name, k, c) for k, c in (colours or {}).items()}
        field = _field(files.name, given, str(data), look, drawn, metadata or {})
        counts = _check(pipeline, field, look)
        grid = grid_of(field.size, chosen, pipeline.denoiser.multiple)
        evaluations = load_solver(chosen.solver).evaluations(chosen.walk[0])
        listener(
            FieldPlanned(
                field.size, counts, len(grid.windows), chosen.walk[0], evaluations, str(pipeline.device)
            )
        )
        drawn_image = pipeline.draw_field(
            field,
            seed=seed,
            batch=batch,
            folder=folder,
            on_windows=lambda count: listener(WindowsDone(count)),
            **chosen.model_dump(),
        )
        pixel_size = pixel_size or given.pixel_size
        record = {
            "id": field.id,
            "size": list(field.size),
            "pixel_size_um": pixel_size,
            "instances": counts,
            "mask_files": [{"kind": k, "file": str(p), "sha256": file_hash(p)} for k, p in named],
            **{f"source_{facet}": field.source(facet) for facet in FACETS},
            "donor_data": str(data) if look is not None else None,
            "given_colours": {k: {"mean": m, "std": s} for k, (m, s) in drawn.items()},
            "given_metadata": dict(metadata or {}),
            "metadata": dict(field.metadata),
            "seed": seed,
            "recipe": recipe.name,
            "training_steps": pipeline.step,
            "weights_sha256": pipeline.weights_hash,
            "sampling": chosen.model_dump(mode="json", exclude={"memory", "mask_operations"}),
        }
        return _write(files, field, drawn_image, pixel_size, record, listener)
    except BaseException:
        for empty in made:
            if not any(empty.iterdir()):
                empty.rmdir()
        raise


@dataclass(frozen=True)
class _Files:
    image: Path
    name: str
    suffix: str

    def of(self, kind: str) -> Path:
        return self.image.with_name(f"{self.name}.{kind}{self.suffix}")

    @property
    def record(self) -> Path:
        return self.image.with_name(f"{self.name}.json")


def _files(out: Path) -> _Files:
    suffix = next((s for s in _SUFFIXES if out.name.lower().endswith(s)), None)
    if suffix is None or len(out.name) == len(suffix):
        raise MsdmError(
            f"{out} cannot be the image: its name must end in .ome.tif, such as {out.stem or 'field'}.ome.tif"
        )
    files = _Files(out, out.name[: -len(suffix)], out.name[-len(suffix) :])
    taken = [out, files.record, *out.parent.glob(f"{_escaped(files.name)}.*{files.suffix}")]
    for path in taken:
        if path.exists():
            raise MsdmError(f"{path} is there already; choose another name, or delete it")
    return files


def _escaped(name: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


def _make(folder: Path) -> list[Path]:
    """Make a folder; those that were made, the innermost first."""
    made = []
    missing = folder
    while not missing.exists():
        made.append(missing)
        missing = missing.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise MsdmError(
            f"cannot write to {folder}: {os.strerror(error.errno or 0)}; choose another folder"
        ) from None
    return made


def _field(
    name: str,
    given: FieldMasks,
    data: str,
    look: str | None,
    colours: Mapping[str, Colour],
    metadata: Mapping[str, str],
) -> Sample:
    """The field to be painted."""
    sources = dict.fromkeys(FACETS, "given") | {"morphology": name}
    masks = Sample(name, given.masks, look=Appearance(), sources=sources, classes=given.classes)
    if look is None:
        without = [kind for kind, (_, std) in colours.items() if std is None]
        if without:
            raise MsdmError(
                f"the colour of {without[0]!r} has no deviation; give it, as in {without[0]}=R,G,B:R,G,B, or "
                f"--look ID of a field to take it from"
            )
        donor = masks
    else:
        donor = FieldDataset(data_folder(data), masks=tuple(given.masks), ids=[look]).by_id(look)
    field = masks if look is None else recombine(masks, donor, donor, id=name)
    found = {kind: statistics(kind, colour, donor) for kind, colour in colours.items()}
    appearance = replace(field.appearance, statistics={**field.appearance.statistics, **found})
    return replace(field, look=appearance, metadata={**field.metadata, **metadata})


def _check(pipeline: Pipeline, field: Sample, look: str | None) -> dict[str, int]:
    """Look at one instance of each kind as the conditions do; the number of instances by kind.

    Raises
    ------
    MsdmError
        A condition lacks something, or there is no instance.
    """
    found = {kind: boxes(labels) for kind, labels in field.masks.items()}
    if not any(found.values()):
        raise MsdmError(f"the masks of {field.id!r} have no instance; give masks with one at least")
    multiple = pipeline.denoiser.multiple
    try:
        conditions = WindowConditions(pipeline.denoiser, field, pipeline.device)
        for instances in found.values():
            for top, left, _, _ in list(instances.values())[:1]:
                at = Window(top - top % multiple, left - left % multiple, multiple, multiple)
                conditions.signals([at])
    except MsdmError as error:
        if look is not None:
            raise
        advice = "give --look ID of a field to take them from, or --colour and --set-metadata"
        raise MsdmError(f"colours and metadata: {error}; {advice}") from None
    return {kind: len(instances) for kind, instances in found.items()}


def _write(
    files: _Files,
    field: Sample,
    drawn: MappedTensor,
    pixel_size: float | None,
    record: Mapping[str, Any],
    listener: Listener,
) -> PaintedField:
    """Write masks, record and, last, the image; where that fails, none of them stays."""
    height, width = field.size
    folder = files.image.parent
    image: NDArray[np.uint8] = scratch_array((height, width, 3), np.uint8, folder)
    for rows in drawn.bands():
        band = slice(rows.start, min(rows.stop, height))
        if band.start < height:
            image[band] = to_uint8(drawn.at(band, slice(width))[0].numpy())
    written: list[Path] = []
    masks = {kind: files.of(kind) for kind in field.masks}
    try:
        for kind, path in masks.items():
            listener(Writing(path))
            levels = pyramid(_narrow(field.masks[kind], folder), folder, mean=False)
            write_ome_tiff(path, levels, name=f"{files.name} {kind}", pixel_size=pixel_size)
            written.append(path)
        write_text(files.record, json.dumps(record, indent=2) + "\n")
        written.append(files.record)
        listener(Writing(files.image))
        write_ome_tiff(files.image, pyramid(image, folder, mean=True), name=files.name, pixel_size=pixel_size)
    except BaseException:
        for path in written:
            with suppress(OSError):  # what went wrong first says what went wrong
                path.unlink()
        raise
    return PaintedField(files.image, masks, files.record)


def _narrow(labels: Labels, folder: Path) -> NDArray[Any]:
    """Labels in the least of uint16 and uint32 that holds them."""
    rows = 256
    top = max(int(labels[k : k + rows].max()) for k in range(0, len(labels), rows))
    narrow = scratch_array(labels.shape, np.uint16 if top < 2**16 else np.uint32, folder)
    for k in range(0, len(labels), rows):
        narrow[k : k + rows] = labels[k : k + rows]
    return narrow
