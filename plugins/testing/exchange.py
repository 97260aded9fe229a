"""What every importer and exporter owes the data that pass through it, whoever wrote it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from ...core.dataset import FieldDataset
from ...core.errors import MsdmError
from ...core.fields import mask_kinds
from ...core.sample import Labels
from ..exporters.base import Exporter
from ..exporting import export_data
from ..importers.base import ForeignField, Importer
from ..importers.source import Source
from ..importing import import_data
from .case import Conformance
from .fields import toy_folder
from .pickling import arrived


class ImporterConformance(Conformance):
    """The checks of an importer.

    Override `write` with a function that makes a small data set of the format: the importer is then run on
    it. `Conformance.check` says what fails.
    """

    kind = "importer"
    write: Callable[[Path], None] | None = None
    """(folder) -> None: writes at least one field of the format with at least one instance."""

    def build(self) -> Importer:
        importer: Importer = self.load()()
        return importer

    def test_is_an_importer(self) -> None:
        cls = self.load()
        self.check(isinstance(cls, type) and issubclass(cls, Importer), "is no subclass of Importer")
        self.check((cls.__doc__ or "").strip(), "its class has no docstring")
        self.check(cls.looks_for.strip(), "`looks_for` is empty; say what lies in a folder of this format")
        self.check("\n" not in cls.looks_for, "`looks_for` is one line")
        self.check(isinstance(arrived(self.build()), cls), "does not survive pickling")

    def test_takes_nothing_for_its_own_that_is_not(self, tmp_path: Path) -> None:
        other = tmp_path / "other"
        other.mkdir()
        self.check(not self.build().detect(Source(other)), "recognises an empty folder as its format")
        (other / "notes.txt").write_text("A text about something else.\n")
        (other / "x.unknown").write_bytes(bytes(range(256)))
        self.check(not self.build().detect(Source(other)), "recognises foreign files as its format")

    def test_damaged_files_are_no_traceback(self, tmp_path: Path) -> None:
        """Files of the names of every format with nothing sensible in them: no exception but MsdmError."""
        for folder in ("images", "masks", "labels"):
            (tmp_path / folder).mkdir()
            for suffix in (
                ".png",
                ".tif",
                ".json",
                ".mat",
                ".npy",
                ".xml",
                ".geojson",
                ".txt",
                ".csv",
                ".zip",
            ):
                (tmp_path / folder / f"a{suffix}").write_bytes(b"\x00{<damaged")
        try:
            if self.build().detect(Source(tmp_path)):
                for found in self.build().fields(Source(tmp_path)):
                    found.read()
        except MsdmError as error:
            self.check("\n" not in str(error), "its message on a damaged file is more than a line")
        except Exception as error:
            raise AssertionError(
                f"importer {self.plugin!r}: a damaged file raises {type(error).__name__}; raise MsdmError"
            ) from error

    def test_reads_what_is_of_its_format(self, tmp_path: Path) -> None:
        if self.write is None:
            return
        made = tmp_path / "made"
        made.mkdir()
        type(self).write(made)  # type: ignore[misc]
        source = Source(made)
        self.check(self.build().detect(source), "does not recognise a data set of its format")
        first, second = (list(self.build().fields(Source(made))) for _ in range(2))
        self.check(all(isinstance(f, ForeignField) for f in first), "`fields` gives ForeignField")
        self.check([f.id for f in first] == [f.id for f in second], "fields come in another order")
        self.check(first, "finds no field")
        self.check(
            not any(Path(f.source).is_absolute() for f in first), "sources are absolute; Source.relative"
        )
        done = import_data(made, tmp_path / "out", format=self.plugin, workers=1)
        kinds = tuple(mask_kinds(done.folder))
        data = FieldDataset(done.folder, masks=kinds)
        samples = [data[i] for i in range(len(data))]
        self.check(len(samples) == len(first), f"{len(first)} fields became {len(samples)}")
        there = any(labels.any() for s in samples for labels in s.masks.values())
        self.check(there, "no instance came through")


class ExporterConformance(Conformance):
    """The checks of an exporter, on a data set of three fields with nuclei."""

    kind = "exporter"
    mask_kind: str = "nucleus"

    def build(self) -> Exporter:
        exporter: Exporter = self.load()()
        return exporter

    def test_is_an_exporter(self) -> None:
        cls = self.load()
        self.check(isinstance(cls, type) and issubclass(cls, Exporter), "is no subclass of Exporter")
        self.check((cls.__doc__ or "").strip(), "its class has no docstring")
        self.check(isinstance(arrived(self.build()), cls), "does not survive pickling")

    def test_names_fields_apart(self) -> None:
        ids = ["a", "b", "field 3"]
        names = self.build().names(ids)
        self.check(len(names) == len(set(names)) == len(ids), f"fields {ids} have the names {names}")
        self.check(self.build().names(ids) == names, "names are others the second time")

    def test_takes_a_kind_or_asks_for_one(self) -> None:
        for there in (("nucleus",), ("cell", "nucleus")):
            try:
                kinds = self.build().kinds(there)
            except MsdmError:
                continue
            self.check(kinds and set(kinds) <= set(there), f"of {there} it takes {kinds}")

    def test_writes_every_field_alike_each_time(self, tmp_path: Path) -> None:
        data = toy_folder(tmp_path / "data", ["train", "train", "val"], (48, 64))
        written = []
        for name in ("first", "second"):
            done = export_data(data, tmp_path / name, self.plugin, mask_kind=self.mask_kind, workers=1)
            self.check(done.fields == 3, f"3 fields became {done.fields}")
            files = sorted(p for p in (tmp_path / name).rglob("*") if p.is_file())
            written.append({p.relative_to(tmp_path / name): p.read_bytes() for p in files})
        self.check(written[0], "writes no file")
        self.check(written[0].keys() == written[1].keys(), "writes files of other names the second time")
        differ = [str(p) for p in written[0] if written[0][p] != written[1][p]]
        self.check(not differ, f"{differ} have other bytes the second time")

    def test_what_is_imported_again_is_the_same(self, tmp_path: Path) -> None:
        """Where an importer has the name of the exporter: the same instances come back, renumbered or not."""
        from ..host import get_host

        if self.plugin not in get_host().names("importer"):
            return
        data = toy_folder(tmp_path / "data", ["train"] * 2, (48, 64))
        export_data(data, tmp_path / "out", self.plugin, mask_kind=self.mask_kind, workers=1)
        back = import_data(tmp_path / "out", tmp_path / "back", format=self.plugin, workers=1).folder
        before, after = (FieldDataset(f, masks=[self.mask_kind]) for f in (data, back))
        self.check(len(before) == len(after), f"{len(before)} fields came back as {len(after)}")
        for a, b in zip(_masks(before, self.mask_kind), _masks(after, self.mask_kind), strict=True):
            pairs = np.unique(np.stack([a.ravel(), b.ravel()]), axis=1)
            one_to_one = pairs.shape[1] == len(np.unique(a)) == len(np.unique(b))
            self.check(one_to_one and np.array_equal(a > 0, b > 0), "instances come back as others")


def _masks(fields: FieldDataset, kind: str) -> list[Labels]:
    return [fields[i].masks[kind] for i in range(len(fields))]
