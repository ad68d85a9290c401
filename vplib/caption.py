"""Say what videos show, or answer a question about each: `python -m vplib.caption VIDEO ...`.

Encoder, language model and resampler are those of a run of 42_captioning_qa. Our language models
read texts about the embedded world alone: of other videos they say what they would say of that world.
"""

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vplib import environment, files, paths
from vplib.data import pipeline, text
from vplib.data.spoken import CAPTION
from vplib.data.video import VideoError
from vplib.evaluate import answers, classify, features, speech
from vplib.model import checkpoints, decoders, public_lm, resampler
from vplib.model.checkpoints import CheckpointError

FILES = {
    "encoder": "encoder.npz",
    "lm": "lm.npz",
    "resampler": "resampler.npz",
    "words": "words.model",
}


class Voice(NamedTuple):
    """All that is needed to speak."""

    look: object
    view: dict[str, int]
    speaker: speech.Speaker

    def say(self, path: Path, prompt: str) -> str:
        """What follows the prompt about a video. Raises VideoError if it cannot be read, ValueError
        for a prompt without words or longer than the context leaves room for."""
        clip = pipeline.read_clip(path, name=str(path), **self.view)[None]
        tokens = np.asarray(self.look(clip))
        (found,) = speech.said(self.speaker, tokens, np.zeros(1, int), [prompt], batch=1)
        return found


def load(folder: Path, public: Path | None = None) -> Voice:
    """What 42_captioning_qa left in `folder`; `public`: the folder of the public language model
    that it was given, which it leaves where it is. Raises CheckpointError if a part is missing,
    damaged, or does not fit the others."""
    folder = Path(folder)
    names = [FILES["encoder"], FILES["resampler"]] if public else FILES.values()
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise CheckpointError(
            f"{folder} has no {', '.join(missing)}: give the folder voice/ of a finished run of 42_captioning_qa"
        )
    encoder = features.encoder_of(checkpoints.load(folder / FILES["encoder"]))
    bridge = resampler.load(folder / FILES["resampler"])
    if public:
        lm, words = public_lm.load(public), public_lm.PublicWords(public)
    else:
        lm = decoders.load(folder / FILES["lm"])
        words = text.Words(folder / FILES["words"], lm.context)
    sizes = (encoder.temporal_ln.scale.shape[0], lm.width, lm.vocabulary)
    known = words.size if not public else lm.vocabulary  # public tables may be padded
    if sizes != (bridge.key.w.shape[0], bridge.queries.shape[1], known):
        raise CheckpointError(
            f"the parts in {folder} are not of one model: an encoder {sizes[0]} wide, a language model "
            f"{sizes[1]} wide with {sizes[2]} words, a resampler from {bridge.key.w.shape[0]} to "
            f"{bridge.queries.shape[1]}, and {known} words; copy all of them from one run"
        )
    speaker = speech.Speaker(bridge, lm, words)
    return Voice(features.tokens_of(encoder), classify.view(encoder), speaker)


def main() -> None:
    args = _arguments()
    environment.write_any_letter()
    try:
        voice = load(args.voice, args.lm)
        prompt = answers.prompt(args.ask) if args.ask is not None else CAPTION
        unknown = voice.speaker.words.unknown_words(args.ask or "")
    except (CheckpointError, ValueError, FileNotFoundError, ImportError) as error:
        sys.exit(f"error: {files.printable(error)}")
    if unknown:
        print(
            files.printable(f"note: the language model does not know {', '.join(unknown)}"),
            file=sys.stderr,
        )
    failed = False
    for path in args.videos:
        try:
            print(files.printable(f"{path}: {voice.say(path, prompt) or '(nothing)'}"), flush=True)
        except (VideoError, ValueError, CheckpointError) as error:
            print(f"error: {files.printable(error)}", file=sys.stderr, flush=True)
            failed = True
    sys.exit(int(failed))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m vplib.caption",
        description="A caption of each video, or an answer about it.",
    )
    parser.add_argument("videos", metavar="VIDEO", nargs="+", type=Path)
    parser.add_argument("--ask", metavar="QUESTION", help="answer it instead")
    parser.add_argument(
        "--voice",
        metavar="FOLDER",
        type=Path,
        default=paths.REPORTS / "voice",
        help="voice/ of a run of 42_captioning_qa; reports/voice unless given",
    )
    parser.add_argument(
        "--lm", metavar="FOLDER", type=Path, help="the public language model that it was run with"
    )
    return parser.parse_args()


if __name__ == "__main__":
    environment.restart(pinned=False)
    main()
