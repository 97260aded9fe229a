"""The interface: an importer of someone else's, what it may return, and the file of classes."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from msdm_kit.core.dataset import FieldDataset
from msdm_kit.core.errors import MsdmError
from msdm_kit.core.manifest import read_manifest
from msdm_kit.plugins import parallel
from msdm_kit.plugins.descriptor import Plugin, lazy
from msdm_kit.plugins.host import Host
from msdm_kit.plugins.importers.base import Content, ForeignField, Importer
from msdm_kit.plugins.importing import Detected, Transferred, import_data
from msdm_kit.plugins.instances import InstanceFile, read_instances

CHECKOUT = Path(os.environ.get("MSDM_KIT_CHECKOUT", Path(__file__).resolve().parents[2]))
IMAGE = np.zeros((4, 5, 3), np.uint8)
MASK = np.eye(4, 5, dtype=np.int64)


class Blobs(Importer):
    """A format of someone's own: a file that says how many."""

    looks_for = "x.blobs"

    def detect(self, source):
        return any(path.suffix == ".blobs" for path in source.glance)

    def fields(self, source):
        for path in source.files(".blobs"):
            for k in range(int(path.read_text())):
                yield ForeignField(
                    f"{path.stem}{k}", source.relative(path), lambda k=k: self.content(k), {"n": str(k)}
                )

    content = staticmethod(
        lambda k: Content(IMAGE, {"nucleus": MASK * (k + 1)}, {"nucleus": {k + 1: "round"}})
    )


@pytest.fixture
def blobs(tmp_path, monkeypatch):
    """Import some fields of that format."""

    def run(count=3, content=None, **options):
        if content is not None:
            monkeypatch.setattr(Blobs, "content", staticmethod(lambda k: content))
        (tmp_path / "set").mkdir()
        (tmp_path / "set/a.blobs").write_text(str(count))
        host = Host()
        plugin = Plugin("blobs", "A test.", lambda: Blobs)
        host._plugins["importer", "blobs"] = (plugin, host._plugins["importer", "coco"][1])
        return import_data(tmp_path / "set", tmp_path / "out", host=host, **options)

    return run


def test_an_importer_of_someone_else_is_found_and_used(blobs, tmp_path):
    events = []
    done = blobs(listener=events.append)
    assert (done.format, done.fields, done.instances) == ("blobs", 3, {"nucleus": (3, 3)})
    assert events == [Detected("blobs", 3), *(Transferred(k, 3) for k in (1, 2, 3))]
    rows = read_manifest(tmp_path / "out/metadata.csv")
    assert rows[2] == {"id": "a2", "n": "2", "source": "a.blobs"}
    assert FieldDataset(tmp_path / "out", masks=["nucleus"])[1].masks["nucleus"].max() == 2
    assert read_instances(tmp_path / "out")["a1"] == {"nucleus": {2: "round"}}


def page():
    return (CHECKOUT / "docs/data-import.md").read_text(encoding="utf-8")


def test_every_importer_is_documented():
    assert set(Host().names("importer")) <= set(re.findall(r"^\| `(\w+)`", page(), re.MULTILINE))


def test_the_example_of_the_documentation_works(tmp_path, monkeypatch):
    (code,) = re.findall(r"^```python\n(.*?)^```", page(), re.MULTILINE | re.DOTALL)
    assert code.count("\n") <= 30
    (tmp_path / "example_arrays.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    host = Host()
    plugin = Plugin("arrays", "A test.", lazy("example_arrays:Arrays"))
    host._plugins["importer", "arrays"] = (plugin, host._plugins["importer", "coco"][1])
    (tmp_path / "set").mkdir()
    for name in ("a", "b"):
        np.save(tmp_path / f"set/{name}_labels.npy", MASK)
        Image.fromarray(IMAGE).save(tmp_path / f"set/{name}.png")
    done = import_data(tmp_path / "set", tmp_path / "out", host=host, kind="cell", workers=2)
    assert (done.format, done.instances) == ("arrays", {"cell": (2, 2)})


def test_what_cannot_be_sent_to_a_process_is_read_in_this_one(blobs, monkeypatch):
    monkeypatch.setattr(parallel, "FEW", 2)
    assert blobs(workers=2).fields == 3


def test_a_name_that_clashes_within_a_folder_is_refused(blobs, monkeypatch):
    monkeypatch.setattr(
        Blobs, "fields", lambda self, source: iter([ForeignField("a", "x", lambda: None)] * 2)
    )
    with pytest.raises(MsdmError, match="x and x would both be the field 'a'"):
        blobs()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (Content(IMAGE[..., :2], {"nucleus": MASK}), "the image has shape"),
        (Content(IMAGE.astype(float), {"nucleus": MASK}), "legal is .H, W, 3. of uint8"),
        (Content(IMAGE, {"nucleus": MASK * 0.5}), "the nucleus mask has shape"),
        (Content(IMAGE, {"nucleus": -MASK}), "of whole numbers from 0"),
        (Content(IMAGE, {"nucleus": MASK[:3]}), "is 3 x 5, and the field 4 x 5"),
        (Content(None, {"nucleus": MASK, "cell": MASK[:3]}), "is 3 x 5, and the field 4 x 5"),
        (Content(IMAGE, {"a/b": MASK}), "cannot name a folder"),
        (Content(IMAGE, {}), "none of the 3 fields"),
    ],
)
def test_content_that_is_wrong_is_refused(blobs, tmp_path, content, says):
    with pytest.raises(MsdmError, match=says):
        blobs(content=content)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set"]


def test_classes_of_instances_that_are_not_there_are_left_out(blobs, tmp_path):
    blobs(content=Content(IMAGE, {"nucleus": MASK}, {"nucleus": {1: "", 2: "a"}, "cell": {1: "b"}}))
    assert not (tmp_path / "out/instances.csv").exists()


def test_the_file_of_classes_comes_back(tmp_path):
    classes = {"a": {"nucleus": {2: 'odd, "name"', 1: "é"}, "cell": {7: "x"}}, "b": {"cell": {1: "x"}}}
    with InstanceFile(tmp_path) as file:
        for id, named in classes.items():
            file.add(id, named)
    assert read_instances(tmp_path) == classes
    assert [path.name for path in tmp_path.iterdir()] == ["instances.csv"]


def test_the_file_of_classes_is_whole_or_not_there(tmp_path):
    def stopped():
        with InstanceFile(tmp_path) as file:
            file.add("a", {"cell": {1: "x"}})
            raise KeyError

    with pytest.raises(KeyError):
        stopped()
    assert list(tmp_path.iterdir()) == []
    assert read_instances(tmp_path) == {}


@pytest.mark.parametrize(
    "text", ["a,b\n", "id,kind,label,class\na,cell,1\n", "id,kind,label,class\na,cell,x,y\n", '"']
)
def test_a_file_of_classes_that_is_damaged(tmp_path, text):
    (tmp_path / "instances.csv").write_text(text)
    with pytest.raises(MsdmError, match=r"instances\.csv"):
        read_instances(tmp_path)
