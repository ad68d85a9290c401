"""`python -m vplib.course.ready`: is this laptop ready for the class? Green or red, one sentence.

Versions, the course's files, trained weights, one forward pass and one check: a red answer says what
to do. Nothing beyond the standard library is imported before it is known to be there.
"""

import importlib.util
import sys
import time
from pathlib import Path

OLDEST, NEWEST = (3, 11), (3, 14)
PACKAGES = (
    "jax",
    "flax",
    "optax",
    "numpy",
    "pandas",
    "matplotlib",
    "hydra",
    "sentencepiece",
    "IPython",
)
NEEDED = (
    "course/student/session1.ipynb",
    "course/slides/session1.html",
    "notebooks/01_tokens.ipynb",
    "conf/base.yaml",
    "reports/weights/study-stage1.npz",
    "reports/weights/study-vocabulary.model",
    "reports/tables/30_stage2-training_world_study.csv",
)
AGAIN = "unpack the bundle again into an empty folder, or take a fresh clone"


class NotReady(Exception):
    """What is missing, and what to do, in one sentence."""


def python(version: tuple[int, ...] = sys.version_info[:2]) -> None:
    """Raises NotReady for a Python that is too old or too new."""
    if not OLDEST <= tuple(version[:2]) <= NEWEST:
        shown, low, high = (".".join(map(str, v[:2])) for v in (version, OLDEST, NEWEST))
        raise NotReady(
            f"this is Python {shown}, and the class needs {low} to {high}: install one of them"
        )


def packages() -> None:
    """Raises NotReady for packages that are missing."""
    if missing := [name for name in PACKAGES if importlib.util.find_spec(name) is None]:
        raise NotReady(
            f"{', '.join(missing)} missing: run start.sh of the bundle (or make setup), and use its Jupyter"
        )


def parts(root: Path) -> None:
    """Raises NotReady for parts of the course that are not there."""
    if missing := [name for name in NEEDED if not (root / name).is_file()]:
        raise NotReady(f"{missing[0]} is missing in {root}: {AGAIN}")


def forward(root: Path) -> float:
    """Cosine of a clip with its own sentence minus that with the best of four others, by the shipped
    weights. Raises NotReady if they cannot be read or the right sentence is not first.
    """
    import jax.numpy as jnp
    import numpy as np

    from vplib.data.text import Tokenizer
    from vplib.model import checkpoints, encoders
    from vplib.world import corpora

    weights = root / "reports" / "weights"
    try:
        model = checkpoints.load(weights / "study-stage1.npz")
        tokenizer = Tokenizer(weights / "study-vocabulary.model", 32)
    except (OSError, ValueError) as error:
        raise NotReady(
            f"the weights cannot be read ({' '.join(str(error).split())}): {AGAIN}"
        ) from None
    frames, _, _ = corpora.clip("retrieval/test", 8, resolution=48)
    video = encoders.pixels(jnp.asarray(frames[:: len(frames) // 8][:8]))[None]
    texts = [corpora.text("retrieval/test", i)[0] for i in (8, 9, 10, 11, 12)]
    similarity = np.asarray(
        model.encode_text(*map(jnp.asarray, tokenizer(texts))) @ model.encode_video(video)[0]
    )
    gap = float(similarity[0] - similarity[1:].max())
    if not gap > 0:
        raise NotReady(f"the model does not find the clip's own sentence ({gap:.2f}): {AGAIN}")
    return gap


def look(root: Path) -> str:
    """One green sentence. Raises NotReady."""
    start = time.monotonic()
    python()
    packages()
    parts(root)
    gap = forward(root)
    return f"everything is there, and a clip found its sentence by {gap:.2f} ({time.monotonic() - start:.0f} s)"


def main(root: Path) -> int:
    """Print the answer, in colour where a terminal shows it; 0 for green."""
    try:
        sentence, colour, word = look(root), 32, "GREEN"
    except NotReady as error:
        sentence, colour, word = str(error), 31, "RED"
    mark = f"\033[{colour}m{word}\033[0m" if sys.stdout.isatty() else word
    print(f"{mark}: {sentence}")
    return 0 if word == "GREEN" else 1


if __name__ == "__main__":
    sys.exit(main(Path(__file__).resolve().parents[2]))
