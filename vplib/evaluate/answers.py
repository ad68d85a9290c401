"""Answers that a model generates to questions about clips: exact match, a closed vocabulary of
one-token answers, and the two examples in words that open answering is prompted with.

Questions and answers are text; what is compared is what `normalise` leaves of it.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int


def normalise(answer: str) -> str:
    """Lower-case, single spaces, without final punctuation and without a leading article: "A dog."
    is "dog". An article that is the whole answer stays.

    Our choice: what was done to generated answers is not published.
    """
    words = re.sub(r"[\s.,;:!?]+$", "", answer.lower()).split()
    return " ".join(words[1:] if len(words) > 1 and words[0] in ("a", "an", "the") else words)


def exact_match(generated: Sequence[str], truths: Sequence[str]) -> Float[np.ndarray, " Q"]:
    """1 where the answer is the true one once both are normalised, else 0; the mean is top-1.

    An empty generated answer is wrong. Raises ValueError for no questions, another number of
    answers than of truths, or a truth without words. Source: MSRVTT-QA and MSVD-QA (the whole
    answer must be equal).
    """
    known = _truths(truths, "question")
    if len(generated) != len(known):
        raise ValueError(
            f"there are {len(generated)} generated answers for {len(known)} questions: give one "
            "each, an empty one where nothing was said"
        )
    pairs = zip(generated, known, strict=True)
    return np.array([float(normalise(said) == true) for said, true in pairs])


def first(generated: str) -> str:
    """What is said before the next question, which a language model that was prompted with examples
    goes on with. Our choice: how generated answers end is not published."""
    return re.split(r"\bquestion\b", generated)[0].strip()


# --- closed vocabulary ---------------------------------------------------------------------------


def one_token_answers(
    training: Sequence[str], tokenise: Callable[[str], Sequence[int]], *, size: int
) -> list[str]:
    """The `size` (K) most frequent normalised answers of the training questions that are one token
    each, the most frequent first; of equally frequent ones by the alphabet.

    `tokenise` gives the tokens of an answer as the model continues a prompt with it, without an
    end. Of answers with the same token (such as the unknown one) only the first can be told, so it
    alone is in. Raises ValueError for a training answer without words, or where there are not
    `size` such answers. Source: VideoPrism appendix G (250 of 100, 250, 500, 1000 and 2000, chosen
    on validation; the answers are of training and validation there).
    """
    counts = Counter(_truths(training, "training question"))
    by_token = {}
    for answer in sorted(counts, key=lambda answer: (-counts[answer], answer)):
        tokens = tokenise(answer)
        if len(tokens) == 1:
            by_token.setdefault(int(tokens[0]), answer)
    if not 1 <= size <= len(by_token):
        raise ValueError(
            f"a vocabulary of {size} answers cannot be made: of {len(counts)} different training "
            f"answers {len(by_token)} are one token of their own; ask for 1 to {len(by_token)}"
            if by_token
            else f"none of {len(counts)} different training answers is one token: answer openly "
            "(exact_match), or use another tokeniser"
        )
    return list(by_token.values())[:size]


def answer_tokens(
    answers: Sequence[str], tokenise: Callable[[str], Sequence[int]]
) -> Int[np.ndarray, " K"]:
    """The token of each answer of a closed vocabulary: the columns to take from next-token
    log-likelihoods.

    Raises ValueError for an answer that is not exactly one token.
    """
    tokens = [tokenise(answer) for answer in answers]
    for answer, own in zip(answers, tokens, strict=True):
        if len(own) != 1:
            raise ValueError(
                f"the answer {answer!r} is {len(own)} tokens and a closed vocabulary has answers "
                "of one: leave it out (one_token_answers does)"
            )
    return np.array([own[0] for own in tokens], int)


def closed_top1(
    likelihoods: Float[np.ndarray, "C K"], answers: Sequence[str], truths: Sequence[str]
) -> Float[np.ndarray, " C"]:
    """1 where the true answer is likelier than every other of the K, else 0; 0 too where it is none
    of them, and the share of the others is the `ceiling`.

    Likelihoods are log-likelihoods of the answer's token, a question a row; all answers are one
    token, so length plays no part. A tie is wrong, and so is what is not a number. Raises
    ValueError for another shape than questions x answers, or a truth without words. Source:
    VideoPrism appendix G.
    """
    known = _truths(truths, "question")
    if likelihoods.shape != (len(known), len(answers)):
        raise ValueError(
            f"the log-likelihoods are of {likelihoods.shape[0]} questions and "
            f"{likelihoods.shape[1]} answers, and {len(known)} truths and {len(answers)} answers "
            "were given: give a row a question and a column an answer"
        )
    right = np.array(known)[:, None] == np.array([normalise(answer) for answer in answers])
    own = np.where(right, likelihoods, -np.inf).max(1, keepdims=True)
    beaten = (likelihoods < own) | right
    return (beaten.all(1) & (own[:, 0] > -np.inf)).astype(float)


def ceiling(answers: Sequence[str], truths: Sequence[str]) -> float:
    """The share of questions whose true answer is in the closed vocabulary, in [0, 1]: what
    `closed_top1` can reach. Raises ValueError for no questions or a truth without words.
    """
    inside = {normalise(answer) for answer in answers}
    return float(np.mean([true in inside for true in _truths(truths, "question")]))


# --- two examples in words -----------------------------------------------------------------------


def two_shots(questions: Sequence[str], answers: Sequence[str], *, seed: int) -> str:
    """The two most frequent training answers, each with one of its questions drawn at random:
    "question: ... answer: ... ." twice, as `prompt` puts it before a question.

    Of equally frequent answers the first by the alphabet. Raises ValueError for another number of
    questions than of answers, an empty one, or fewer than two different answers. Source: VideoPrism
    appendix G, after Flamingo (2204.14198): examples without their clips.
    """
    known = _truths(answers, "training question")
    if len(questions) != len(known):
        raise ValueError(
            f"there are {len(questions)} training questions and {len(known)} answers: give one "
            "answer a question"
        )
    counts = Counter(known)
    frequent = sorted(counts, key=lambda answer: (-counts[answer], answer))[:2]
    if len(frequent) < 2:
        raise ValueError(
            f"all {len(known)} training answers are {frequent[0]!r} and two different ones are "
            "needed as examples: give more training questions"
        )
    rng, shots = np.random.default_rng(seed), []
    for answer in frequent:
        of_it = [number for number, true in enumerate(known) if true == answer]
        number = int(rng.choice(of_it))
        shots.append(f"question: {_question(questions[number], number)} answer: {answer}.")
    return " ".join(shots)


def prompt(question: str, shots: str = "") -> str:
    """What the model continues with its answer: the examples, if any, then this question.

    Raises ValueError for a question without words.
    """
    return f"{shots} question: {_question(question)} answer:".strip()


def _question(text: str, number: int | None = None) -> str:
    words = " ".join(text.split())
    if not words:
        which = "the question" if number is None else f"training question {number}"
        raise ValueError(f"{which} is empty: give its text, or leave it out")
    return words


def _truths(answers: Sequence[str], who: str) -> list[str]:
    """True answers, normalised; each must have words."""
    if not len(answers):
        raise ValueError(f"there is no {who} to take answers of: give at least one")
    known = [normalise(answer) for answer in answers]
    if "" in known:
        number = known.index("")
        raise ValueError(
            f"the answer of {who} {number} is {answers[number]!r}, which has no words: give it "
            "one, or leave the question out"
        )
    return known
