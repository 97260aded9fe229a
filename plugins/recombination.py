"""Who takes what from whom: the plan of a sampling job that recombines fields (MSDM, section 4.3).

Each output has the masks of one field, and colours and metadata of others, matched anew for each version. The
plan is made of ids alone; fields are read when an output's turn comes.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ..core.errors import MsdmError, did_you_mean
from ..core.sample import Appearance, Sample, recombine
from ..core.seeds import rng_for
from .given_colours import Colour, ColourRange, draw_colour, statistics

GIVEN = "given"
RECOMBINED = ("appearance", "metadata")


@dataclass(frozen=True)
class Recombination:
    """What outputs take from elsewhere than their masks' field.

    Attributes
    ----------
    facets : frozenset of str
        ``appearance``, ``metadata``: taken from another of the fields.
    separate : bool
        Each facet from a donor of its own. By default both come from the same one, so that colours go with
        the assay that they were seen in; the paper leaves it open.
    appearance_from, metadata_from : tuple of str, or None
        Ids to take that facet from; None takes the fields themselves.
    colours : mapping kind -> ColourRange
        Given colours; they win over the donor's.
    metadata : mapping column -> str
        Given metadata; they win over the donor's.
    """

    facets: frozenset[str] = frozenset()
    separate: bool = False
    appearance_from: tuple[str, ...] | None = None
    metadata_from: tuple[str, ...] | None = None
    colours: Mapping[str, ColourRange] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for facet in sorted(self.facets - set(RECOMBINED)):
            raise MsdmError(f"cannot recombine {facet!r}: {did_you_mean(facet, RECOMBINED)}")
        for facet, pool in (("appearance", self.appearance_from), ("metadata", self.metadata_from)):
            if pool is not None and facet not in self.facets:
                raise MsdmError(f"ids to take {facet} from are given, and it is not recombined; add {facet}")
            if pool is not None and not pool:
                raise MsdmError(f"no ids to take {facet} from; give one at least")
        if "id" in self.metadata:
            raise MsdmError(
                "the id cannot be given as metadata; it is made of the field's id and the version"
            )

    @property
    def active(self) -> bool:
        """Whether anything is taken from elsewhere."""
        return bool(self.facets or self.colours or self.metadata)

    @property
    def donors(self) -> list[str]:
        """The ids that are named as donors."""
        return list(dict.fromkeys((*(self.appearance_from or ()), *(self.metadata_from or ()))))


AS_THEY_ARE = Recombination()
"""Nothing is taken from elsewhere."""


@dataclass(frozen=True, slots=True)
class PlannedOutput:
    """One output, by the ids of the fields that its facets come from.

    Attributes
    ----------
    id : str
        Of a recombined field ``<id of the masks' field>_v<version>``, which no two fields and versions share.
    version : int
        From 1.
    morphology, appearance, metadata : str
        Ids.
    colours : mapping kind -> Colour
        Given colours, as drawn for this output.
    words : mapping column -> str
        Given metadata.
    """

    id: str
    version: int
    morphology: str
    appearance: str
    metadata: str
    colours: Mapping[str, Colour] = field(default_factory=dict)
    words: Mapping[str, str] = field(default_factory=dict)

    def build(self, read: Callable[[str], Sample], columns: Collection[str] | None = None) -> Sample:
        """The field to be painted.

        Parameters
        ----------
        read : callable id -> Sample
        columns : collection of str or None
            The columns that are taken from the metadata's donor, those that conditions read: a slide or a
            number of nuclei stays that of the masks. None takes all.

        Returns
        -------
        Sample
            The masks are those of `morphology`, untouched. The appearance counts as given where every kind of
            mask has a mean and a deviation that were given.

        Raises
        ------
        MsdmError
            A field cannot be read, or a deviation is neither given nor can be measured.
        """
        masks = read(self.morphology)
        look = masks if self.appearance == self.morphology else read(self.appearance)
        words = masks if self.metadata == self.morphology else read(self.metadata)
        target = recombine(masks, look, words, id=self.id)
        sources = {**target.sources}
        appearance = target.appearance
        if self.colours:
            given = {kind: statistics(kind, colour, look) for kind, colour in self.colours.items()}
            appearance = Appearance(appearance.image, appearance.masks, {**appearance.statistics, **given})
            if all(kind in self.colours and self.colours[kind][1] is not None for kind in masks.masks):
                sources["appearance"] = GIVEN
        donated = {
            name: value
            for name, value in words.metadata.items()
            if name != "id" and (columns is None or name in columns)
        }
        metadata = {**masks.metadata, **donated, **self.words}
        return replace(target, look=appearance, metadata=metadata, sources=sources)


def choose(ids: Sequence[str], n: int) -> list[PlannedOutput]:
    """`n` of some fields as they are, spread evenly; beyond their number, further versions of each.

    The first version of a field has its id, further ones ``<id>_v2`` ...: their noise is another.
    """
    outputs = []
    for version in range(1, -(-n // len(ids)) + 1):
        take = min(len(ids), n - (version - 1) * len(ids))
        for k in range(take):
            own = ids[k * len(ids) // take]
            outputs.append(
                PlannedOutput(own if version == 1 else f"{own}_v{version}", version, own, own, own)
            )
    return outputs


def plan(
    ids: Sequence[str], versions: int, seed: int, options: Recombination = AS_THEY_ARE
) -> list[PlannedOutput]:
    """Who takes what from whom.

    Parameters
    ----------
    ids : sequence of str
        The fields that give masks, each once.
    versions : int
        Outputs per field.
    seed : int
        The plan depends on it and on which ids there are, not on their order; and a version's matches do not
        depend on how many versions follow.
    options : Recombination

    Returns
    -------
    list of PlannedOutput
        The first version of every field in the order of `ids`, then the second ones, and so on. No field is
        its own donor where there is another; none has a donor twice until it has had each; each donor is used
        about equally often, and exactly so where the fields are their own donors.

    Raises
    ------
    MsdmError
        An id comes twice, there are none, or `versions` is below 1.
    """
    if versions < 1 or not ids:
        raise MsdmError(f"{versions} versions of {len(ids)} fields are no outputs; give at least 1 of 1")
    if len(set(ids)) < len(ids):
        twice = next(id for id in ids if list(ids).count(id) > 1)
        raise MsdmError(f"field {twice!r} is selected twice; name it once, and ask for more versions")
    own = [{id: id for id in ids}] * versions
    looks = words = own
    if "appearance" in options.facets:
        looks = match(ids, options.appearance_from or ids, versions, seed, "appearance")
    if "metadata" in options.facets:
        pool = options.metadata_from
        together = "appearance" in options.facets and not options.separate
        if together and (pool is None or pool == options.appearance_from):
            words = looks
        else:
            words = match(ids, pool or ids, versions, seed, "metadata")
    outputs = []
    for version in range(versions):
        for masks in ids:
            id = f"{masks}_v{version + 1}"
            colours = {kind: draw_colour(seed, id, kind, given) for kind, given in options.colours.items()}
            look, metadata = looks[version][masks], words[version][masks]
            outputs.append(PlannedOutput(id, version + 1, masks, look, metadata, colours, options.metadata))
    return outputs


def match(
    ids: Sequence[str], pool: Sequence[str], versions: int, seed: int, what: str
) -> list[dict[str, str]]:
    """Donors for fields, one per version.

    The pool is put on a ring in a random order and every field is given a home on it: its own place where it
    is of the pool, otherwise the places are filled evenly. For each version the ring is turned by another
    random step, among those that make the least used donors give next; a field takes what lies at its home.

    Returns
    -------
    list of dict of id -> id of the donor
        One per version.
    """
    rng = rng_for(seed, "recombine", what)
    members = set(pool)
    fields, others = sorted(set(ids) & members), sorted(set(ids) - members)
    rest = sorted(members - set(ids))
    for part in (fields, others, rest):
        rng.shuffle(part)
    ring = [*fields, *rest]
    size, homes = len(ring), [*fields, *others]
    # where the fields fill the ring evenly, a turn uses all donors alike; the surplus is a window of the ring
    rounds, surplus = divmod(len(homes), size)
    used = np.zeros(size, np.int64)
    turns: list[int] = []
    matches = []
    for _ in range(versions):
        if not turns:
            turns = list(range(1 if fields and size > 1 else 0, size))
        sums = np.concatenate([[0], np.cumsum(np.concatenate([used, used]))])
        loads = np.array([sums[turn + surplus] - sums[turn] for turn in turns])
        turn = turns.pop(int(rng.choice(np.flatnonzero(loads == loads.min()))))
        used += rounds
        used[(turn + np.arange(surplus)) % size] += 1
        matches.append({id: ring[(home + turn) % size] for home, id in enumerate(homes)})
    return matches
