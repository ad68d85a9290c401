"""Batches for a language model: texts alone, or clips' tokens with a prompt and what to say of them."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float16, Int

from vplib.data.cached import CachedCorpus

CAPTION = "caption:"  # the prompt of a caption
OTHERS, OWN = 2, 6  # questions at most before the last of a document: of other clips, of its own


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
    """Prompts and what follows, padded: `said` marks what follows, its end token included."""

    ids: Int[np.ndarray, "N L"]
    keep: Bool[np.ndarray, "N L"]
    said: Bool[np.ndarray, "N L"]


def texts(words: Vocabulary, prompts: Sequence[str], follows: Sequence[str], *, length: int) -> Texts:
    """Each prompt and what follows it as at most `length` ids.

    Raises ValueError for what follows without a word, and for both together too long.
    """
    before, after = words.pieces(prompts), following(words, follows)
    ids = np.full((len(before), length), words.end, np.int32)
    keep, said = np.zeros(ids.shape, bool), np.zeros(ids.shape, bool)
    for row, (prompt, answer) in enumerate(zip(before, after, strict=True)):
        if not answer:
            raise ValueError(
                f"what follows the prompt {prompts[row][-60:]!r} is {follows[row]!r}, which has no "
                "words: give it some, or leave its clip out"
            )
        whole = [*prompt, *answer, words.end]
        if len(whole) > length:
            raise ValueError(
                f"{follows[row][:60]!r} has {len(whole)} words with its prompt and its end, and "
                f"there is room for {length}: shorten it, or give a larger speaking.length"
            )
        ids[row, : len(whole)], keep[row, : len(whole)] = whole, True
        said[row, len(prompt) : len(whole)] = True
    return Texts(ids, keep, said)


def documents(
    captions: Sequence[str], clips: Sequence[Sequence[str]], asked: Sequence[tuple[int, str]], *, seed: int
) -> list[str]:
    """What our language models read before they are frozen, in an order of its own: the captions,
    and for each of `asked`, a question with its answer about the clip of its row, a text that ends
    with it.

    That text begins with one of the clip's captions, then come up to OTHERS questions about other
    clips, as examples stand in prompts, and up to OWN others about this one, all with their
    answers. So the model learns to answer from what was said of the clip, which is what the bridge
    will say in vectors. Our choice: PaLM-2, which the paper takes, can do that.
    """
    rng, own = np.random.default_rng(seed), {}
    for row, text in asked:
        own.setdefault(row, []).append(text)
    found = [f"{CAPTION} {one}" for one in captions]
    for row, text in asked:
        others = [asked[k][1] for k in rng.integers(len(asked), size=rng.integers(OTHERS + 1))]
        about = [own[row][k] for k in rng.permutation(len(own[row])) if own[row][k] != text]
        begin = [*rng.choice(clips[row], size=1)] if len(clips[row]) else []
        found.append(". ".join([*begin, *others, *about[: rng.integers(OWN + 1)], text]))
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
