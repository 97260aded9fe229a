"""`msdm-kit evaluate`: each longer command has a module of its own, `evaluate_<what>.py`."""

import typer

from .evaluate_fidelity import EXAMPLES as FIDELITY_EXAMPLES
from .evaluate_fidelity import fidelity
from .evaluate_segmentation import EXAMPLES as SEGMENTATION_EXAMPLES
from .evaluate_segmentation import segmentation

evaluate = typer.Typer(rich_markup_mode=None, no_args_is_help=False, help="Measure what was painted.")


@evaluate.callback()
def _group() -> None:
    """Measure what was painted."""


evaluate.command("segmentation", epilog=SEGMENTATION_EXAMPLES)(segmentation)
evaluate.command("fidelity", epilog=FIDELITY_EXAMPLES)(fidelity)
