"""A known share of texts is about other clips."""

import numpy as np
import pytest

from vplib.data import swapped, text

CORPORA = {name: [f"{name} clip {k}" for k in range(400)] for name in ("first", "second")}
ALL = CORPORA["first"] + CORPORA["second"]


@pytest.fixture(scope="module")
def of(tmp_path_factory):
    path = tmp_path_factory.mktemp("words") / "words.model"
    text.train(ALL, path, size=40)
    return lambda rate, corpora=CORPORA: swapped.Swapped(path, 12, corpora.values(), rate=rate)


@pytest.mark.parametrize("rate", [0.25, 0.5])
def test_a_known_share_says_another_text_of_its_corpus(of, rate):
    said = [of(rate).said(one) for one in ALL]
    changed = np.array([a != b for a, b in zip(ALL, said, strict=True)])
    assert abs(changed.mean() - rate) < 0.05
    assert all(a.split()[0] == b.split()[0] for a, b in zip(ALL, said, strict=True))
    assert len({b for a, b in zip(ALL, said, strict=True) if a != b}) > 0.6 * changed.sum()


def test_what_is_swapped_stays_so_at_a_higher_rate_and_after_other_texts(of):
    low, high = of(0.25), of(0.5)
    swapped_low = [one for one in ALL if low.said(one) != one]
    assert all(high.said(one) == low.said(one) for one in swapped_low)
    assert [of(0.25).said(one) for one in reversed(ALL)] == [low.said(one) for one in reversed(ALL)]


def test_ids_are_those_of_what_is_said(of, tmp_path):
    text.train(ALL, tmp_path / "words.model", size=40)
    plain, half = text.Tokenizer(tmp_path / "words.model", 12), of(0.5)
    expected = plain([half.said(one) for one in ALL])
    assert all((a == b).all() for a, b in zip(half(ALL), expected, strict=True))
    assert (half(ALL)[0] != plain(ALL)[0]).any() and (of(0.0)(ALL)[0] == plain(ALL)[0]).all()
    assert half.size == plain.size and half.length == plain.length


def test_a_corpus_of_one_text_has_no_other_and_strange_texts_are_refused(of):
    alone = of(0.999, {"one": ["the only text"]})
    assert alone.said("the only text") == "the only text"
    with pytest.raises(ValueError, match="is in none of the corpora: give all of them"):
        alone.said("a strange text")
