"""Batches for a language model: texts alone, or clips' tokens with a prompt and what to say of them."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float16, Int

from vplib.data.cached import CachedCorpus

CAPTION = "caption:"  # the prompt of a caption
TURNS = 4  # questions of a text at most, about its clip
OTHERS = 2  # about other clips, before them
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
) -> list[Turns]:
    """What our language models read before they are frozen, in an order of its own: the captions,
    and the `talks` about clips.

    Each of these begins with one of the clip's captions, then come up to OTHERS questions about
    other clips, as examples stand in prompts, then those about the clip, all with their answers.
    Captions of clips and questions are prompts, of which nothing is learned: what is asked next is
    chance. So the model learns to answer from what was said of a clip, and what the bridge says in
    vectors takes the caption's place. Our choice: PaLM-2, which the paper takes, can do that.
    """
    rng = np.random.default_rng(seed)
    found = [[(CAPTION, one)] for one in captions]
    for row, turns in talks(asked, seed=seed):
        others = [asked[k][1:] for k in rng.integers(len(asked), size=rng.integers(OTHERS + 1))]
        text = [*others, *turns]
        if len(clips[row]):
            text[0] = f"{rng.choice(clips[row])} {text[0][0]}", text[0][1]
        found.append(text)
    return [found[k] for k in rng.permutation(len(found))]


def following(words: Vocabulary, texts: Sequence[str]) -> list[list[int]]:
    """Ids of texts that follow a prompt: to a public vocabulary a word begins with its space."""
    return words.pieces([f" {text}" for text in texts])


class Spoken(CachedCorpus):
    """Tokens of clips and what is said of them: an item for each text, about the clip of its row.

    Without tokens the texts alone.
    """

    def __init__(
        self,
        of: Texts,
        tokens: Float16[np.ndarray, "C S D"] | None = None,
        rows: Int[np.ndarray, " N"] | None = None,
    ):
        self.of, self.tokens, self.rows, self.images = of, tokens, rows, False

    def __len__(self) -> int:
        return len(self.of.ids)

    def __repr__(self) -> str:  # Grain puts this into its checks
        return f"Spoken({self.of.ids.shape}, {None if self.tokens is None else self.tokens.shape})"

    def __getitem__(self, index: int) -> Mapping[str, np.ndarray]:
        own = {key: getattr(self.of, key)[index] for key in ("ids", "keep", "said")}
        return own if self.tokens is None else own | {"tokens": self.tokens[self.rows[index]]}
