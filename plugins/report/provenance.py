"""Where a report comes from: versions, the command, the time."""

import platform
import shlex
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from ... import __version__

_PACKAGES = ("torch", "numpy", "scipy", "scikit-image", "timm", "transformers", "cellpose", "pot")
"""Whose version may change a number."""


def provenance(**more: Any) -> dict[str, Any]:
    """What a report says of its origin, for `page.Report.provenance`.

    No environment variable, user or host name is read. The command is given as it was typed, paths included,
    and only where it is `msdm-kit` that runs.

    Parameters
    ----------
    **more
        Put first, such as ``weights_sha256=...`` or ``device="cuda:0"``; what is None is left out.

    Returns
    -------
    dict
        The given values, ``command``, ``time`` (UTC), ``msdm-kit``, ``python``, ``platform``, and versions of
        the installed packages that numbers come from.
    """
    found = {name: value for name, value in more.items() if value is not None}
    if Path(sys.argv[0]).name in ("msdm-kit", "msdm-kit.exe"):
        found["command"] = shlex.join(["msdm-kit", *sys.argv[1:]])
    found["time"] = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    found |= {"msdm-kit": __version__, "python": platform.python_version()}
    found["platform"] = f"{platform.system()} {platform.machine()}"
    return found | _versions()


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
