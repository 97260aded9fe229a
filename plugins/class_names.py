"""Classes of instances that conditions name, held against those that the data have."""

from collections.abc import Collection, Mapping
from difflib import get_close_matches

from ..core.conditioning import Conditioner
from ..core.errors import MsdmError, did_you_mean

_CLOSE = 0.85
"""How much two words share in a misspelling: more than epithelial and endothelial, or T cell and B cell."""


def class_notes(conditioners: Mapping[str, Conditioner], known: Collection[str]) -> list[str]:
    """What to tell of classes that conditions name and no instance has.

    Parameters
    ----------
    conditioners : mapping name -> Conditioner
    known : collection of str
        The classes of the data's instances.

    Returns
    -------
    list of str
        A note for each condition that names such a class.

    Raises
    ------
    MsdmError
        One looks like a misspelling of a class that the data have, and that the condition does not name.
    """
    notes = []
    for name, conditioner in conditioners.items():
        lacking = [c for c in conditioner.instance_classes if c not in known]
        others = [c for c in known if c not in conditioner.instance_classes]
        for word in lacking:
            if get_close_matches(word, others, n=1, cutoff=_CLOSE):
                hint = did_you_mean(word, others)
                raise MsdmError(f"condition {name!r}: no instance has the class {word!r}; {hint}")
        if lacking and known:
            notes.append(
                f"condition {name!r}: no instance has the class {', '.join(lacking)}: what it stands for is "
                f"never seen; the data have: {', '.join(sorted(known))}"
            )
        elif lacking:
            notes.append(
                f"condition {name!r} names classes, and the data say of no instance which it has "
                f"(instances.csv): all count as their mask kind alone"
            )
    return notes
