"""The plan of a recombination: who takes what from whom; and that masks are never touched."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msdm_kit.core.errors import MsdmError
from msdm_kit.plugins.given_colours import ColourRange, parse_colour
from msdm_kit.plugins.recombination import PlannedOutput, Recombination, choose, plan

from ..toy import toy_sample

BOTH = frozenset({"appearance", "metadata"})
names = st.lists(st.integers(0, 60).map(lambda i: f"f{i}"), min_size=1, max_size=12, unique=True)
pools = st.none() | st.lists(st.integers(0, 90).map(lambda i: f"f{i}"), min_size=1, max_size=20, unique=True)


def options(pool=None, other=None, separate=False, **given):
    return Recombination(BOTH, separate, pool and tuple(pool), other and tuple(other), **given)


@settings(max_examples=200, deadline=None)
@given(names, st.integers(1, 9), st.integers(0, 5), pools, pools, st.booleans())
def test_the_plan(ids, versions, seed, pool, other, separate):
    outputs = plan(ids, versions, seed, options(pool, other, separate))
    assert [(o.morphology, o.version) for o in outputs] == [
        (id, v) for v in range(1, versions + 1) for id in ids
    ]
    assert len({o.id for o in outputs}) == len(outputs)
    apart = separate or (other is not None and other != pool)
    if not apart:
        assert all(o.appearance == o.metadata for o in outputs)
    for facet, donors in (("appearance", pool), ("metadata", other if apart else pool)):
        donors = sorted(set(donors or ids))
        taken = {id: [getattr(o, facet) for o in outputs if o.morphology == id] for id in ids}
        for id, found in taken.items():
            assert set(found) <= set(donors)
            others = len(set(donors) - {id})
            if others:
                assert id not in found, "no field gives to itself"
            rounds = -(-versions // max(1, len(donors) - bool(set(ids) & set(donors))))
            assert max(Counter(found).values()) <= rounds, "no donor twice before each was taken"
        if set(donors) == set(ids) and len(ids) > 1:
            uses = Counter(d for found in taken.values() for d in found)
            assert set(uses.values()) == {versions}, "all donors alike"


@settings(max_examples=100, deadline=None)
@given(names, st.integers(1, 6), st.integers(0, 5), pools)
def test_it_depends_on_the_seed_alone(ids, versions, seed, pool):
    made = plan(ids, versions, seed, options(pool))
    assert plan(ids, versions, seed, options(pool)) == made
    longer = plan(ids, versions + 3, seed, options(pool))
    assert longer[: len(made)] == made, "further versions change no earlier one"
    turned = plan(ids[::-1], versions, seed, options(pool and pool[::-1]))
    assert sorted(turned, key=lambda o: o.id) == sorted(made, key=lambda o: o.id)


def test_another_seed_is_another_plan():
    ids = [f"f{i}" for i in range(20)]
    assert plan(ids, 2, 0, options()) != plan(ids, 2, 1, options())
    apart = plan(ids, 2, 0, options(separate=True))
    assert any(o.appearance != o.metadata for o in apart)


def test_as_in_the_paper():
    """120 fields, eight versions each: 960 outputs, every field's colours eight times, never its own."""
    ids = [f"f{i:03}" for i in range(120)]
    outputs = plan(ids, 8, 0, options())
    assert len(outputs) == 960
    assert set(Counter(o.appearance for o in outputs).values()) == {8}
    assert all(o.appearance != o.morphology for o in outputs)
    assert len({(o.morphology, o.appearance) for o in outputs}) == 960


@pytest.mark.parametrize(
    ("fields", "donors", "versions"), [(10, 100, 8), (7, 3, 5), (100, 7, 3), (3, 50, 40)]
)
def test_donors_of_their_own_are_used_about_equally_often(fields, donors, versions):
    ids, pool = [f"a{i}" for i in range(fields)], [f"b{i}" for i in range(donors)]
    uses = Counter(o.appearance for o in plan(ids, versions, 1, options(pool)))
    counts = [uses[donor] for donor in pool]
    assert max(counts) - min(counts) <= 2


def test_one_field_alone_keeps_its_own():
    assert [o.appearance for o in plan(["a"], 2, 0, options())] == ["a", "a"]


def test_facets_that_are_not_recombined_are_the_fields_own():
    outputs = plan(["a", "b"], 1, 0, Recombination(frozenset({"metadata"})))
    assert [(o.appearance, o.metadata) for o in outputs] == [("a", "b"), ("b", "a")]
    given = Recombination(metadata={"assay": "x"})
    assert [(o.id, o.appearance, o.metadata, o.words) for o in plan(["a"], 1, 0, given)] == [
        ("a_v1", "a", "a", {"assay": "x"})
    ]


def test_choices_spread_evenly_and_go_on_with_further_versions():
    def named(ids, n):
        return [(o.id, o.morphology, o.version) for o in choose(ids, n)]

    assert named(list("abcdefghij"), 3) == [("a", "a", 1), ("d", "d", 1), ("g", "g", 1)]
    assert named(["a", "b"], 3) == [("a", "a", 1), ("b", "b", 1), ("a_v2", "a", 2)]


FIELDS = {sample.id: sample for sample in (toy_sample(i, side) for i, side in enumerate((16, 20, 16, 24)))}


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 20), st.booleans(), st.booleans())
def test_masks_are_never_changed(seed, separate, coloured):
    colours = {"cell": ColourRange(((10, 200), (5, 5), (0, 9)))} if coloured else {}
    before = {id: {k: v.copy() for k, v in f.masks.items()} for id, f in FIELDS.items()}
    for output in plan(list(FIELDS), 3, seed, options(separate=separate, colours=colours)):
        target = output.build(FIELDS.__getitem__, {"assay"})
        assert target.image is None
        assert target.id == output.id
        for kind, labels in before[output.morphology].items():
            np.testing.assert_array_equal(target.masks[kind], labels)
        wanted = FIELDS[output.appearance].appearance
        assert target.appearance.colours("nucleus") == wanted.colours("nucleus")
        assert target.metadata["assay"] == FIELDS[output.metadata].metadata["assay"]
        assert target.metadata["indication"] == FIELDS[output.morphology].metadata["indication"]
        facets = (output.morphology, output.appearance, output.metadata)
        assert tuple(target.source(f) for f in ("morphology", "appearance", "metadata")) == facets


def test_all_columns_but_the_id_where_none_are_named():
    target = PlannedOutput("x", 1, "f00", "f00", "f01").build(FIELDS.__getitem__)
    assert target.metadata == {**FIELDS["f01"].metadata, "id": "f00"}


def test_given_colours_and_metadata():
    _, mean = parse_colour("cell=100-140,60,127.5")
    _, whole = parse_colour("nucleus=0,51,255:12.75,0-127.5,1")
    given = options(colours={"cell": mean, "nucleus": whole}, metadata={"assay": "HER2", "new": "1"})
    outputs = plan(list(FIELDS), 2, 3, given)
    reds = [o.colours["cell"][0][0] for o in outputs]
    assert len(set(reds)) > 4
    assert all(100 <= red <= 140 for red in reds)
    target = outputs[0].build(FIELDS.__getitem__)
    cell, nucleus = (target.appearance.colours(kind) for kind in ("cell", "nucleus"))
    assert cell.mean == pytest.approx((reds[0] / 127.5 - 1, 60 / 127.5 - 1, 0))
    assert cell.std == FIELDS[outputs[0].appearance].appearance.colours("cell").std, "the donor's"
    assert nucleus.mean == pytest.approx((-1, -0.6, 1))
    assert nucleus.std[0] == pytest.approx(0.1)
    assert target.source("appearance") == outputs[0].appearance
    assert (target.metadata["assay"], target.metadata["new"]) == ("HER2", "1")
    full = options(colours={"cell": whole, "nucleus": whole})
    assert plan(list(FIELDS), 1, 0, full)[0].build(FIELDS.__getitem__).source("appearance") == "given"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cell", "write KIND=R,G,B"),
        ("cell=", "write KIND=R,G,B"),
        ("=1,2,3", "write KIND=R,G,B"),
        ("cell=1,2", "2 levels of mean, and R, G, B are 3"),
        ("cell=1,2,3,4", "4 levels"),
        ("cell=1,2,red", "'red' is no level"),
        ("cell=1,2,-3", "'-3' is no level"),
        ("cell=1,2,256", "'256' is no mean; legal: 0 to 255"),
        ("cell=1,2,9-3", "low to high"),
        ("cell=1,2,3:1,2,128", "'128' is no deviation; legal: 0 to 127.5"),
        ("cell=1,2,3:", "'' is no level"),
        ("cell=1,2,nan", "'nan' is no level"),
        ("cell=1,2,٣", "is no level"),
    ],
)
def test_colours_of_another_form(text, message):
    with pytest.raises(MsdmError, match=message) as caught:
        parse_colour(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Recombination(frozenset({"apearance"})), "did you mean 'appearance'"),
        (lambda: Recombination(frozenset({"morphology"})), "legal: appearance, metadata"),
        (lambda: Recombination(appearance_from=("a",)), "is not recombined; add appearance"),
        (lambda: Recombination(BOTH, metadata_from=()), "no ids to take metadata from"),
        (lambda: Recombination(metadata={"id": "x"}), "the id cannot be given"),
        (lambda: plan(["a", "b", "a"], 1, 0), "'a' is selected twice"),
        (lambda: plan([], 1, 0), "give at least 1"),
        (lambda: plan(["a"], 0, 0), "0 versions"),
    ],
)
def test_mistakes(make, message):
    with pytest.raises(MsdmError, match=message):
        make()
