"""Texts of which a known share is about other clips: what stage 1 learns from noisier captions."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from vplib.data.text import Tokenizer


class Swapped(Tokenizer):
    """A tokeniser that says another text of the same corpus in place of a share `rate` of all texts.

    Which ones, and what in their place, depends on the text alone: it is the same in every epoch and
    for every training seed, and what is swapped at one rate is swapped at a higher one, too. `corpora`
    are the texts of each corpus; a text that is in several counts to the first. Raises as `Tokenizer`,
    and ValueError where a text to be swapped is not known.
    """

    def __init__(self, path: Path, length: int, corpora: Iterable[list[str]], *, rate: float):
        super().__init__(path, length)
        self.rate, self._others = rate, {}
        for texts in corpora:
            every = sorted({*texts})
            for place, text in enumerate(every):
                self._others.setdefault(text, (every, place))

    def said(self, text: str) -> str:
        """What stands in place of a text: itself, or another one of its corpus, if there is one."""
        drawn = hashlib.sha256(text.encode()).digest()
        if int.from_bytes(drawn[:8], "big") >= self.rate * 2**64:
            return text
        if text not in self._others:
            raise ValueError(f"the text '{text[:60]}' is in none of the corpora: give all of them")
        every, place = self._others[text]
        step = 1 + int.from_bytes(drawn[8:16], "big") % max(len(every) - 1, 1)
        return every[(place + step) % len(every)]

    def pieces(self, texts: list[str]) -> list[list[int]]:
        """Ids of what stands in place of each text."""
        return super().pieces([self.said(text) for text in texts])
