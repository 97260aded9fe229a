"""Commands that plugins bring, under `msdm-kit`: listed without being loaded, and never in the way."""

from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from ..core.errors import MsdmError

CLICK_EXCEPTIONS: tuple[type[BaseException], ...] = (
    typer.Exit,
    typer.Abort,
    *(c for c in typer.BadParameter.__mro__ if c.__module__.startswith(("click", "typer"))),
)
"""What ends a command on purpose; of the click that typer uses, which since typer 0.20 is its own."""


class PluginCommand(TyperCommand):
    """A command of a plugin, by its name and summary until it is called."""

    def __init__(self, name: str, summary: str) -> None:
        super().__init__(name, help=summary, callback=None, rich_markup_mode=None)
        self._real: Any = None

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """The context of the command itself, which is loaded here."""
        from ..plugins.host import get_host

        assert self.name is not None
        loaded = get_host().load("command", self.name)
        with _Named(self.name):
            self._real = _command(loaded, self.name)
            context = self._real.make_context(info_name, args, parent=parent, **extra)
        context.command = self
        return context

    def invoke(self, ctx: Any) -> Any:
        ctx.command = self._real
        assert self.name is not None
        with _Named(self.name):
            return self._real.invoke(ctx)


class PluginCommands(TyperGroup):
    """A group with commands of its own, and those of plugins after them."""

    def list_commands(self, ctx: Any) -> list[str]:
        own = super().list_commands(ctx)
        return [*own, *(name for name in _names() if name not in own)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        own = super().get_command(ctx, cmd_name)
        if own is not None or cmd_name not in _names():
            return own
        from ..plugins.host import get_host

        return PluginCommand(cmd_name, get_host().get("command", cmd_name).summary)


def _names() -> list[str]:
    from ..plugins.host import get_host

    return get_host().names("command")


def _command(loaded: Any, name: str) -> Any:
    if not isinstance(loaded, typer.Typer):
        if not callable(loaded):
            raise TypeError(f"loads {type(loaded).__name__}; give a typer.Typer or a function")
        app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
        app.command(name)(loaded)
        loaded = app
    return get_command(loaded)


class _Named:
    """Turns what a plugin's command raises into an MsdmError that names its package."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, Exception) or isinstance(error, (MsdmError, MemoryError, *CLICK_EXCEPTIONS)):
            return
        from ..plugins.host import get_host

        origin = get_host().origin("command", self.name)
        text = " ".join(f"{type(error).__name__}: {error}".split())
        raise MsdmError(
            f"command {self.name!r} of {origin.package} {origin.version} fails: {text}; mend or update that "
            f"package"
        ) from error
