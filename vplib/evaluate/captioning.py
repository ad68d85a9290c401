"""Captions that a model generates, against those that people wrote: CIDEr-D, its tokens, and what
one caption said of every clip would get.

Scoring takes tokenised text, words between spaces, whoever tokenised it: `ptb_like` here, or the
official tokeniser (a Java program). Which one belongs beside every number.
"""

import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from scipy import sparse

ORDERS = 4  # n-grams of 1 to 4 words
SIGMA = 6.0  # of the length penalty, in words

# --- tokens --------------------------------------------------------------------------------------

# Dropped after tokenising. Source: pycocoevalcap (tokenizer/ptbtokenizer.py). Brackets are in its
# list in capitals and therefore stay, and so do runs such as ?!.
PUNCTUATION = frozenset(["'", "''", '"', "`", "``", ".", "?", "!", ",", ":", ";", "-", "--", "..."])
_LETTERS = str.maketrans(
    {"’": "'", "‘": "'", **dict.fromkeys("“”«»‹›", '"'), "–": " -- ", "—": " -- ", "…": " ... "}
    | {"½": "\t1/2", "¼": "\t1/4", "¾": "\t3/4", "€": "$", "£": "#", "\u200b": " "}
)
_SPELT = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
_SPLIT = {  # words that are two
    **{word: f"{word[:3]} {word[3:]}" for word in ("cannot", "gonna", "gotta", "gimme", "lemme")},
    **{"wanna": "wan na", "'tis": "'t is", "'twas": "'t was"},
}
_SHORT = (  # words that keep their stop, and those that do before a number
    "mr mrs ms dr jr sr rev lt col sgt capt maj gen prof sen rep gov pres st ave blvd rd mt ft "
    "inc co corp ltd dept univ etc al vs ph\\.d jan feb aug sep sept oct nov dec "
    "mon tue wed thu fri",
    "no nos fig figs p pp vol",
)
_TOKEN = re.compile(
    rf"""
      https?://\S+ | [\w.+-]+@\w[\w.-]*\w | </?[a-z]\w*> | [@#][a-z_]\w*  # addresses, tags, names
    | [:;=]-?[()dp](?!\w)                                               # smileys
    | (?-i:[A-Z]+&[A-Z]+)(?!\w)                                         # AT&T
    | (?:[a-z]\.){{2,}}(?:-\w+)*(?!\w) | [a-z]\.(?!\w)                   # U.S.-based, A. Smith
    | (?:{_SHORT[0].replace(" ", "|")})\.(?!\w)
    | (?:{_SHORT[1].replace(" ", "|")})\.(?=\ ?\d)
    | '(?:tis|twas|em|cause|(?<!\d')\d\ds?)(?!\w)                       # and '90s
    | 'n(?:'|(?!\w)) | (?:ol|somethin)' | y'(?=[a-z])                   # rock'n'roll, y'all
    | n't(?!\w) | '(?:s|d|m|ll|ve|re)(?!\w) | \w+?(?=n't(?!\w))         # do, n't
    | (?:[cdlo]|ma)'[^\W\d_]{{2,}}                                      # o'clock, c'mon, ma'am
    | \d+\ \d+/\d+ | [+-]?\d+(?:[.,:/]\d+)+ | [+-]\d+ | \.\d+          # 1 1/2, 1,000, -5, .5
    | [^\W_]+(?:[-‐‑./!?_][^\W_]+)*                                    # words
    | [?!]+ | \.{{2,}} | -{{2,}} | \*+ | _+ | '' | ``
    | [^\s\U00010000-\U0010ffff]                                       # the rest but emoji
    """,
    re.VERBOSE | re.IGNORECASE,
)


def penn_tokens(text: str) -> list[str]:
    """Lower-cased words, numbers and punctuation, roughly as the Penn Treebank separates them:
    "don't" is two, "cannot" too, "(" is -lrb-.
    """
    tokens = []
    for found in map(str.lower, _TOKEN.findall(text.translate(_LETTERS))):
        found = re.sub(r"^\.{2,}$", "...", re.sub(r"^-{2,}$", "--", found))  # of any length
        found = re.sub(r"[()[\]{}]", lambda bracket: _SPELT[bracket[0]], found)
        # A number with a fraction is one token there, with this space in it.
        found = found.replace(" ", "\N{NO-BREAK SPACE}")
        tokens += _SPLIT.get(found, found).split(" ")
    return tokens


def ptb_like(text: str) -> str:
    """The tokens of a caption without punctuation, between single spaces; empty for none.

    Near to what pycocoevalcap makes by Stanford's PTBTokenizer, not equal to it: that program has
    hundreds of rules, and these are what English captions need. Known to differ: abbreviations that
    are not in our list, C++, French ("trompe-l'oeil") and other inner apostrophes ("Hawai'i"), HTML
    (&amp;), telephone numbers in brackets, rare smileys, runs of symbols. Of the 44,085 example
    sentences of WordNet 3.0 it makes other tokens for 13; tests/test_captioning.py has answers of
    both. Source: pycocoevalcap 1.2 (Stanford CoreNLP 3.4.1, -lowerCase).
    """
    return " ".join(token for token in penn_tokens(text) if token not in PUNCTUATION)


# --- CIDEr-D -------------------------------------------------------------------------------------


def cider_d(
    candidates: Sequence[str], references: Sequence[Sequence[str]]
) -> Float[np.ndarray, " C"]:
    """CIDEr-D of each clip's caption, 0 to 10; the score of a set is the mean. Papers print it
    times 100, so that 1.2 is their 120.

    Texts are tokenised, one candidate and one or more references a clip; an empty candidate scores
    0. Rare n-grams weigh more, and what is rare is counted among the clips given: scores compare
    only on the same clips, and one clip, or the same references for all, gives 0. A caption equal
    to its only reference gets 10 if it has four words or more. Raises ValueError for another number
    of candidates than clips, no clips, or a clip whose references have no word. Source:
    pycocoevalcap 1.2 (cider/cider_scorer.py).
    """
    texts, owner = _flat(references)
    clips = len(references)
    if len(candidates) != clips:
        raise ValueError(
            f"there are {len(candidates)} captions for {clips} clips: give one a clip, an empty "
            "one where nothing was said"
        )
    counts, order, length = _count([*candidates, *texts])
    said, known = counts[:clips], counts[clips:]
    weight = _rarity(known, owner)[:, None] ** 2 * (order[:, None] == np.arange(ORDERS))
    norm = np.sqrt(counts.multiply(counts) @ weight)
    # An n-gram counts no more often than the reference has it.
    product = said[owner].minimum(known).multiply(known) @ weight  # R ORDERS
    product /= _or_one(norm[:clips][owner] * norm[clips:])
    likeness = product.mean(1) * _penalty(length[:clips][owner] - length[clips:])
    return 10 * np.bincount(owner, likeness) / np.bincount(owner)


def constant_caption(references: Sequence[Sequence[str]]) -> tuple[str, float]:
    """The best caption that says the same of every clip, and its CIDEr-D, 0 to 10: that one of the
    references whose mean `cider_d` over all clips is highest (of equal ones the first).

    What a model that sees nothing can say: choose it on training clips, score it on test clips.
    Exact, without scoring each caption against each reference: references of one length are summed
    first. Raises ValueError as `cider_d`.
    """
    texts, owner = _flat(references)
    counts, order, length = _count(texts)
    rarity = _rarity(counts, owner) ** 2
    share = 1 / (len(references) * np.bincount(owner)[owner])  # of a reference in the mean
    captions = list(dict.fromkeys(texts))
    at = {text: row for row, text in enumerate(texts)}
    rows = np.array([at[text] for text in captions])
    lengths = np.arange(length.max() + 1)
    of_length = sparse.csr_array((length == lengths[:, None]).astype(float))  # lengths R
    penalty = _penalty(length[rows][:, None] - lengths)
    scores = np.zeros(len(captions))
    for n in range(ORDERS):
        known = counts[:, order == n]
        said, weight = known[rows], rarity[order == n]
        norm = np.sqrt(known.multiply(known) @ weight)
        scaled = known.multiply((share / _or_one(norm))[:, None]).multiply(weight).tocsr()
        meet = np.zeros(penalty.shape)
        # min(a, b) is the number of k that neither falls below.
        for k in range(1, int(known.max()) + 1 if known.nnz else 1):
            summed = of_length @ scaled.multiply(known >= k)
            meet += ((said >= k).astype(float) @ summed.T).toarray()
        scores += (meet * penalty).sum(1) / _or_one(norm[rows])
    best = int(np.round(scores, 12).argmax())
    return captions[best], float(10 * scores[best] / ORDERS)


def _flat(references: Sequence[Sequence[str]]) -> tuple[list[str], Int[np.ndarray, " R"]]:
    """All references one after another, and the clip of each."""
    if not len(references):
        raise ValueError("there are no clips whose captions could be scored: give at least one")
    for clip, said in enumerate(references):
        if isinstance(said, str):
            raise ValueError(
                f"the references of clip {clip} are one text, {said!r}: give a list of texts"
            )
        if not any(text.split() for text in said):
            raise ValueError(
                f"clip {clip} has no reference caption with a word in it: give it one, or leave "
                "the clip out"
            )
    owner = np.repeat(np.arange(len(references)), [len(said) for said in references])
    return [text for said in references for text in said], owner


def _count(
    texts: Sequence[str],
) -> tuple[sparse.csr_array, Int[np.ndarray, " F"], Int[np.ndarray, " T"]]:
    """How often each of F n-grams is in each of T texts; n - 1 of each; words in each text.

    The official length is in bigrams: the differences are the same, but where nothing was said.
    """
    columns, row, column = {}, [], []
    length = np.zeros(len(texts), int)
    for number, text in enumerate(texts):
        words = text.split()
        length[number] = len(words)
        for n in range(1, ORDERS + 1):
            for gram in zip(*(words[i:] for i in range(n)), strict=False):
                row.append(number)
                column.append(columns.setdefault(gram, len(columns)))
    counts = sparse.csr_array(  # the same place twice is added up
        (np.ones(len(row)), (row, column)), shape=(len(texts), len(columns))
    )
    return counts, np.array([len(gram) - 1 for gram in columns], int), length


def _rarity(known: sparse.csr_array, owner: Int[np.ndarray, " R"]) -> Float[np.ndarray, " F"]:
    """log of clips over clips whose references have the n-gram; of none as of one."""
    clips = owner[-1] + 1
    own = sparse.csr_array((np.ones(len(owner)), (owner, np.arange(len(owner)))))  # clips R
    having = ((own @ known) > 0).sum(0)
    return np.log(clips) - np.log(np.maximum(having, 1))


def _penalty(difference: Int[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    return np.exp(-(difference**2) / (2 * SIGMA**2))


def _or_one(norms: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """For dividing by: what is divided by a norm of 0 is 0 already."""
    return np.where(norms > 0, norms, 1)
