"""SentencePiece text: a vocabulary trained on the corpus, or the released 32k model by path."""

import io
import os
import re
import string
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import sentencepiece
from jaxtyping import Bool, Int

PUNCTUATION = str.maketrans({c: " " for c in string.punctuation})


def canonical(text: str) -> str:
    """Released canonicalisation: punctuation to spaces, lower case, single spaces, a full stop at the end."""
    return re.sub(r"\s+", " ", text.translate(PUNCTUATION)).strip().lower() + "."


def train(texts: Iterable[str], path: Path, *, size: int) -> None:
    """Write a SentencePiece unigram model of at most `size` pieces (fewer when the texts have no more); pad is 0.

    One thread, so that equal texts give equal bytes. Raises ValueError when there is no text.
    """
    lines = [canonical(text) for text in texts]
    if not any(line.strip(". ") for line in lines):
        raise ValueError("no caption has any words: a vocabulary cannot be trained; check the text fields of the corpus")
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, vocab_size=size, hard_vocab_limit=False, num_threads=1,
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1, minloglevel=2)
    path = Path(path)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(model.getvalue())
    os.replace(temporary, path)


class Tokenizer:
    """Text to padded ids. Works with any SentencePiece file; the released models' pad id is 0 whatever the file says."""

    def __init__(self, path: Path, length: int):
        if not Path(path).is_file():
            raise FileNotFoundError(f"no SentencePiece model at {path}: run 10_prepare_corpus, or give data.tokenizer=<path>")
        self.length = length
        self._pieces = sentencepiece.SentencePieceProcessor(model_file=str(path))
        self.size = self._pieces.vocab_size()

    def __call__(self, texts: list[str]) -> tuple[Int[np.ndarray, "B L"], Bool[np.ndarray, "B L"]]:
        """Ids and keep mask (False at padding); longer texts are cut; no end token, as released."""
        ids = np.zeros((len(texts), self.length), np.int32)
        keep = np.zeros((len(texts), self.length), bool)
        for i, pieces in enumerate(self._pieces.encode([canonical(text) for text in texts])):
            n = min(len(pieces), self.length)
            ids[i, :n], keep[i, :n] = pieces[:n], True
        return ids, keep
