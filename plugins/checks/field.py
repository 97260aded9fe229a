"""Findings about the files of one field."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ...core.errors import MsdmError
from ...core.fields import IMAGES, mask_folder
from ...core.images import SUFFIXES, decode, describe
from .finding import Finding
from .hashes import hash_findings
from .images import Fingerprint, fingerprint
from .instances import LabelMap, instance_findings, nesting_findings


@dataclass(frozen=True)
class FieldReport:
    """What the files of a field show.

    Attributes
    ----------
    findings : list of Finding
    image : str
        The image's file, relative to the data folder.
    print : Fingerprint or None
        None where the image cannot be used.
    """

    findings: list[Finding]
    image: str = ""
    print: Fingerprint | None = None


@dataclass
class Picture:
    """A decoded file: its name in the data folder, pixels, Pillow mode, bits per channel."""

    name: str
    pixels: NDArray[Any]
    mode: str
    bits: int

    @property
    def is_rgb(self) -> bool:
        return self.mode == "RGB" and self.bits == 8

    @property
    def is_labels(self) -> bool:
        return (self.mode == "L" and self.bits == 8) or (self.mode in ("I;16", "I;16B") and self.bits == 16)


@dataclass
class FieldFiles:
    """The files of a field that can be decoded, whatever their type; findings about the others."""

    image: Picture | None = None
    masks: dict[str, Picture] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)


def read_files(root: Path, id: str, kinds: Sequence[str]) -> FieldFiles:
    """Decode the image and the masks of a field."""
    found = FieldFiles()
    found.image = _read(root, IMAGES, id, found.findings)
    missing = []
    for kind in kinds:
        before = len(found.findings)
        mask = _read(root, mask_folder(kind), id, found.findings)
        if mask is not None:
            found.masks[kind] = mask
        elif len(found.findings) > before and found.findings[-1].kind == "missing-mask":
            missing.append(kind)
    if len(missing) == len(kinds):
        found.findings = [finding for finding in found.findings if finding.kind != "missing-mask"]
        found.findings.append(
            Finding("no-mask", f"{IMAGES}/{id}.png", "", f"no mask of {', '.join(kinds) or 'any kind'}")
        )
    return found


def check_field(root: Path, kinds: Sequence[str], speck: int, row: Mapping[str, str]) -> FieldReport:
    """Findings about one field.

    Parameters
    ----------
    root : Path
    kinds : sequence of str
        Mask kinds that the data folder has.
    speck : int
        Pixels below which an instance is a speck.
    row : mapping of str -> str
        Of the manifest; its id is known to name a file.
    """
    files = read_files(root, row["id"], kinds)
    findings = [*files.findings, *hash_findings(root, row)]
    print = None
    if files.image is not None:
        if files.image.is_rgb:
            print = fingerprint(files.image.pixels)
        else:
            findings.append(
                Finding("image-type", files.image.name, "", describe(files.image.mode, files.image.bits))
            )
    whole: dict[str, LabelMap] = {}
    for kind, mask in files.masks.items():
        problems = list(_mask_findings(mask, files.image, speck))
        findings += problems
        if not any(problem.kind in ("mask-type", "size", "empty-mask", "one-label") for problem in problems):
            whole[kind] = mask.pixels
    if {"cell", "nucleus"} <= whole.keys() and whole["cell"].shape == whole["nucleus"].shape:
        findings += nesting_findings(whole["nucleus"], whole["cell"], files.masks["nucleus"].name)
    return FieldReport(findings, files.image.name if files.image else "", print)


def _mask_findings(mask: Picture, image: Picture | None, speck: int) -> Iterator[Finding]:
    if image is not None and mask.pixels.shape[:2] != image.pixels.shape[:2]:
        (a, b), (c, d) = mask.pixels.shape[:2], image.pixels.shape[:2]
        yield Finding("size", mask.name, "", f"{a} x {b}, image {c} x {d}")
    if not mask.is_labels:
        yield Finding("mask-type", mask.name, "", describe(mask.mode, mask.bits))
    elif not mask.pixels.any():
        yield Finding("empty-mask", mask.name, "", "every pixel is 0")
    else:
        yield from instance_findings(mask.pixels, mask.name, speck)


def _read(root: Path, folder: str, id: str, findings: list[Finding]) -> Picture | None:
    names = [f"{folder}/{id}{suffix}" for suffix in SUFFIXES if (root / folder / f"{id}{suffix}").is_file()]
    if not names:
        kind = "missing-image" if folder == IMAGES else "missing-mask"
        findings.append(Finding(kind, f"{folder}/{id}.png", "", "not there, nor as .tif or .tiff"))
        return None
    if len(names) > 1:
        findings.append(Finding("several-files", names[0], "", f"and {', '.join(names[1:])}"))
        return None
    try:
        return Picture(names[0], *decode(root / names[0]))
    except MsdmError as error:
        # the message begins with the path, which the finding has beside it
        findings.append(Finding("damaged-file", names[0], "", str(error).replace(str(root / names[0]), "it")))
        return None
