"""NuInsSeg: a folder per organ, label maps and ImageJ outlines (Mahbod et al. 2024, arXiv 2308.01760)."""

import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from ...core.errors import MsdmError
from .archive import open_zip, read_member
from .base import Content, ForeignField, Importer
from .canvas import Canvas, rings
from .raster import Points
from .reading import picture_size, read_label_map, read_picture
from .source import PICTURES, Source

IMAGES = "tissue images"
_LABELS = ("label masks modify", "label masks")
_OUTLINES = "Imagej_zips"
_MAX_ROI = 2**24
_AREAS = ("POLYGON", "RECT", "OVAL", "FREEHAND", "TRACED")


class NuInsSeg(Importer):
    """`<organ>/tissue images/x.png` with `label masks modify`, else `label masks`, else `Imagej_zips`.

    Those three hold the same instances; outlines run along pixel corners.
    """

    looks_for = "'tissue images' with 'label masks modify' or Imagej_zips"

    def detect(self, source: Source) -> bool:
        folders = {path.parent.name for path in source.glance}
        return IMAGES in folders and bool(folders & {*_LABELS, _OUTLINES})

    def fields(self, source: Source) -> Iterator[ForeignField]:
        for image in source.files(*PICTURES):
            if image.parent.name == IMAGES:
                organ = image.parent.parent
                masks = [organ / f / f"{image.stem}{s}" for f in _LABELS for s in (".tif", ".tiff", ".png")]
                masks.append(organ / _OUTLINES / f"{image.stem}.zip")
                path = next((path for path in masks if path.is_file()), None)
                if path is None:
                    raise MsdmError(
                        f"{image} has no label masks and no outlines in {organ}; add them or take it away"
                    )
                read = partial(_read, path, image, source.kind)
                yield ForeignField(image.stem, source.relative(path), read, {"organ": organ.name})


def _read(path: Path, image: Path, kind: str) -> Content:
    if path.suffix != ".zip":
        return Content(read_picture(image), {kind: read_label_map(path)})
    canvas = Canvas(picture_size(image), str(path))
    with open_zip(path) as archive:
        names = [name for name in archive.namelist() if name.lower().endswith(".roi")]
        for label, name in enumerate(names, 1):
            canvas.polygons(kind, label, [_outline(archive, name)])
    return canvas.content(read_picture(image))


def _outline(archive: zipfile.ZipFile, name: str) -> list[Points]:
    """Rings of an ImageJ region; its holes are rings too."""
    from roifile import ImagejRoi

    data = read_member(archive, name, _MAX_ROI)
    where = f"{archive.filename}: {name}"
    try:
        roi = ImagejRoi.frombytes(data)
        if not roi.composite and roi.roitype.name not in _AREAS:
            raise MsdmError(f"{where} is a {roi.roitype.name.lower()}, which has no area; take it out")
        found = roi.coordinates(multi=True)
    except MsdmError:
        raise
    # What roifile raises on a damaged region depends on where the damage lies.
    except Exception as error:
        raise MsdmError(f"{where} is no region of ImageJ, or damaged ({error}); save it again") from None
    return rings(found if isinstance(found, list) else [found], where)
