"""`msdm-kit evaluate`: each longer command has a module of its own, `evaluate_<what>.py`."""

import typer

evaluate = typer.Typer(rich_markup_mode=None, no_args_is_help=False, help="Measure what was painted.")


@evaluate.callback()
def _group() -> None:
    """Measure what was painted."""
