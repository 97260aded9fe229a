"""StarDist: `images/x.tif` with `masks/x.tif` (Schmidt et al. 2018, arXiv 1806.03535)."""

from pathlib import Path

from .base import ExportedField, Exporter, Plan
from .files import save_tiff


class StarDist(Exporter):
    """Pairs of folders, as in the data of StarDist's examples."""

    def write(self, folder: Path, plan: Plan, exported: ExportedField) -> None:
        (labels,) = exported.masks.values()
        save_tiff(folder / "images" / f"{exported.name}.tif", exported.image)
        save_tiff(folder / "masks" / f"{exported.name}.tif", labels)
