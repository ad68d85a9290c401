"""Batches for a language model: texts alone, or clips' tokens with a prompt and what to say of them."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float16, Int

from vplib.data.cached import CachedCorpus
from vplib.data.text import Words

END = 0  # the pad id of every vocabulary: what ends a text
CAPTION = "caption:"  # the prompt of a caption


class Texts(NamedTuple):
    """Prompts and what follows, padded: `said` marks what follows, its end token included."""

    ids: Int[np.ndarray, "N L"]
    keep: Bool[np.ndarray, "N L"]
    said: Bool[np.ndarray, "N L"]


def texts(words: Words, prompts: Sequence[str], follows: Sequence[str], *, length: int) -> Texts:
    """Each prompt and what follows it as at most `length` ids.

    Raises ValueError for what follows without a word, and for both together too long.
    """
    before, after = words.pieces(prompts), words.pieces(follows)
    ids = np.full((len(before), length), END, np.int32)
    keep, said = np.zeros(ids.shape, bool), np.zeros(ids.shape, bool)
    for row, (prompt, answer) in enumerate(zip(before, after, strict=True)):
        if not answer:
            raise ValueError(
                f"what follows the prompt {prompts[row][-60:]!r} is {follows[row]!r}, which has no "
                "words: give it some, or leave its clip out"
            )
        whole = [*prompt, *answer, END]
        if len(whole) > length:
            raise ValueError(
                f"{follows[row][:60]!r} has {len(whole)} words with its prompt and its end, and "
                f"there is room for {length}: shorten it, or give a larger speaking.length"
            )
        ids[row, : len(whole)], keep[row, : len(whole)] = whole, True
        said[row, len(prompt) : len(whole)] = True
    return Texts(ids, keep, said)


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
