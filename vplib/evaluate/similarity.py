"""Clips whose caption does not fit what they show, dropped by how near the two lie in a model.

    python -m vplib.evaluate.similarity data/shards/mine/train --weights WEIGHTS --least 0.2

The paper filtered two of its corpora by such a score, that of a CLIP-like model (arXiv:2402.13217,
appendix A); its threshold is not published. `11_corpus_statistics` shows how scores are spread.
"""

import argparse
from pathlib import Path

import numpy as np

from vplib import environment, files
from vplib.data import decisions, pipeline, text
from vplib.data.shards import Clip
from vplib.data.text import Tokenizer
from vplib.evaluate import classify, features
from vplib.model import checkpoints
from vplib.model.checkpoints import CheckpointError
from vplib.model.encoders import VideoText

RULES = 1  # part of the identity: raise it when another clip would be dropped


class Similarity:
    """A step of vplib.data.decisions: drops clips whose similarity to their caption, the cosine of
    both embeddings in [-1, 1], is below `least`. A clip without a caption stays.
    """

    name = "similarity"

    def __init__(self, model: VideoText, tokenizer: Tokenizer, *, least: float):
        self._model, self._tokenizer, self._least = model, tokenizer, least
        self._look, self._view = features.embeddings_of(model), classify.view(model.vision_encoder)
        weights = checkpoints.digest(checkpoints.flatten(model))
        pieces = tokenizer.pieces(["a red star moves left"])
        self.identity = decisions.identity(RULES, least, weights, tokenizer.length, pieces)

    def __call__(self, clip: Clip, name: str) -> dict | None:
        if not clip.text:
            return None
        shown = pipeline.read_clip(clip.video, name=name, **self._view)
        video = np.asarray(self._look(shown[None]))[0]
        said = features.embed_texts(self._model, self._tokenizer, [clip.text], batch=1)[0]
        similarity = float(video @ said)
        return {"similarity": round(similarity, 4)} if similarity < self._least else None


def main() -> None:
    parser = decisions.parser("vplib.evaluate.similarity", __doc__)
    parser.add_argument(
        "--weights", required=True, help="of a video-text model: a file, or a released name"
    )
    parser.add_argument("--vocabulary", type=Path, help="of the file; without: the released one")
    parser.add_argument(
        "--length", type=int, default=32, help="tokens that the file's text tower was trained on"
    )
    parser.add_argument("--least", type=float, required=True, help="a cosine, from -1 to 1")
    given = parser.parse_args()
    environment.write_any_letter()
    try:
        made = _made(given)
    except (CheckpointError, ValueError, FileNotFoundError) as error:
        raise SystemExit(f"error: {files.printable(error)}") from None
    decisions.run(lambda: made, given.corpus)


def _made(given: argparse.Namespace) -> Similarity:
    tokenizer = (
        Tokenizer(given.vocabulary, given.length) if given.vocabulary else text.released_tokenizer()
    )
    return Similarity(features.video_text(given.weights, tokenizer), tokenizer, least=given.least)


if __name__ == "__main__":
    environment.restart(pinned=False)
    main()
