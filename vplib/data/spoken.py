"""Batches for a language model: prompts and what to say, about clips' tokens or what was told of clips."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float16, Int

from vplib.data.cached import CachedCorpus

CAPTION = "caption:"  # the prompt of a caption
TURNS = 4  # questions of a text at most, about its clip
OTHERS = 2  # about other clips, before them
FEWEST = 0.375  # of the vectors that a clip becomes, bags of a description at least
Turns = Sequence[tuple[str, str]]  # prompts and what is said to each


@runtime_checkable
class Vocabulary(Protocol):
    """A tokeniser that goes both ways: `text.Words`, or a public language model's."""

    size: int
    end: int  # the id that ends what is said

    def pieces(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, however many."""

    def words(self, ids: Int[np.ndarray, "B L"]) -> list[str]:
        """What rows of ids say, up to the first end."""


class Told(NamedTuple):
    """Descriptions, whose words are put into bags: what a clip's vectors will be, as texts alone have it."""

    ids: Int[np.ndarray, "N T"]
    bag: Int[np.ndarray, "N T"]  # number of each word's bag; -1 after the last word


class Texts(NamedTuple):
    """Prompts and what follows each, padded: `said` marks what follows, with the end token."""

    ids: Int[np.ndarray, "N L"]
    keep: Bool[np.ndarray, "N L"]
    said: Bool[np.ndarray, "N L"]


def texts(words: Vocabulary, turns: Sequence[Turns], *, length: int) -> Texts:
    """Each text, prompts and what is said to them in turn, as at most `length` ids.

    Raises ValueError for what is said without a word, and for a text too long.
    """
    prompts = iter(words.pieces([prompt for text in turns for prompt, _ in text]))
    answers = iter(following(words, [answer for text in turns for _, answer in text]))
    ids = np.full((len(turns), length), words.end, np.int32)
    keep, said = np.zeros(ids.shape, bool), np.zeros(ids.shape, bool)
    for row, text in enumerate(turns):
        whole, marks = [], []
        for prompt, follows in text:
            one, other = next(prompts), next(answers)
            if not other:
                raise ValueError(
                    f"what follows the prompt {prompt[-60:]!r} is {follows!r}, which has no words: "
                    "give it some, or leave its clip out"
                )
            whole += one + other
            marks += [False] * len(one) + [True] * len(other)
        if len(whole) >= length:
            raise ValueError(
                f"{follows[:60]!r} has {len(whole) + 1} words with its prompt and its end, and "
                f"there is room for {length}: shorten it, or give more room"
            )
        ids[row, : len(whole)], said[row, : len(whole)] = whole, marks
        keep[row, : len(whole) + 1] = said[row, len(whole)] = True
    return Texts(ids, keep, said)


def by_length(of: Texts, *, step: int) -> list[tuple[Int[np.ndarray, " M"], Texts]]:
    """The rows of texts whose lengths, rounded up to a multiple of `step`, are equal, and these texts
    without the padding that none of them needs: shorter batches where all are short.
    """
    lengths = -(-of.keep.sum(1) // step) * step
    found = [(np.flatnonzero(lengths == length), length) for length in np.unique(lengths)]
    return [(rows, Texts(*(part[rows, :length] for part in of))) for rows, length in found]


class Lesson(NamedTuple):
    """Texts of one length about clips of a corpus, which clip each is about, and the share of the
    batches that these texts have.
    """

    corpus: str
    rows: Int[np.ndarray, " N"]
    texts: Texts
    share: float


def lessons(
    words: Vocabulary,
    name: str,
    corpus: str,
    about: Sequence[tuple[int, Turns]],
    *,
    share: float,
    length: int,
    step: int,
) -> dict[str, Lesson]:
    """What is said about clips (row, text) as a lesson for each length, which share what all have by
    how many texts they are. Raises ValueError as `texts`.
    """
    whole = texts(words, [text for _, text in about], length=length)
    rows = np.array([row for row, _ in about])
    return {
        f"{name} to {some.ids.shape[1]}": Lesson(
            corpus, rows[which], some, share * len(which) / len(rows)
        )
        for which, some in by_length(whole, step=step)
    }


def talks(asked: Sequence[tuple[int, str, str]], *, seed: int) -> list[tuple[int, Turns]]:
    """Questions (row of a clip, prompt, answer) as texts of up to TURNS about one clip, with its row:
    the clip is looked at once for all of them. Each is in one text, in an order drawn for its clip.
    """
    rng, own = np.random.default_rng(seed), {}
    for row, *turn in asked:
        own.setdefault(row, []).append(tuple(turn))
    found = []
    for row, turns in own.items():
        order = rng.permutation(len(turns))
        count = -(-len(turns) // TURNS)
        found += [(row, [turns[k] for k in part]) for part in np.array_split(order, count)]
    return found


def documents(
    captions: Sequence[str], clips: Sequence[Sequence[str]], asked: Sequence[tuple[int, str, str]], *, seed: int
) -> list[tuple[str, Turns]]:
    """What our language models read before they are frozen, in an order of its own: what was told
    before ("" for nothing), and prompts with what is said.

    These are the captions, of which nothing is told before; one of each clip's own captions, with
    another told before, where there are several; and the `talks` about clips, with one of the clip's
    captions told before, and up to OTHERS questions about other clips first, as examples stand in
    prompts. Nothing is learned of prompts and of what is told: what is asked next is chance. So the
    model learns to speak of what it was told, and what the bridge says in vectors takes that place.
    Our choice: PaLM-2, which the paper takes, can do that.
    """
    rng = np.random.default_rng(seed)
    found = [("", [(CAPTION, one)]) for one in captions]
    for own in filter(len, clips):
        said, *given = rng.permutation(len(own))[:2]
        found.append((own[given[0]] if given else "", [(CAPTION, own[said])]))
    for row, turns in talks(asked, seed=seed):
        others = [asked[k][1:] for k in rng.integers(len(asked), size=rng.integers(OTHERS + 1))]
        found.append((str(rng.choice(clips[row])) if len(clips[row]) else "", [*others, *turns]))
    return [found[k] for k in rng.permutation(len(found))]


def bags(words: Vocabulary, descriptions: Sequence[str], *, count: int, seed: int) -> Told:
    """Each description's words in their order, cut at random into up to `count` bags, and no fewer
    than FEWEST of `count` where it has as many words. An empty one has none.

    The vectors that a bridge makes of a clip are no words: each holds several at once. A language
    model as small as ours cannot read such vectors if it has only ever read words (LOG.md).
    """
    rng, pieces = np.random.default_rng(seed), words.pieces(descriptions)
    ids = np.full((len(pieces), max(map(len, pieces), default=0)), words.end, np.int32)
    bag = np.full(ids.shape, -1, np.int16)
    for row, some in enumerate(pieces):
        ids[row, : len(some)] = some
        if some:
            wanted = rng.integers(max(round(FEWEST * count), 1), count + 1)
            cuts = rng.permutation(len(some) - 1)[: wanted - 1]
            begins = np.isin(np.arange(len(some) - 1), cuts)
            bag[row, : len(some)] = np.concatenate([[0], begins.cumsum()])
    return Told(ids, bag)


def following(words: Vocabulary, texts: Sequence[str]) -> list[list[int]]:
    """Ids of texts that follow a prompt: to a public vocabulary a word begins with its space."""
    return words.pieces([f" {text}" for text in texts])


class _Said(CachedCorpus):
    """An item for each text."""

    def __init__(self, of: Texts):
        self.of, self.images = of, False

    def __len__(self) -> int:
        return len(self.of.ids)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return {key: getattr(self.of, key)[index] for key in ("ids", "keep", "said")}


class Spoken(_Said):
    """Texts about clips, with the tokens of the clip of its row."""

    def __init__(
        self, of: Texts, tokens: Float16[np.ndarray, "C S D"], rows: Int[np.ndarray, " N"]
    ):
        super().__init__(of)
        self.tokens, self.rows = tokens, rows

    def __repr__(self) -> str:  # Grain puts this into its checks
        return f"Spoken({self.of.ids.shape}, {self.tokens.shape})"

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return super().__getitem__(index) | {"tokens": self.tokens[self.rows[index]]}


class Read(_Said):
    """Texts after what was told, with `bags` (T,N): whether a word that was told is in a bag of N."""

    def __init__(self, of: Texts, told: Told, count: int):
        super().__init__(of)
        self.told, self.count = told, count

    def __repr__(self) -> str:  # Grain puts this into its checks
        return f"Read({self.of.ids.shape}, {self.told.ids.shape}, {self.count})"

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        bags = self.told.bag[index][:, None] == np.arange(self.count)
        return super().__getitem__(index) | {"told": self.told.ids[index], "bags": bags}
