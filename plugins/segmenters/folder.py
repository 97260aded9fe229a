"""The folder of a trained segmenter, and segmenters as the command line names them."""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from ...core.errors import MsdmError
from ...core.fields import mask_folder
from ...core.files import file_hash
from ...core.reading import read_text
from ..choice import choose, read_choice
from ..device import pick_device
from ..host import Host
from ..recipe_schema import one_line
from .base import Segmenter

FACTS, WEIGHTS = "segmenter.json", "weights.safetensors"


class Trained(BaseModel):
    """What ``segmenter.json`` of a model folder says.

    Attributes
    ----------
    format : int
    segmenter : dict
        ``type`` and all its settings.
    kind : str
        Of the masks that it was trained on and finds.
    seed : int
    train_fields, train_instances, validation_fields : int
    train_sha256 : str
        Of ids, images and masks of the training fields, in their order.
    train_loss : list of float
        Of each epoch.
    validation_loss : dict of int -> float
        By epoch from 1, where it was measured.
    weights_sha256 : str
        Of ``weights.safetensors``.
    versions : dict of str -> str
    """

    model_config = ConfigDict(extra="forbid")
    format: Literal[1] = 1
    segmenter: dict[str, Any]
    kind: str
    seed: int
    train_fields: int
    train_instances: int
    train_sha256: str
    validation_fields: int
    train_loss: list[float]
    validation_loss: dict[int, float]
    weights_sha256: str
    versions: dict[str, str]


def read_trained(folder: str | Path) -> Trained:
    """What the folder of a trained segmenter says of itself.

    Raises
    ------
    MsdmError
        It is no such folder.
    """
    path = Path(folder) / FACTS
    try:
        return Trained.model_validate_json(read_text(path))
    except (FileNotFoundError, NotADirectoryError):
        raise MsdmError(
            f"{folder} holds no {FACTS}; give a folder that msdm-kit segment train wrote"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise MsdmError(f"cannot read {path}: {error}; copy the folder again") from None
    except ValidationError as error:
        raise MsdmError(f"{path}: {one_line(error, Trained)}; copy the folder again, or train anew") from None


def load_segmenter(
    folder: str | Path, *, device: str | None = None, host: Host | None = None
) -> tuple[Segmenter, Trained]:
    """A trained segmenter, and what its folder says of it.

    Parameters
    ----------
    folder : path
        That `train_segmenter` wrote.
    device : str or None
        None takes a GPU where there is one.
    host : Host or None

    Raises
    ------
    MsdmError
        It is no such folder, a file is missing or damaged, or the segmenter cannot run here.
    """
    facts, weights = read_trained(folder), Path(folder) / WEIGHTS
    _, cls, config = choose("segmenter", facts.segmenter, str(Path(folder) / FACTS), host)
    segmenter: Segmenter = cls(config, facts.kind, pick_device(device))
    segmenter.load(weights)
    if file_hash(weights) != facts.weights_sha256:
        raise MsdmError(f"{weights} is not the file that {FACTS} beside it is of; copy the folder again")
    segmenter.weights_sha256 = facts.weights_sha256
    return segmenter, facts


def open_segmenter(
    text: str, kind: str | None = None, *, device: str | None = None, host: Host | None = None
) -> tuple[Segmenter, str]:
    """A segmenter that is ready to predict, as the command line names it, and the hash of its weights.

    Parameters
    ----------
    text : str
        The folder of a trained segmenter, or ``NAME:KEY=VALUE`` of one that comes with its weights, such as
        ``cpsam:weights=PATH``.
    kind : str or None
        Of the masks that it finds; for a trained one None takes, and another is refused than, its own.
    device, host
        As `load_segmenter` takes them.

    Raises
    ------
    MsdmError
        It is neither, or there is no kind.
    """
    if Path(text).is_dir():
        segmenter, facts = load_segmenter(text, device=device, host=host)
        if kind not in (None, segmenter.kind):
            raise MsdmError(f"{text} finds masks of kind {segmenter.kind!r}, not {kind!r}; leave out --kind")
        return segmenter, facts.weights_sha256
    if ":" not in text:
        raise MsdmError(
            f"no folder {text!r}; give one that msdm-kit segment train wrote, or NAME:KEY=VALUE of a "
            f"segmenter with its own weights, such as cpsam:weights=PATH"
        )
    name, cls, config = choose("segmenter", read_choice("segmenter", text), f"segmenter {text!r}", host)
    if not cls.pretrained:
        raise MsdmError(
            f"segmenter {name!r} has no weights of its own; train it with msdm-kit segment train and give "
            f"the folder"
        )
    if kind is None:
        raise MsdmError(f"segmenter {text!r} does not say what it finds; give --kind cell or nucleus")
    mask_folder(kind)
    segmenter = cls(config, kind, pick_device(device))
    segmenter.check()
    weights = getattr(config, "weights", None)
    if weights is not None:
        segmenter.weights_sha256 = file_hash(weights)
    return segmenter, segmenter.weights_sha256
