"""Findings, and the kinds of them that there are."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Kind:
    """A kind of finding.

    Attributes
    ----------
    severity : {'error', 'warning'}
        An error stops training, makes its conditions wrong, or makes a held-out figure worthless; a warning
        asks for a look.
    title : str
        What was found.
    legal : str
    todo : str
        What to do.
    """

    severity: Severity
    title: str
    legal: str
    todo: str


_FIX = "--fix does it"
KINDS: Mapping[str, Kind] = {
    "missing-image": Kind(
        "error", "image missing", "one file in images/ per row", "add the file, or delete the row; --fix does"
    ),
    "no-mask": Kind(
        "error", "field without masks", "a mask of a kind at least", "add it, or delete the row; --fix does"
    ),
    "several-files": Kind(
        "error", "several files of a field", "one file per field and folder", "keep one of them"
    ),
    "damaged-file": Kind(
        "error",
        "damaged file",
        "one PNG or TIFF picture",
        "copy or save it again; --fix leaves the field out",
    ),
    "changed-file": Kind(
        "error",
        "file is not the one that was written",
        "the SHA-256 of its manifest row",
        "copy or paint it again; where it was meant to change, delete the column; --fix does",
    ),
    "image-type": Kind(
        "error",
        "image not RGB",
        "8-bit RGB",
        f"convert it; {_FIX} for 8 bits and leaves out fields of more bits",
    ),
    "mask-type": Kind(
        "error",
        "mask type",
        "one channel of uint8 or uint16",
        f"save it as uint16; {_FIX} where pixels are whole numbers, and leaves out other fields",
    ),
    "size": Kind(
        "error",
        "sizes differ",
        "one height and width per field",
        "find the right mask; --fix leaves the field out",
    ),
    "empty-mask": Kind(
        "error", "mask without instances", "one instance at least", "label it or delete it; --fix deletes it"
    ),
    "one-label": Kind(
        "error",
        "foreground, not instances",
        "every instance has its own number",
        f"number the pieces; {_FIX}",
    ),
    "leak-group": Kind(
        "error", "slide or patient in several splits", "one split each", "give all its fields one split"
    ),
    "leak-image": Kind(
        "error", "image in several splits", "an image in one split", "delete one, or give both one split"
    ),
    "leak-near-image": Kind(
        "error",
        "nearly the same image in several splits",
        "an image in one split",
        "look at both; delete one, or give both one split",
    ),
    "missing-mask": Kind(
        "warning",
        "mask missing",
        "a mask of every kind that the recipe reads",
        "add it, or train on the other kinds",
    ),
    "fragments": Kind("warning", "instance in pieces", "one piece each", f"join or number them; {_FIX}"),
    "speck": Kind("warning", "speck", "instances of some size (--speck)", f"delete it; {_FIX}"),
    "nucleus-without-cell": Kind(
        "warning",
        "nucleus without a cell",
        "nuclei lie in cells",
        "outline its cell; --fix drops the nucleus",
    ),
    "nucleus-outside-cell": Kind(
        "warning", "nucleus reaches out of its cell", "nuclei lie in cells", f"cut it to its cell; {_FIX}"
    ),
    "nucleus-across-cells": Kind(
        "warning", "nucleus in several cells", "a nucleus lies in one cell", f"cut it to its cell; {_FIX}"
    ),
    "duplicate": Kind("warning", "same image twice", "images once", "delete one"),
    "near-duplicate": Kind("warning", "nearly the same image", "images once", "look at both; delete one"),
    "unlisted-file": Kind(
        "warning", "file without a row", "a row per field", "add the row or delete the file; --fix does"
    ),
    "unfinished-job": Kind(
        "warning",
        "painting was stopped, or goes on",
        "all the pairs that were asked for",
        "give the same msdm-kit sample command again: it goes on",
    ),
    "missing-column": Kind(
        "warning", "column missing", "split, assay, indication", "add it, or use a recipe without it"
    ),
    "empty-values": Kind("warning", "empty values", "a value in every row", "fill them in"),
    "one-value": Kind(
        "warning", "column of one value", "a condition varies", "nothing is learned of it: leave it out"
    ),
    "stain": Kind(
        "warning", "stain far from the rest", "near the set's median", "look at the image, its scan and assay"
    ),
}
"""By name, in the order in which they are shown."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes
    ----------
    kind : str
        Of `KINDS`.
    file : str
        Relative to the data folder, with forward slashes.
    instance : str
        A label, a column, or empty.
    value : str
        What was found.
    """

    kind: str
    file: str
    instance: str
    value: str

    @property
    def severity(self) -> Severity:
        return KINDS[self.kind].severity

    def record(self) -> dict[str, str]:
        """As a row of a report: every attribute, what is legal, and what to do."""
        about = KINDS[self.kind]
        return {
            "severity": about.severity,
            "kind": self.kind,
            "file": self.file,
            "instance": self.instance,
            "value": self.value,
            "legal": about.legal,
            "todo": about.todo,
        }
