"""Captions that a model generates. Reference numbers are of the official programs."""

import json
from pathlib import Path

import numpy as np
import pytest

from vplib.evaluate import captioning

GOLDEN = Path(__file__).parent / "golden" / "evaluation"


def golden(name: str) -> list:
    return json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))["cases"]


# --- CIDEr-D -------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", golden("cider"), ids=lambda case: case["name"])
def test_cider_d_is_that_of_the_official_program(case):
    clips = case["clips"]
    found = captioning.cider_d(
        [case["tokenised_candidates"][clip] for clip in clips],
        [case["tokenised_references"][clip] for clip in clips],
    )
    wanted = [case["per_clip"][clip] for clip in clips]
    np.testing.assert_allclose(found, wanted, atol=1e-8, rtol=0)
    assert found.mean() == pytest.approx(case["cider"], abs=1e-8)
    assert 100 * found.mean() == pytest.approx(case["cider_times_100"], abs=1e-6)


def test_cider_d_by_hand():
    """Two clips. The n-grams "a" and "dog" are of clip 0 alone and weigh log 2, as does "a dog"."""
    references = [["a dog"], ["cat"]]
    # One word of two in common, of norms 1 and sqrt(2); a bigram less; two of four orders are 0.
    expected = 10 / 4 * (1 / np.sqrt(2)) * np.exp(-1 / 72)
    assert captioning.cider_d(["dog", "cat"], references) == pytest.approx([expected, 10 / 4])
    assert captioning.cider_d(["a dog", "cat"], references) == pytest.approx([10 / 2, 10 / 4])
    # "dog" three times: counted once, but its norm is 3, and it has two bigrams.
    expected = 10 / 4 * (1 / (3 * np.sqrt(2))) * np.exp(-1 / 72)
    assert captioning.cider_d(["dog dog dog", ""], references) == pytest.approx([expected, 0])


def test_what_every_clip_is_said_to_be_counts_nothing():
    references = [["a man runs in the park", "a man runs"], ["a man sits in a car", "a man sits"]]
    found = captioning.cider_d(["a man", "runs"], references)
    assert found.tolist() == [0, 0]
    assert captioning.cider_d(["a man runs"], [["a man runs"]]).tolist() == [0]


def test_an_empty_reference_among_others_is_one_that_nothing_is_like():
    one = captioning.cider_d(["a red dog runs", "x"], [["a red dog runs"], ["y"]])
    two = captioning.cider_d(["a red dog runs", "x"], [["a red dog runs", ""], ["y"]])
    assert one.tolist() == pytest.approx([10, 0]) and two.tolist() == pytest.approx([5, 0])


@pytest.mark.parametrize("score", [lambda r: captioning.cider_d([""] * len(r), r), None])
@pytest.mark.parametrize(
    ("references", "sentence"),
    [
        ([], "there are no clips whose captions could be scored: give at least one"),
        ([["a dog"], []], "clip 1 has no reference caption with a word in it: give it one, or"),
        ([[" ", ""], ["a dog"]], "clip 0 has no reference caption with a word in it"),
        (["a dog", "a cat"], "the references of clip 0 are one text, 'a dog': give a list"),
    ],
)
def test_references_that_cannot_be_scored_are_named(references, sentence, score):
    with pytest.raises(ValueError, match=sentence):
        (score or captioning.constant_caption)(references)


def test_one_caption_a_clip_is_needed():
    with pytest.raises(ValueError, match="there are 1 captions for 2 clips: give one a clip"):
        captioning.cider_d(["a dog"], [["a dog"], ["a cat"]])


# --- the same of every clip ----------------------------------------------------------------------


def test_the_best_constant_caption_is_the_best_of_all_scored_one_by_one():
    rng, words = np.random.default_rng(0), ["a", "a", "the", "dog", "cat", "runs", "sits", "on"]
    for _ in range(12):
        references = [
            [" ".join(rng.choice(words, rng.integers(1, 9))) for _ in range(rng.integers(1, 4))]
            for _ in range(rng.integers(2, 7))
        ]
        caption, score = captioning.constant_caption(references)
        every = {
            text: captioning.cider_d([text] * len(references), references).mean()
            for said in references
            for text in said
        }
        assert score == pytest.approx(max(every.values()), abs=1e-9)
        assert every[caption] == pytest.approx(score, abs=1e-9) and score > 0


def test_of_equal_constant_captions_the_first_is_taken():
    assert captioning.constant_caption([["b", "a"], ["a", "b"]]) == ("b", 0)
    caption, score = captioning.constant_caption([["x", "dog"], ["dog"], ["y"], ["z"]])
    assert caption == "dog" and score > 0


# --- tokens --------------------------------------------------------------------------------------


def test_our_tokens_are_those_of_the_official_program_on_all_28_reference_lines():
    cases = golden("ptb_tokenizer")
    alike = [captioning.ptb_like(case["text"]) == case["tokens"] for case in cases]
    assert (sum(alike), len(alike)) == (28, 28)


def test_our_tokens_are_the_official_ones_on_the_captions_of_the_cider_references():
    for case in golden("cider"):
        for clip, texts in case["clips"].items():
            found = [captioning.ptb_like(text) for text in texts["references"]]
            assert found == case["tokenised_references"][clip]
            assert captioning.ptb_like(texts["candidate"]) == case["tokenised_candidates"][clip]


@pytest.mark.parametrize(
    ("text", "tokens"),  # what the official program answers
    [
        ("it’s a dog’s life", "it 's a dog 's life"),
        ("word--word word—word", "word word word word"),
        ("wow!! really?? end!next", "wow !! really ?? end!next"),
        ("plan b. by J.K. Rowling in the U.S. today.", "plan b. by j.k. rowling in the u.s. today"),
        ("a U.S.-based man at 5 p.m.", "a u.s.-based man at 5 p.m."),
        ("No.1, no. 5, no.", "no. 1 no. 5 no"),
        ("'tis 'twas 'em 'cause of the '60s", "'t is 't was 'em 'cause of the '60s"),
        ("y'all ain't ma'am, c'mon!", "y' all ai n't ma'am c'mon"),
        ("dogs' tails in the 1960's", "dogs tails in the 1960 's"),
        ("gimme lemme gotta wannabe", "gim me lem me got ta wannabe"),
        ("she'd've said 'hello'", "she 'd 've said hello"),
        ("the words 'new' and 'old'", "the words new and old"),
        ("2+2=4 but -5 or 2x4, 50% and $50", "2 +2 = 4 but -5 or 2x4 50 % and $ 50"),
        ("AT&T r&b", "at&t r & b"),
        ("add 1 1/2 cups", "add 1\N{NO-BREAK SPACE}1/2 cups"),
        ("1½ cups for £5", "1 1/2 cups for # 5"),
        ("www.foo.com foo.mp4 #fun #1 @me", "www.foo.com foo.mp4 #fun # 1 @me"),
        (":) lol:( colour:(red)", ":-rrb- lol :-lrb- colour -lrb- red -rrb-"),
        ("foo_bar __x__ **bold**", "foo_bar __ x __ ** bold **"),
        ("5'10\" tall 😀 café", "5 10 tall café"),
        (" \t ", ""),
        ("...", ""),
    ],
)
def test_our_tokens_where_they_are_the_official_ones(text, tokens):
    assert captioning.ptb_like(text) == tokens


@pytest.mark.parametrize(
    ("text", "official", "ours"),
    [
        ("C++ and C#", "c++ and c#", "c + + and c #"),
        ("Supt. Brown", "supt. brown", "supt brown"),
        ("a trompe-l'oeil", "a trompe-l'oeil", "a trompe-l oeil"),
        ("in Hawai'i", "in hawai'i", "in hawai i"),
        ("a &amp; b", "a & b", "a & amp b"),
        ("(555) 555-1234", "-lrb-555-rrb-\N{NO-BREAK SPACE}555-1234", "-lrb- 555 -rrb- 555-1234"),
        ("^_^", "^_^", "^ _ ^"),
        ("pro- and anti-war", "pro- and anti-war", "pro and anti-war"),
    ],
)
def test_our_tokens_where_they_are_not(text, official, ours):
    """The kinds that the docstring names: whoever mends one moves its line up."""
    assert captioning.ptb_like(text) == ours != official


def test_punctuation_is_there_until_it_is_dropped():
    assert captioning.penn_tokens("(Hello), he said.") == "-lrb- hello -rrb- , he said .".split()
