"""The command `msdm-kit`: its commands, and how mistakes and interruptions end."""

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Annotated, Any

import typer

from ..core.errors import MsdmError, SaidElsewhere, out_of_memory
from ..core.quiet import quiet_libraries
from .convert import convert
from .data import data
from .evaluate import evaluate
from .experiment import EXAMPLES as EXPERIMENT_EXAMPLES
from .experiment import experiment
from .paint_field import EXAMPLES as PAINT_FIELD_EXAMPLES
from .paint_field import paint_field
from .plugin_commands import PluginCommands
from .plugins import plugins
from .recipes import EXAMPLES as RECIPES_EXAMPLES
from .recipes import recipes
from .sample import EXAMPLES as SAMPLE_EXAMPLES
from .sample import sample
from .segment import segment
from .train import EXAMPLES as TRAIN_EXAMPLES
from .train import train

USAGE_ERROR = typer.BadParameter.__mro__[1]
"""Of the click that typer uses, which since typer 0.20 is its own."""

SHARED = ("train", "sample", "evaluate")
"""The commands whose work the processes of a job share out."""
INTERRUPTED = 130
MISTAKE = 2


class Commands(PluginCommands):
    """The commands, in the order in which they were added; Ctrl-C ends each with one line."""

    def invoke(self, ctx: Any) -> Any:
        try:
            with _job():
                return super().invoke(ctx)
        except KeyboardInterrupt:
            if "WORLD_SIZE" not in os.environ or os.environ.get("RANK") == "0":
                print("stopped", file=sys.stderr)
            raise typer.Exit(INTERRUPTED) from None


@contextmanager
def _job() -> Iterator[None]:
    """Around a command: where torchrun has started several processes, a mistake of all is one line."""
    if "WORLD_SIZE" not in os.environ:
        yield
        return
    from ..core.processes import joined

    with joined():
        try:
            yield
        except Exception as error:
            if isinstance(error, USAGE_ERROR):
                raise MsdmError(_usage(error)) from None
            raise


def _usage(error: Exception) -> str:
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "msdm-kit"
    text = getattr(error, "format_message")()  # noqa: B009
    return f"{text.rstrip('.')}; see {path} --help"


app = typer.Typer(
    name="msdm-kit",
    cls=Commands,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="\b\nExample:\n  msdm-kit train quickstart --data histology-nuclei --out runs/first\n"
    "  msdm-kit sample runs/first --data histology-nuclei --n 8 --out out/first",
)
app.command("train", epilog=TRAIN_EXAMPLES)(train)
app.command("sample", epilog=SAMPLE_EXAMPLES)(sample)
app.command("paint-field", epilog=PAINT_FIELD_EXAMPLES)(paint_field)
app.command("experiment", epilog=EXPERIMENT_EXAMPLES)(experiment)
app.command("recipes", epilog=RECIPES_EXAMPLES)(recipes)
app.add_typer(plugins, name="plugins")
app.add_typer(convert, name="convert")
app.add_typer(data, name="data")
app.add_typer(segment, name="segment")
app.add_typer(evaluate, name="evaluate")


def _version(wanted: bool) -> None:
    if wanted:
        from .. import __version__

        typer.echo(f"msdm-kit {__version__}")
        raise typer.Exit


def _leave_out(ctx: typer.Context, names: list[str] | None) -> list[str] | None:
    """Block plugins until the command has ended: `run` gives the stack that undoes it."""
    if names:
        from ..plugins.host import blocking

        ctx.obj.enter_context(blocking(names))
    return names


@app.callback(invoke_without_command=True)
def root(
    ctx: typer.Context,
    no_plugin: Annotated[
        list[str] | None,
        typer.Option(
            "--no-plugin",
            metavar="NAME",
            callback=_leave_out,
            is_eager=True,
            help="Leave a plugin or a package out. Repeatable.",
            show_default="none",
        ),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """Conditional diffusion for pathology: train a recipe, paint image and mask pairs."""
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())
    elif ctx.invoked_subcommand not in SHARED and os.environ.get("WORLD_SIZE", "1") != "1":
        raise MsdmError(
            f"msdm-kit {ctx.invoked_subcommand} works in one process; start it without torchrun, which is "
            f"for {', '.join(SHARED)}"
        )


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    arguments : sequence of str or None
        None takes those of the process.

    Returns
    -------
    int
        The exit status: 0, 2 for a mistake of the user's, 130 after Ctrl-C.
    """
    words = None if arguments is None else list(arguments)
    try:
        with ExitStack() as blocked:
            code = app(args=words, prog_name="msdm-kit", standalone_mode=False, obj=blocked)
    except SaidElsewhere:
        return MISTAKE
    except MsdmError as error:
        return _mistake(str(error))
    except Exception as error:
        if isinstance(error, USAGE_ERROR):
            return _mistake(_usage(error))
        if out_of_memory(error):
            return _mistake(
                "out of memory; give the work less at once (--batch, --window, --jobs, train.batch or "
                "data.crop, whichever there is), or close what else runs"
            )
        raise
    return code if isinstance(code, int) else 0


def _mistake(text: str) -> int:
    print(f"error: {' '.join(text.split())}", file=sys.stderr)
    return MISTAKE


def main() -> None:
    """Entry point of the command."""
    quiet_libraries()
    # what a batch system sends ends a command as Ctrl-C does, with its temporary files deleted
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(run())
