"""`msdm-kit segment`: train segmenters, and find instances with them."""

import typer

from .segment_predict import EXAMPLES as PREDICT_EXAMPLES
from .segment_predict import predict
from .segment_train import EXAMPLES as TRAIN_EXAMPLES
from .segment_train import train

segment = typer.Typer(rich_markup_mode=None, no_args_is_help=False, help="Train segmenters and use them.")


@segment.callback()
def _group() -> None:
    """Train segmenters and use them."""


segment.command("train", epilog=TRAIN_EXAMPLES)(train)
segment.command("predict", epilog=PREDICT_EXAMPLES)(predict)
