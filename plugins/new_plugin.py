"""A package of one's own to begin with: a conditioner that works, its tests, a recipe."""

import re
from importlib import resources
from pathlib import Path
from string import Template

from ..core.errors import MsdmError
from .descriptor import API_LEVEL
from .host import Host, get_host
from .new_folder import check_new, new_folder

_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
_LONGEST = 40
_FILES = {
    "pyproject.toml": "pyproject.toml.txt",
    "README.md": "README.md.txt",
    "{name}.yaml": "recipe.yaml.txt",
    "{module}/__init__.py": "__init__.py.txt",
    "{module}/hooks.py": "hooks.py.txt",
    "{module}/conditioner.py": "conditioner.py.txt",
    "tests/test_conditioner.py": "test_conditioner.py.txt",
}


def new_plugin(name: str, parent: Path, host: Host | None = None) -> Path:
    """Write a package that brings a conditioner; it installs, and passes its tests as it is written.

    Parameters
    ----------
    name : str
        What recipes will call the conditioner: lower-case letters, digits and single underscores.
    parent : Path
        The folder in which the package's own appears: ``msdm-kit-`` and the name.
    host : Host or None
        Whose names are taken; None is the host of this process.

    Returns
    -------
    Path
        The package's folder.

    Raises
    ------
    MsdmError
        The name is illegal or taken, or the folder exists or cannot be written.
    """
    if not _NAME.fullmatch(name) or len(name) > _LONGEST:
        raise MsdmError(
            f"a plugin's name has lower-case letters, digits and single underscores, begins with a letter "
            f"and is at most {_LONGEST} long, and {name[:60]!r} is not; try stain or cell_density"
        )
    if name in (host or get_host()).names("conditioner"):
        raise MsdmError(f"there is a conditioner {name!r} already; choose another name")
    slug = name.replace("_", "-")
    folder = parent / f"msdm-kit-{slug}"
    check_new(folder)
    words = {
        "name": name,
        "slug": slug,
        "package": folder.name,
        "module": f"msdm_kit_{name}",
        "cls": "".join(word.capitalize() for word in name.split("_")),
        "api": API_LEVEL,
    }
    templates = resources.files(__package__).joinpath("templates", "plugin")
    with new_folder(folder) as temporary:
        for target, source in _FILES.items():
            path = temporary / target.format(**words)
            path.parent.mkdir(parents=True, exist_ok=True)
            text = templates.joinpath(source).read_text(encoding="utf-8")
            path.write_text(Template(text).substitute(words), encoding="utf-8")
    return folder
