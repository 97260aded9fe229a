"""Data sets by name or folder."""

from pathlib import Path

from ..core.errors import MsdmError, did_you_mean
from .host import Host, get_host


def data_folder(name: str, host: Host | None = None) -> Path:
    """The folder of a data set.

    Parameters
    ----------
    name : str
        A folder, or a data set that a plugin brings, such as ``histology-nuclei``.
    host : Host or None

    Raises
    ------
    MsdmError
        It is neither.
    """
    host = host or get_host()
    if Path(name).is_dir():
        return Path(name)
    names = host.names("dataset")
    if name in names:
        folder: Path = host.load("dataset", name)
        return folder
    raise MsdmError(f"no data folder {name!r}, and no data set of that name: {did_you_mean(name, names)}")
