"""The plugin host: finds plugins, and keeps a broken one from taking the others down."""

import functools
import os
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import pluggy

from ..core.errors import MsdmError, did_you_mean
from . import builtin, hookspecs
from .descriptor import Plugin
from .hookspecs import KINDS, PROJECT, hook_name

BLOCK_VARIABLE = "MSDM_KIT_NO_PLUGIN"


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
    """A line of `Host.listing`. `state` is ``ok``, ``blocked``, or ``problem: `` and its reason.

    A package that is left out whole stands under the kind ``package``.
    """

    kind: str
    name: str
    summary: str
    package: str
    version: str
    state: str


@dataclass(frozen=True)
class _Origin:
    plugin: str
    package: str
    version: str


class Host:
    """All plugins: the built-ins and those of installed packages.

    Parameters
    ----------
    block : iterable of str
        Names to leave out, beside those in the environment variable ``MSDM_KIT_NO_PLUGIN`` (a comma list).
        The name of a package or of its entry point leaves all of it out, before it is imported; the name of
        a plugin leaves out that plugin.

    Attributes
    ----------
    problems : list of Problem
        What was left out because it is broken.
    """

    def __init__(self, block: Iterable[str] = ()) -> None:
        named = os.environ.get(BLOCK_VARIABLE, "").split(",")
        self._blocked = frozenset(n.strip() for n in (*named, *block) if n.strip())
        self._plugins: dict[tuple[str, str], tuple[Plugin, _Origin]] = {}
        self._rows: list[Row] = []
        self.problems: list[Problem] = []
        self._manager = pluggy.PluginManager(PROJECT)
        self._manager.add_hookspecs(hookspecs)
        self._adopt(builtin, _Origin("builtin", "msdm-kit", _version("msdm-kit")))
        found = [(_origin(e), e) for e in metadata.entry_points(group=PROJECT)]
        # The order in which installed packages are found differs between machines.
        for origin, entry in sorted(found, key=lambda pair: (pair[0].package, pair[0].plugin)):
            if {origin.package, origin.plugin} & self._blocked:
                self._rows.append(
                    Row("package", origin.plugin, "", origin.package, origin.version, "blocked")
                )
                continue
            try:
                module = entry.load()
            except (Exception, SystemExit) as error:
                self._refuse(origin, f"does not import: {_line(error)}")
            else:
                self._adopt(module, origin)

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
        if (kind, name) in self._plugins:
            return self._plugins[kind, name][0]
        legal = self.names(kind)
        if any((row.kind, row.name, row.state) == (kind, name, "blocked") for row in self._rows):
            raise MsdmError(
                f"{kind} {name!r} is blocked; take it off {BLOCK_VARIABLE}, or use one of: {', '.join(legal)}"
            )
        raise MsdmError(
            f"no {kind} {name!r}; {did_you_mean(name, legal)}; if a package brings it, install that package "
            f"(msdm-kit plugins lists what is there, and what is left out)"
        )

    def load(self, kind: str, name: str) -> Any:
        """What a plugin stands for: its class, its function or its path.

        Raises
        ------
        MsdmError
            There is no such plugin, or loading it fails.
        """
        plugin = self.get(kind, name)
        try:
            return plugin.load()
        except Exception as error:
            origin = self._plugins[kind, name][1]
            raise MsdmError(
                f"{kind} {name!r} of {origin.package} {origin.version} does not load: {_line(error)}; "
                f"mend or reinstall that package"
            ) from error

    def listing(self) -> list[Row]:
        """Every plugin, usable or not, the usable ones first."""
        return [
            *(row for row in self._rows if row.state == "ok"),
            *(row for row in self._rows if row.state != "ok"),
        ]

    def _refuse(self, origin: _Origin, reason: str, kind: str = "package", name: str = "") -> None:
        self.problems.append(Problem(origin.plugin, origin.package, origin.version, reason))
        state = f"problem: {reason}"
        self._rows.append(Row(kind, name or origin.plugin, "", origin.package, origin.version, state))

    def _adopt(self, module: Any, origin: _Origin) -> None:
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

    def _collect(self, kind: str, hook: Any, origin: _Origin) -> None:
        try:
            plugins = list(hook())
        except Exception as error:
            return self._refuse(origin, f"{hook_name(kind)} fails: {_line(error)}")
        for plugin in plugins:
            if (
                not isinstance(plugin, Plugin)
                or not isinstance(plugin.name, str)
                or not callable(plugin.load)
            ):
                what = f"{type(plugin).__name__} {str(plugin)[:60]!r}"
                self._refuse(origin, f"{hook_name(kind)} returns {what}; return a list of Plugin")
            elif (kind, plugin.name) in self._plugins:
                owner = self._plugins[kind, plugin.name][1]
                reason = f"the name {plugin.name!r} is taken by {kind} of {owner.package}; choose another"
                self._refuse(origin, reason, kind, plugin.name)
            else:
                blocked = plugin.name in self._blocked
                if not blocked:
                    self._plugins[kind, plugin.name] = (plugin, origin)
                state = "blocked" if blocked else "ok"
                row = Row(kind, plugin.name, plugin.summary, origin.package, origin.version, state)
                self._rows.append(row)


@functools.cache
def get_host() -> Host:
    """The host of this process; it looks for plugins once."""
    return Host()


def _line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"


def _origin(entry: metadata.EntryPoint) -> _Origin:
    dist = entry.dist
    return _Origin(entry.name, dist.name if dist else "unknown", dist.version if dist else "unknown")
