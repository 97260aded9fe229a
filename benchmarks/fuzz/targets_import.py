"""Readers of the files of other tools."""

import io
import json
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np

from . import mutate
from .formats import archive, mat, npy, safetensors
from .images import LABELS, RGB, SIZE, picture
from .target import Target
from .words import CODES, XML


def _import(name: str, folder: Path, *, allow_pickle: bool = False) -> None:
    """All that an import does with the files in ``folder / "in"``, without processes."""
    from msdm_kit.plugins.host import get_host
    from msdm_kit.plugins.importers.rows import manifest_rows, unique_ids
    from msdm_kit.plugins.importers.source import Source
    from msdm_kit.plugins.importers.writing import write_field

    importer = get_host().load("importer", name)()
    source = Source(folder / "in", allow_pickle=allow_pickle)
    importer.detect(source)
    fields = list(importer.fields(source))
    ids = unique_ids(fields)
    manifest_rows(fields, ids)
    for id, field in zip(ids[:4], fields, strict=False):
        write_field(folder / "out", id, field.read(), field.source)


def _beside(name: str, file: str, image: str = "in/a.png", **options: bool):  # type: ignore[no-untyped-def]
    """A reader of a file beside its picture."""

    def read(folder: Path, data: bytes) -> None:
        for path, content in ((image, picture()), (file, data)):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
        _import(name, folder, **options)

    return read


SQUARE = [[2, 2], [9, 2], [9, 8], [2, 8], [2, 2]]


def _geojson() -> list[bytes]:
    square = {"type": "Polygon", "coordinates": [SQUARE]}
    cell = {
        "type": "Feature", "geometry": square, "nucleusGeometry": square,
        "properties": {"objectType": "cell", "classification": {"name": "Tumor"}, "isLocked": False},
    }  # fmt: skip
    other = {
        "type": "Feature",
        "id": "PathAnnotationObject",
        "geometry": {"type": "MultiPolygon", "coordinates": [[SQUARE]]},
    }
    nested = {
        "type": "Feature",
        "geometry": {"type": "GeometryCollection", "geometries": [square]},
        "properties": {"object_type": "annotation", "classification": {"names": ["a", "b"]}},
    }
    return [
        json.dumps({"type": "FeatureCollection", "features": [cell, cell]}).encode(),
        json.dumps([other, nested, other]).encode(),
    ]


def _coco() -> list[bytes]:
    ring = [float(n) for point in SQUARE for n in point]
    height, width = SIZE
    codes = [
        [ring],
        {"size": [height, width], "counts": [5, 4, height * width - 9]},
        {"size": [height, width], "counts": "54g5"},
    ]
    annotations = [
        {
            "id": k,
            "image_id": 1,
            "category_id": 1 + k % 2,
            "segmentation": code,
            "iscrowd": 0,
            "bbox": [1, 2, 3, 4],
            "area": 9,
        }
        for k, code in enumerate(codes)
    ]
    return [json.dumps({
        "images": [{"id": 1, "file_name": "a.png", "height": height, "width": width}],
        "annotations": annotations[:n],
        "categories": [{"id": 1, "name": "nucleus"}, {"id": 2, "name": "x", "supercategory": "cell"}],
    }).encode() for n in (1, 2, 3)]  # fmt: skip


def _xml() -> list[bytes]:
    vertices = "".join(f'<Vertex X="{x}.5" Y="{y}" Z="0"/>\n' for x, y in SQUARE)
    region = (
        '<Region Id="1" Type="0" NegativeROA="0">\n<Attributes/>\n<Vertices>\n'
        f"{vertices}</Vertices>\n</Region>\n"
    )
    layer = (
        '<Annotation Id="1" Name="Epithelial">\n<Attributes>\n<Attribute Name="x" Value=""/>\n</Attributes>\n'
        f"<Regions>\n{region}{region}</Regions>\n</Annotation>\n"
    )
    return [f'<?xml version="1.0"?>\n<Annotations MicronsPerPixel="0.25">\n{layer}</Annotations>\n'.encode()]


def _hovernet() -> list[bytes]:
    nuclei = {
        str(k): {"bbox": [[2, 2], [8, 9]], "centroid": [5, 5], "contour": SQUARE, "type": k, "type_prob": 1.0}
        for k in (1, 2)
    }
    return [json.dumps({"mag": 40, "nuc": nuclei}).encode()]


def _types(folder: Path, data: bytes) -> None:
    (folder / "in/json").mkdir(parents=True)
    (folder / "in/a.png").write_bytes(picture())
    (folder / "in/json/a.json").write_bytes(_hovernet()[0])
    (folder / "in/type_info.json").write_bytes(data)
    _import("hovernet_output", folder)


def _mat() -> list[bytes]:
    from scipy.io import savemat

    found = []
    for compressed in (False, True):
        for variables in (
            {
                "inst_map": LABELS.astype(np.float64),
                "inst_type": np.array([[1.0], [2.0], [1.0]]),
                "inst_uid": np.array([[1], [2], [3]]),
            },
            {"inst_map": LABELS, "type_map": LABELS.astype(np.uint8), "other": "text"},
            {"inst_map": LABELS.astype(np.int32), "c": np.array([[{"a": 1}]], dtype=object)},
        ):
            out = io.BytesIO()
            savemat(out, variables, do_compression=compressed)
            found.append(out.getvalue())
    return found


def _npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array, allow_pickle=False)
    return out.getvalue()


def _planes() -> np.ndarray:
    planes = np.zeros((1, *SIZE, 6), np.uint8)
    planes[0, 2:6, 3:8, 0] = 1
    planes[0, 6:9, 3:8, 4] = 2
    return planes


def _pannuke_member(which: str):  # type: ignore[no-untyped-def]
    def read(folder: Path, data: bytes) -> None:
        (folder / "in").mkdir()
        files = {"images": _npy(RGB[None]), "masks": _npy(_planes()), "types": _npy(np.array(["Colon"]))} | {
            which: data
        }
        for name, content in files.items():
            (folder / f"in/{name}.npy").write_bytes(content)
        _import("pannuke", folder)

    return read


def _pannuke_npy(folder: Path, data: bytes) -> None:
    """The first byte says which of the three it is."""
    _pannuke_member(("images", "masks", "types")[data[0] % 3 if data else 0])(folder, data[1:])


def _npy_seeds() -> list[bytes]:
    types = _npy(np.array(["Colon"]))
    return [
        b"\0" + _npy(RGB[None]),
        b"\1" + _npy(_planes()),
        b"\2" + types,
        b"\0" + _npy(RGB[None].astype(np.float64)),
    ]


def _zip(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return out.getvalue()


def _pannuke_zip() -> list[bytes]:
    names = {"Fold 1/images/fold1/": _npy(RGB[None]), "Fold 1/masks/fold1/": _npy(_planes())}
    files = {
        f"{folder}{'images' if 'images' in folder else 'masks'}.npy": content
        for folder, content in names.items()
    }
    return [_zip(files | {"Fold 1/images/fold1/types.npy": _npy(np.array(["Colon"]))})]


def _rois() -> list[bytes]:
    from roifile import ImagejRoi

    roi = ImagejRoi.frompoints(np.array(SQUARE[:-1], np.float32)).tobytes()
    return [_zip({"0001.roi": roi, "0002.roi": roi})]


def _roi(folder: Path, data: bytes) -> None:
    _beside("nuinsseg", "in/human/Imagej_zips/a.zip", "in/human/tissue images/a.png")(
        folder, _zip({"1.roi": data})
    )


def _roi_seeds() -> list[bytes]:
    from roifile import ROI_TYPE, ImagejRoi

    points = np.array(SQUARE[:-1], np.float32)
    found = [ImagejRoi.frompoints(points).tobytes(), ImagejRoi.frompoints(points + 0.5).tobytes()]
    for kind in (ROI_TYPE.RECT, ROI_TYPE.OVAL, ROI_TYPE.FREEHAND):
        roi = ImagejRoi.frompoints(points)
        roi.roitype = kind
        found.append(roi.tobytes())
    return found


def _seg() -> list[bytes]:
    found = []
    for content in ({"masks": LABELS, "img": RGB, "filename": "a.png"}, {"masks": LABELS.astype(np.int64)}):
        out = io.BytesIO()
        np.save(out, content, allow_pickle=True)
        found.append(out.getvalue())
    return found


def _ascii() -> list[bytes]:
    height, width = SIZE
    return [f"{width} {height}\n".encode() + b"\n".join(b" ".join(b"%d" % n for n in row) for row in LABELS)]


def _geojson_field(folder: Path, data: bytes) -> None:
    from msdm_kit.plugins.field_masks import read_field_masks

    (folder / "a.geojson").write_bytes(data)
    read_field_masks([("nucleus", folder / "a.geojson")], folder, SIZE)


def _pickled(folder: Path, data: bytes) -> None:
    from msdm_kit.plugins.convert_weights import convert_weights

    (folder / "m.pt").write_bytes(data)
    convert_weights(folder / "m.pt", folder / "m.safetensors")


def _state(folder: Path, data: bytes) -> None:
    from msdm_kit.core.errors import MsdmError
    from msdm_kit.plugins.convert_sdm import describe
    from msdm_kit.plugins.convert_weights import read_tensors

    (folder / "m.safetensors").write_bytes(data)
    state = read_tensors(folder / "m.safetensors")
    with suppress(MsdmError):  # the seeds are too few tensors for a network
        describe(state)


def _sdm() -> dict[str, "object"]:
    import torch

    return {
        "input_blocks.0.0.weight": torch.zeros(8, 3, 3, 3),
        "out.2.weight": torch.zeros(6, 8, 3, 3),
        "time_embed.0.weight": torch.zeros(32, 8),
    }


def _pt() -> list[bytes]:
    import torch

    found = []
    for new in (True, False):
        out = io.BytesIO()
        torch.save(_sdm(), out, _use_new_zipfile_serialization=new)
        found.append(out.getvalue())
    return found


def _st() -> list[bytes]:
    from safetensors.torch import save

    return [save(_sdm())]  # type: ignore[arg-type]


TARGETS = (
    Target("QuPath", _geojson, _beside("qupath", "in/a.geojson"), mutate.json_bytes),
    Target("GeoJSON of paint-field", _geojson, _geojson_field, mutate.json_bytes),
    Target("COCO", _coco, _beside("coco", "in/a.json"), mutate.json_bytes),
    Target("ImageScope XML", _xml, _beside("monuseg", "in/a.xml"), mutate.text(XML)),
    Target("HoVer-Net JSON", _hovernet, _beside("hovernet_output", "in/json/a.json"), mutate.json_bytes),
    Target(
        "type_info.json",
        lambda: [b'{"1": ["round", [255, 0, 0]], "2": ["flat", [0, 0, 0]]}'],
        _types,
        mutate.json_bytes,
    ),
    Target(".mat", _mat, _beside("consep", "in/Labels/a.mat", "in/Images/a.png"), mat),
    Target(
        "PanNuke .npy",
        _npy_seeds,
        _pannuke_npy,
        lambda data, rng: bytes([data[0] if data else 0]) + npy(data[1:], rng),
    ),
    Target(
        "PanNuke ZIP",
        _pannuke_zip,
        lambda folder, data: _beside("pannuke", "in/fold1.zip", "b.png")(folder, data),
        archive({"npy": npy}),
    ),
    Target(
        "ImageJ ROI ZIP",
        _rois,
        _beside("nuinsseg", "in/human/Imagej_zips/a.zip", "in/human/tissue images/a.png"),
        archive({}),
    ),
    Target("ImageJ ROI", _roi_seeds, _roi),
    Target("_seg.npy", _seg, _beside("cellpose", "in/a_seg.npy", allow_pickle=True)),
    Target(
        "Data Science Bowl CSV",
        lambda: [b"ImageId,EncodedPixels\na,1 5 20 3\na,40 2\n"],
        _beside("dsb2018", "in/codes.csv"),
        mutate.text(CODES),
    ),
    Target("text masks", _ascii, _beside("ascii", "in/a_mask.txt"), mutate.text(CODES)),
    Target("weights of torch.save", _pt, _pickled, archive({}, (0, 0, 0, 8)), addresses=False),
    Target("safetensors of SDM", _st, _state, safetensors),
)
