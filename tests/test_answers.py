"""Answers to questions: exact, from a closed vocabulary, and what is prompted with."""

import numpy as np
import pytest

from vplib.evaluate import answers


def letters(answer: str) -> list[int]:
    """A tokeniser: words of one letter are one token, others one a letter; é is unknown (0)."""
    return [0 if c == "é" else ord(c) for c in answer]


# --- exact match ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "left"),
    [
        ("dog", "dog"),
        ("  A Dog. ", "dog"),
        ("the  red\n ball !?", "red ball"),
        ("an apple;", "apple"),
        ("a", "a"),  # nothing else is said
        ("The.", "the"),
        ("theatre", "theatre"),
        ("not a dog", "not a dog"),
        ("st. louis", "st. louis"),
        (" . ", ""),
        ("", ""),
    ],
)
def test_what_is_left_of_an_answer(said, left):
    assert answers.normalise(said) == left


def test_exact_match_is_of_the_whole_answer():
    found = answers.exact_match(
        ["A man.", "men", "", "play guitar", "guitar"], ["man", "man", "man", "play Guitar", "a"]
    )
    assert found.tolist() == [1, 0, 0, 1, 0]


# --- closed vocabulary ---------------------------------------------------------------------------


def test_the_most_frequent_answers_of_one_token_are_chosen():
    training = ["dog"] * 9 + ["b"] * 3 + ["A", "a.", "the a"] + ["d", "c", "c", "é"]
    assert answers.one_token_answers(training, letters, size=3) == ["a", "b", "c"]
    assert answers.one_token_answers(training, letters, size=5) == ["a", "b", "c", "d", "é"]


def test_of_answers_that_the_tokeniser_cannot_tell_apart_the_most_frequent_is_in():
    found = answers.one_token_answers(["x", "y", "y", "z"], lambda text: [text == "z"], size=2)
    assert found == ["y", "z"]


def test_the_tokens_of_answers_are_columns():
    found = answers.answer_tokens(["b", "a"], letters)
    assert found.tolist() == [98, 97]


def test_a_closed_answer_is_right_where_it_is_likelier_than_all_others():
    vocabulary = ["man", "dog", "A cat"]
    likelihoods = np.log([[0.7, 0.2, 0.1], [0.7, 0.2, 0.1], [0.1, 0.1, 0.8], [0.4, 0.4, 0.2]])
    likelihoods = np.vstack([likelihoods, [[np.nan, -1, -2]], likelihoods[:1]])
    truths = ["a man", "dog", "cat", "man", "man", "zebra"]
    found = answers.closed_top1(likelihoods, vocabulary, truths)
    assert found.tolist() == [1, 0, 1, 0, 0, 0]
    assert answers.ceiling(vocabulary, truths) == pytest.approx(5 / 6)
    # What is not a number beats the truth, too.
    beaten = np.array([[-1, np.nan, -2]])
    assert answers.closed_top1(beaten, vocabulary, ["man"]).tolist() == [0]
    assert answers.closed_top1(np.array([[np.nan]]), ["man"], ["man"]).tolist() == [0]


# --- two examples --------------------------------------------------------------------------------

QUESTIONS = ["who runs?", "who  sits? ", "what barks?", "who eats?", "what meows?", "what rolls?"]
ANSWERS = ["man", "a man", "dog", "man", "dog", "ball"]


def test_the_two_shots_are_the_most_frequent_answers_with_one_question_each():
    found = {answers.two_shots(QUESTIONS, ANSWERS, seed=seed) for seed in range(40)}
    assert found == {
        f"question: {man} answer: man. question: {dog} answer: dog."
        for man in ("who runs?", "who sits?", "who eats?")
        for dog in ("what barks?", "what meows?")
    }
    again = [answers.two_shots(QUESTIONS, ANSWERS, seed=7) for _ in range(2)]
    assert again[0] == again[1]


def test_of_equally_frequent_answers_the_first_by_the_alphabet_are_shots():
    found = answers.two_shots(["q1", "q2", "q3"], ["z", "b", "a"], seed=0)
    assert found == "question: q3 answer: a. question: q2 answer: b."


def test_the_prompt_ends_where_the_answer_begins():
    assert answers.prompt(" who runs? ") == "question: who runs? answer:"
    shots = answers.two_shots(QUESTIONS, ANSWERS, seed=0)
    assert answers.prompt("who runs?", shots) == f"{shots} question: who runs? answer:"


# --- what cannot be ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: answers.exact_match([], []), "there is no question to take answers of: give"),
        (lambda: answers.exact_match(["a"], ["a", "b"]), "1 generated answers for 2 questions"),
        (lambda: answers.exact_match(["a", "b"], ["a", "."]), "question 1 is '.', which has no wo"),
        (lambda: answers.one_token_answers([], letters, size=1), "no training question to take"),
        (
            lambda: answers.one_token_answers(["a", ""], letters, size=1),
            "the answer of training question 1 is '', which has no words: give it one, or leave",
        ),
        (
            lambda: answers.one_token_answers(["x", "y", "dog"], letters, size=250),
            "a vocabulary of 250 answers cannot be made: of 3 different training answers 2 are one "
            "token of their own; ask for 1 to 2",
        ),
        (lambda: answers.one_token_answers(["x"], letters, size=0), "vocabulary of 0 answers"),
        (
            lambda: answers.one_token_answers(["dog", "cat"], letters, size=1),
            "none of 2 different training answers is one token: answer openly",
        ),
        (
            lambda: answers.answer_tokens(["a", "in"], letters),
            "the answer 'in' is 2 tokens and a closed vocabulary has answers of one: leave it out",
        ),
        (
            lambda: answers.closed_top1(np.zeros((2, 3)), ["a", "b"], ["a", "b"]),
            "log-likelihoods are of 2 questions and 3 answers, and 2 truths and 2 answers were",
        ),
        (lambda: answers.closed_top1(np.zeros((1, 1)), ["x"], [""]), "question 0 is '', which has"),
        (lambda: answers.ceiling(["x"], []), "there is no question to take answers of"),
        (
            lambda: answers.two_shots(["q", "r"], ["man", "A man."], seed=0),
            "all 2 training answers are 'man' and two different ones are needed as examples",
        ),
        (lambda: answers.two_shots(["q"], ["a", "b"], seed=0), "1 training questions and 2 ans"),
        (lambda: answers.two_shots(["q", " "], ["x", "y"], seed=0), "training question 1 is empty"),
        (lambda: answers.prompt("  "), "the question is empty: give its text, or leave it out"),
    ],
)
def test_what_cannot_be_answered_is_one_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence) as error:
        call()
    assert "\n" not in str(error.value)
