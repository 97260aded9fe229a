"""The plugin host: finds plugins, and keeps a broken one from taking the others down."""

import functools
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import metadata
from typing import Any

import pluggy

from ..core.errors import MsdmError, did_you_mean
from . import builtin, hookspecs
from .descriptor import API_LEVEL, OLDEST_API, Plugin
from .hookspecs import KINDS, PROJECT, hook_name

BLOCK_VARIABLE = "MSDM_KIT_NO_PLUGIN"
API_NAME = "MSDM_KIT_API"
OURS = "msdm-kit"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Problem:
    """A plugin, or a part of one, that is left out.

    Attributes
    ----------
    plugin : str
        Name of the entry point.
    package, version : str
        The distribution that brings it.
    reason : str
        One line.
    """

    plugin: str
    package: str
    version: str
    reason: str


@dataclass(frozen=True)
class Row:
    """A line of `Host.listing`: a plugin, usable or not.

    Attributes
    ----------
    kind, name, summary : str
        A package that is left out whole stands under the kind ``package``.
    package, version : str
    api : int or None
        The level that the package was written for; None where it does not say.
    state : str
        ``ok``, ``warning: `` and why, ``blocked``, or ``problem: `` and the reason.
    """

    kind: str
    name: str
    summary: str
    package: str
    version: str
    api: int | None
    state: str

    @property
    def usable(self) -> bool:
        return self.state == "ok" or self.state.startswith("warning: ")


@dataclass(frozen=True)
class Origin:
    """Where a plugin comes from: entry point, distribution, its version and the API level it states."""

    plugin: str
    package: str
    version: str
    api: int | None = None


class Host:
    """All plugins: the built-ins and those of installed packages.

    Parameters
    ----------
    block : iterable of str
        Names to leave out, beside those in the environment variable ``MSDM_KIT_NO_PLUGIN`` (a comma list).
        The name of a package or of its entry point leaves all of it out, before it is imported; the name of
        a plugin leaves out that plugin, of every kind. The commands of msdm-kit itself stay.

    Attributes
    ----------
    problems : list of Problem
        What was left out because it is broken.
    """

    def __init__(self, block: Iterable[str] = ()) -> None:
        named = os.environ.get(BLOCK_VARIABLE, "").split(",")
        self._blocked = frozenset(n.strip() for n in (*named, *block) if n.strip())
        self._plugins: dict[tuple[str, str], tuple[Plugin, Origin]] = {}
        self._rows: list[Row] = []
        self.problems: list[Problem] = []
        self._manager = pluggy.PluginManager(PROJECT)
        self._manager.add_hookspecs(hookspecs)
        self._adopt(builtin, Origin("builtin", OURS, _version(OURS), API_LEVEL))
        found = [(_origin(e), e) for e in metadata.entry_points(group=PROJECT)]
        # The order in which installed packages are found differs between machines.
        for origin, entry in sorted(found, key=lambda pair: (pair[0].package, pair[0].plugin)):
            if {origin.package, origin.plugin} & self._blocked:
                self._rows.append(_row("package", origin.plugin, "", origin, "blocked"))
                continue
            try:
                module = entry.load()
                level = getattr(module, API_NAME, None)
            except (Exception, SystemExit) as error:
                self._refuse(origin, f"does not import: {_line(error)}")
                continue
            if reason := _unfit(level, origin):
                self._refuse(origin, reason)
            else:
                self._adopt(module, replace(origin, api=level))

    def names(self, kind: str) -> list[str]:
        """The names of the usable plugins of a kind, sorted.

        Raises
        ------
        MsdmError
            There is no such kind.
        """
        if kind not in KINDS:
            raise MsdmError(f"no plugin kind {kind!r}; {did_you_mean(kind, KINDS)}")
        return sorted(name for k, name in self._plugins if k == kind)

    def get(self, kind: str, name: str) -> Plugin:
        """A plugin's descriptor.

        Raises
        ------
        MsdmError
            There is no such plugin, or it is blocked.
        """
        return self._find(kind, name)[0]

    def origin(self, kind: str, name: str) -> Origin:
        """The package that brings a plugin.

        Raises
        ------
        MsdmError
            There is no such plugin, or it is blocked.
        """
        return self._find(kind, name)[1]

    def _find(self, kind: str, name: str) -> tuple[Plugin, Origin]:
        if (kind, name) in self._plugins:
            return self._plugins[kind, name]
        legal = self.names(kind)
        if self.blocks(kind, name):
            raise MsdmError(
                f"{kind} {name!r} is blocked; take it off {BLOCK_VARIABLE} or --no-plugin, or use one of: "
                f"{', '.join(legal)}"
            )
        raise MsdmError(
            f"no {kind} {name!r}; {did_you_mean(name, legal)}; if a package brings it, install that package "
            f"(msdm-kit plugins lists what is there, and what is left out)"
        )

    def blocks(self, kind: str, name: str) -> bool:
        """Whether a plugin would be there, were it not blocked by name."""
        return any((row.kind, row.name, row.state) == (kind, name, "blocked") for row in self._rows)

    def load(self, kind: str, name: str) -> Any:
        """What a plugin stands for: its class, its function or its path.

        Raises
        ------
        MsdmError
            There is no such plugin, or loading it fails.
        """
        plugin, origin = self._find(kind, name)
        try:
            return plugin.load()
        except (Exception, SystemExit) as error:
            raise _does_not_load(kind, name, origin, error) from error

    def config(self, kind: str, name: str) -> Any:
        """The model of a plugin's settings, None where it has none.

        Raises
        ------
        MsdmError
            There is no such plugin, or loading it fails.
        """
        plugin, origin = self._find(kind, name)
        if plugin.config is None:
            return getattr(self.load(kind, name), "Config", None)
        try:
            return plugin.config()
        except (Exception, SystemExit) as error:
            raise _does_not_load(kind, name, origin, error) from error

    def listing(self) -> list[Row]:
        """Every plugin, usable or not, the usable ones first."""
        return sorted(self._rows, key=lambda row: not row.usable)

    def _refuse(self, origin: Origin, reason: str, kind: str = "package", name: str = "") -> None:
        self.problems.append(Problem(origin.plugin, origin.package, origin.version, reason))
        self._rows.append(_row(kind, name or origin.plugin, "", origin, f"problem: {reason}"))

    def _adopt(self, module: Any, origin: Origin) -> None:
        if reason := self._misspelt(module):
            return self._refuse(origin, reason)
        try:
            registered = self._manager.register(module, name=f"{origin.package}:{origin.plugin}")
        except Exception as error:
            # Some versions of pluggy keep the hooks that they took before the faulty one.
            if isinstance(error, pluggy.PluginValidationError) and self._manager.is_registered(module):
                self._manager.unregister(module)
            return self._refuse(origin, f"does not register: {_line(error)}")
        if registered is None or not self._manager.get_hookcallers(module):
            return self._refuse(origin, "implements no hook; mark its functions with @hookimpl")
        for kind in KINDS:
            for impl in getattr(self._manager.hook, hook_name(kind)).get_hookimpls():
                if impl.plugin is module:
                    self._collect(kind, impl.function, origin)

    def _misspelt(self, module: Any) -> str:
        """Why the hooks of a module cannot be right, or nothing."""
        hooks = {hook_name(kind) for kind in KINDS}
        for name in dir(module):
            options = self._manager.parse_hookimpl_opts(module, name)
            if options is None and name in hooks:
                return f"{name} is not marked with @hookimpl"
            implements = (options.get("specname") if options else None) or name
            if implements not in hooks and options is not None and not options["optionalhook"]:
                return f"no hook {implements!r}; {did_you_mean(implements, hooks)}"
        return ""

    def _collect(self, kind: str, hook: Any, origin: Origin) -> None:
        try:
            plugins = list(hook())
        except (Exception, SystemExit) as error:
            return self._refuse(origin, f"{hook_name(kind)} fails: {_line(error)}")
        for plugin in plugins:
            if not _well_formed(plugin):
                what = f"{type(plugin).__name__} {str(plugin)[:60]!r}"
                self._refuse(origin, f"{hook_name(kind)} returns {what}; return a list of Plugin")
            elif not _NAME.fullmatch(plugin.name):
                reason = (
                    f"{hook_name(kind)} names a plugin {plugin.name[:60]!r}; write letters, digits and . _ -"
                )
                self._refuse(origin, reason)
            elif (kind, plugin.name) in self._plugins:
                owner = self._plugins[kind, plugin.name][1]
                reason = f"the name {plugin.name!r} is taken by {kind} of {owner.package}; choose another"
                self._refuse(origin, reason, kind, plugin.name)
            elif plugin.name in self._blocked and (kind, origin.package) != ("command", OURS):
                self._rows.append(_row(kind, plugin.name, plugin.summary, origin, "blocked"))
            else:
                self._plugins[kind, plugin.name] = (plugin, origin)
                state = "ok" if origin.api is not None else f"warning: states no {API_NAME}"
                self._rows.append(_row(kind, plugin.name, plugin.summary, origin, state))


@functools.cache
def get_host() -> Host:
    """The host of this process; it looks for plugins once."""
    return Host()


@contextmanager
def blocking(names: Iterable[str]) -> Iterator[None]:
    """Leave plugins out of this process and of those that it starts meanwhile.

    Parameters
    ----------
    names : iterable of str
        As to `Host`.

    Raises
    ------
    MsdmError
        Nothing has such a name.
    """
    names = list(names)
    before = os.environ.get(BLOCK_VARIABLE)
    os.environ[BLOCK_VARIABLE] = ",".join([*([before] if before else []), *names])
    get_host.cache_clear()
    try:
        # what is left out is not imported to find out whether it is there
        rows = [row for row in get_host().listing() if row.state == "blocked"]
        out = {text for row in rows for text in (row.name, row.package)} - {OURS}
        for name in names:
            if name not in out:
                raise MsdmError(
                    f"no plugin or package {name!r} to leave out; msdm-kit plugins lists what there is"
                )
        yield
    finally:
        if before is None:
            del os.environ[BLOCK_VARIABLE]
        else:
            os.environ[BLOCK_VARIABLE] = before
        get_host.cache_clear()


def _well_formed(plugin: Any) -> bool:
    return (
        isinstance(plugin, Plugin)
        and all(isinstance(text, str) for text in (plugin.name, plugin.summary, plugin.source))
        and callable(plugin.load)
        and (plugin.config is None or callable(plugin.config))
    )


def _unfit(level: Any, origin: Origin) -> str:
    """Why a package of an API level cannot be used here, or nothing."""
    if level is None:
        return ""
    if not isinstance(level, int) or isinstance(level, bool):
        return f"{API_NAME} is {str(level)[:40]!r}; write a whole number, such as {API_LEVEL}"
    if level > API_LEVEL:
        return (
            f"is written for plugin API {level}, and this msdm-kit has {API_LEVEL}: update msdm-kit "
            f"(pip install -U {OURS})"
        )
    if level < OLDEST_API:
        return (
            f"is written for plugin API {level}, and this msdm-kit takes {OLDEST_API} to {API_LEVEL}: update "
            f"the package (pip install -U {origin.package})"
        )
    return ""


def _row(kind: str, name: str, summary: str, origin: Origin, state: str) -> Row:
    return Row(kind, name, summary, origin.package, origin.version, origin.api, state)


def _does_not_load(kind: str, name: str, origin: Origin, error: BaseException) -> MsdmError:
    return MsdmError(
        f"{kind} {name!r} of {origin.package} {origin.version} does not load: {_line(error)}; "
        f"mend or reinstall that package"
    )


def _line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"


def _origin(entry: metadata.EntryPoint) -> Origin:
    dist = entry.dist
    return Origin(entry.name, dist.name if dist else "unknown", dist.version if dist else "unknown")
