"""SentencePiece text: a vocabulary trained on the corpus, or the released 32k model by path."""

import http.client
import io
import os
import re
import string
import textwrap
import urllib.request
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import sentencepiece
from jaxtyping import Bool, Int

from vplib import files

# The released video-text models' vocabulary, "c4_en". Source: google-deepmind/videoprism,
# models.py, which names the bucket gs://t5-data; this is its public address.
RELEASED = "https://storage.googleapis.com/t5-data/vocabs/cc_en.32000/sentencepiece.model"
RELEASED_SIZE, RELEASED_LENGTH = 32_000, 64  # pieces; tokens of a text, without the class token

LONGEST = 4192  # bytes of a line; SentencePiece's trainer leaves out longer ones

PUNCTUATION = str.maketrans({c: " " for c in string.punctuation})


def canonical(text: str) -> str:
    """As released: punctuation to spaces, lower case, single spaces, a full stop at the end."""
    return re.sub(r"\s+", " ", text.translate(PUNCTUATION)).strip().lower() + "."


def train(texts: Iterable[str], path: Path, *, size: int) -> None:
    """Write a SentencePiece unigram model of `size` pieces, or fewer if the texts have no more.

    Pad is 0. One thread, so that equal texts give equal bytes. Raises ValueError as `check` does,
    and FileError when `path` cannot be written.
    """
    lines = _lines(texts)
    _check(lines, size)
    files.write(Path(path), _trained(lines, size))


def check(texts: Iterable[str], *, size: int) -> None:
    """Refuse what `train` would, at a tenth of its time.

    Raises ValueError when no text has a word, or when `size` pieces are too few: SentencePiece
    wants one for each character, the rarest (0.05% of the text) aside.
    """
    _check(_lines(texts), size)


def train_words(texts: Iterable[str], path: Path, *, size: int) -> None:
    """Write a SentencePiece model whose pieces are whole words, the `size` most frequent, for
    `Words`. Pad, which ends what a language model says, is 0. Raises ValueError when no text has a
    word, and FileError when `path` cannot be written.
    """
    lines = [plain(text) for text in texts]
    if not any(lines):
        raise ValueError("no text has any words: a vocabulary cannot be trained; give some texts")
    files.write(Path(path), _trained(lines, size, model_type="word"))


def plain(text: str) -> str:
    """`canonical` without its full stop."""
    return canonical(text)[:-1]


def _lines(texts: Iterable[str]) -> list[str]:
    """Canonical texts as the trainer takes them: transcripts and the like on several lines."""
    lines = []
    for line in map(canonical, texts):
        # A character has at most four bytes.
        lines += textwrap.wrap(line, LONGEST // 4) if len(line.encode()) > LONGEST else [line]
    return lines


def _check(lines: list[str], size: int) -> None:
    if not any(line.strip(". ") for line in lines):
        raise ValueError(
            "no caption has any words: a vocabulary cannot be trained; "
            "check the text fields of the corpus"
        )
    try:
        # Too few for any text: SentencePiece counts the characters, says what it wants and stops.
        _trained(lines, 4)
    except RuntimeError as error:
        wanted = re.search(r"smaller than required_chars. 4 vs (\d+)", str(error))
        if not wanted:
            raise ValueError(
                f"no vocabulary can be trained on these captions ({error}): "
                "check the text fields of the corpus"
            ) from error
        if size < int(wanted[1]):
            raise ValueError(
                f"data.vocabulary={size} is too small for the different characters of these "
                f"captions: give data.vocabulary={wanted[1]} or more"
            ) from None


def _trained(lines: list[str], size: int, **more) -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        vocab_size=size,
        hard_vocab_limit=False,
        num_threads=1,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
        **more,
    )
    return model.getvalue()


class Tokenizer:
    """Text to padded ids, with any SentencePiece file.

    The released models' pad id is 0 whatever the file says. Raises FileNotFoundError if there is no
    file, ValueError if it is no SentencePiece model.
    """

    def __init__(self, path: Path, length: int):
        if not Path(path).is_file():
            raise FileNotFoundError(
                f"no SentencePiece model at {path}: run 10_prepare_corpus, "
                "or give data.tokenizer=<path>"
            )
        self.length = length
        try:
            self._pieces = sentencepiece.SentencePieceProcessor(model_file=str(path))
        except (RuntimeError, OSError):
            raise ValueError(
                f"{path} is no SentencePiece model: give the path of one, such as {RELEASED}"
            ) from None
        self.size = self._pieces.vocab_size()
        # As released; c4_en and ours have none.
        self._first = [self._pieces.bos_id()] if self._pieces.bos_id() >= 0 else []

    def unknown(self, texts: Iterable[str]) -> int:
        """How many texts have no piece that the vocabulary knows: a model sees nothing in them."""
        in_all = (self._pieces.piece_to_id(piece) for piece in ("▁", ".", "▁."))
        bare = {self._pieces.unk_id(), *in_all}
        encoded = self.pieces([*texts])
        return sum(bare.issuperset(pieces) for pieces in encoded)

    def pieces(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, however many."""
        return self._pieces.encode([canonical(text) for text in texts])

    def __call__(self, texts: list[str]) -> tuple[Int[np.ndarray, "B L"], Bool[np.ndarray, "B L"]]:
        """Ids and keep mask (False at padding); longer texts are cut; no end token, as released."""
        ids = np.zeros((len(texts), self.length), np.int32)
        keep = np.zeros((len(texts), self.length), bool)
        for i, pieces in enumerate(self.pieces(texts)):
            pieces = self._first + pieces
            n = min(len(pieces), self.length)
            ids[i, :n], keep[i, :n] = pieces[:n], True
        return ids, keep


class Words(Tokenizer):
    """The tokeniser of our language models: a piece a word, no full stop, and back to words."""

    end = 0  # the id that ends what is said

    def pieces(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text's words, however many; an unknown word is `unk`."""
        return self._pieces.encode([plain(text) for text in texts])

    def unknown_words(self, text: str) -> list[str]:
        """Words of a text that are no piece."""
        found = dict.fromkeys(plain(text).split())
        return [word for word in found if self._pieces.piece_to_id(f"▁{word}") == self._pieces.unk_id()]

    def words(self, ids: Int[np.ndarray, "B L"]) -> list[str]:
        """What rows of ids say, up to the first end."""
        return self._pieces.decode([until(row, self.end) for row in ids])


def until(ids: Int[np.ndarray, " L"], end: int) -> list[int]:
    """The ids before the first `end`; all without one."""
    found = ids.tolist()
    return found[: found.index(end)] if end in found else found


def released_tokenizer(path: str | Path | None = None) -> Tokenizer:
    """The tokeniser of the released video-text models: c4_en, 64 tokens.

    `path` is its file; without one it is fetched once, to $XDG_CACHE_HOME/vplib (~/.cache/vplib).
    Raises ValueError when it is not there and cannot be fetched (HF_HUB_OFFLINE=1 forbids it, as
    for weights), or is another vocabulary, and FileError when it cannot be stored.
    """
    if path is None:
        path = (
            Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
            / "vplib"
            / "c4_en.model"
        )
        if not path.is_file():
            _fetch(RELEASED, path)
    try:
        tokenizer = Tokenizer(Path(path), RELEASED_LENGTH)
    except (ValueError, FileNotFoundError):
        raise ValueError(
            f"{path} is no SentencePiece model: give the path of the file {RELEASED}"
        ) from None
    if tokenizer.size != RELEASED_SIZE:
        raise ValueError(
            f"{path} is not the vocabulary c4_en: it has {tokenizer.size:,} pieces instead of "
            f"{RELEASED_SIZE:,}; give the path of the file {RELEASED}"
        )
    return tokenizer


def _fetch(url: str, path: Path) -> None:
    """Write what is at `url` to `path`, whole or not at all."""
    try:
        if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
            raise OSError("HF_HUB_OFFLINE forbids it")
        with urllib.request.urlopen(url, timeout=30) as response:
            content = response.read()
    except (OSError, http.client.HTTPException) as error:  # the latter: cut short
        raise ValueError(
            f"the tokeniser c4_en is not at {path} and cannot be fetched ({error}): "
            f"give the path of the file {url}"
        ) from None
    files.folder(path.parent)
    files.write(path, content)
