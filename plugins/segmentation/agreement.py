"""How far segmenters find, in a painting, the instances that were painted."""

import math
from collections.abc import Mapping, Sequence

from ...core.errors import MsdmError, did_you_mean
from ...core.sample import Image, Labels
from ..metrics.base import Ratio
from ..metrics.comparison import Comparison
from ..metrics.masks import panoptic
from ..segmenters.base import Segmenter


def segmenter_agreement(segmenters: Sequence[Segmenter], image: Image, masks: Mapping[str, Labels]) -> float:
    """F1 of what segmenters find in an image, against the masks that it was painted from.

    A found instance is right where its IoU with a painted one is above 0.5 (detection quality, Kirillov et
    al., CVPR 2019). Of several segmenters, each of another kind, the instances of all kinds count as one set.

    Parameters
    ----------
    segmenters : sequence of Segmenter
    image : ndarray (3, H, W) float32 in [-1, 1]
    masks : mapping kind -> ndarray (H, W) int32

    Returns
    -------
    float
        In [0, 1]; NaN where nothing was painted and nothing is found.
    """
    ratios = []
    for segmenter in segmenters:
        found = {segmenter.kind: segmenter.segment(image)}
        ratios.append(panoptic(Comparison(found, masks).of(segmenter.kind), "dq"))
    return Ratio.pooled(ratios) if ratios else math.nan


def check_judges(segmenters: Sequence[Segmenter], kinds: Sequence[str], limited: bool) -> None:
    """Check that segmenters can judge paintings.

    Parameters
    ----------
    segmenters : sequence of Segmenter
    kinds : sequence of str
        Of the masks that are painted from.
    limited : bool
        Whether a painting must agree with them to be kept.

    Raises
    ------
    MsdmError
        There is none and one is needed, two are of one kind, or one is of a kind that is not painted.
    """
    if limited and not segmenters:
        raise MsdmError("--min-agreement is of a segmenter's masks; give --segmenter MODEL as well")
    mine = [segmenter.kind for segmenter in segmenters]
    for kind in mine:
        if kind not in kinds:
            raise MsdmError(
                f"a segmenter finds masks of kind {kind!r}, and they are not painted from; "
                f"{did_you_mean(kind, kinds)}"
            )
        if mine.count(kind) > 1:
            raise MsdmError(f"{mine.count(kind)} segmenters find masks of kind {kind!r}; give one")
