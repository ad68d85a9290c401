"""Prediction over a long video: its time beside that of encoding its windows alone, and its memory.

    python benchmarks/long_video.py            prints
    python benchmarks/long_video.py --windows 5 --repeats 1    for a busy machine

At the released base size (random weights), by `vplib.predict` itself, from its files to
the table: (1) of a video of 1280x720 at 25 frames a second, seconds that it takes over those of
encoding as many windows that are there already, taking turns, and the same of processor seconds,
which other programs hardly disturb; a first call of both does not count. (2) The most memory that a
process holds which does this, and one that looks at a few windows of an hour. (3) The same with
`model=tiny`, over every window of an hour and of a minute: what memory grows by with 60 times the
length. An hour at base size itself takes as long as its 1800 windows, and is not run.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from vplib import environment

environment.restart(pinned=False)  # as `vplib.predict`, before jax starts

import jax
import numpy as np
import psutil
from common import machine
from flax import nnx

from vplib import config, predict
from vplib.data import video
from vplib.evaluate import classify, features
from vplib.model import frozen
from vplib.model.encoders import VideoClassifier
from vplib.model.sizes import Sizes

CLASSES = 10
BARS = {"predict_over_encoding": "<= 1.1", "memory_base": "<= 3", "memory_growth_tiny": "<= 0.1"}


def encode(frames: int, width: int, height: int, fps: float) -> bytes:
    """A video of so many frames, of noise that moves: as costly to decode as a real one, or more."""
    tile = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8 + 64, 3), np.uint8)
    tile = tile.repeat(8, 0).repeat(8, 1)
    return video.encode((tile[:, 2 * k % 512 :][:, :width] for k in range(frames)), fps)


def save(model: str, folder: Path) -> None:
    sizes = Sizes.of(config.check("30_stage2", f"scale=smoke model={model}").model)
    classifier = VideoClassifier(replace(sizes, classes=CLASSES), rngs=nnx.Rngs(0))
    names = [f"class {k}" for k in range(CLASSES)]
    classify.save(classifier, names, folder, encoder=f"{model}, random")


def call(folder: Path, path: Path, window: float) -> None:
    """`vplib.predict`, in this process."""
    with tempfile.TemporaryDirectory() as out:
        words = [str(folder), str(path), "--timeline", out, "--window", str(window)]
        sys.argv = ["predict", *words]
        try:
            predict.main()
        except SystemExit as done:
            assert done.code == 0, done.code


def ratios(folder: Path, path: Path, windows: int, repeats: int) -> np.ndarray:
    """Seconds, and processor seconds, of predicting all windows of a video over those of encoding
    as many, by turns.
    """
    dtype = features.precision("auto", own=True)
    classifier, names, _ = classify.restore(folder)
    run = partial(classify._probabilities, *frozen.apart(classifier, dtype), dtype=dtype)
    along = classify.along(classifier, dtype, length=predict.WINDOW, stride=predict.WINDOW)
    reading = classify.view(classifier.encoder)
    shape = (1, reading["frames"], reading["size"], reading["size"], 3)
    clip = np.random.default_rng(0).integers(0, 256, shape, np.uint8)

    def predicted():
        with tempfile.TemporaryDirectory() as out:
            seen = along(path)
            predict._write(seen, names, Path(out) / "long")
        assert len(seen.values) == windows

    def alone():
        for _ in range(windows):
            jax.block_until_ready(run(clip))

    def took(work) -> np.ndarray:
        start = np.array([time.perf_counter(), time.process_time()])
        work()
        return np.array([time.perf_counter(), time.process_time()]) - start

    found = []
    for repeat in range(repeats + 1):
        ours, least = took(predicted), took(alone)
        print(
            f"  {repeat or 'warm-up'}: predict {ours.round(1)} s, alone {least.round(1)} s",
            flush=True,
        )
        found.append(ours / least)
    return np.array(found[1:])


def peak(folder: Path, path: Path, window: float) -> tuple[float, float]:
    """GiB that a process of its own held at most while it predicted, and at its end."""
    words = [sys.executable, __file__, "--worker", folder, path, str(window)]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
    return tuple(json.loads(done.stdout.splitlines()[-1]))


def held() -> list[float]:
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    unit = 1 if sys.platform == "darwin" else 1024
    return [most * unit / 2**30, psutil.Process().memory_info().rss / 2**30]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--windows", type=int, default=10, help="at base size")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        folder, path, window = given.worker
        call(Path(folder), Path(path), float(window))
        return print(held())
    print(json.dumps(machine()))
    with tempfile.TemporaryDirectory() as place:
        place = Path(place)
        for model in ("tiny", "base"):
            save(model, place / model)
        files = {
            "busy": encode(round(25 * predict.WINDOW * given.windows), 1280, 720, 25),
            "hour": encode(3600 * 10, 96, 64, 10),
            "minute": encode(60 * 10, 96, 64, 10),
            "slow hour": encode(3600, 640, 360, 1),
        }
        for name, data in files.items():
            (place / f"{name}.mp4").write_bytes(data)
        minute, hour = (
            np.array(peak(place / "tiny", place / f"{name}.mp4", predict.WINDOW))
            for name in ("minute", "hour")
        )
        grown = (hour - minute).max()
        print(f"memory_growth_tiny: {grown:.3f} GiB (bar {BARS['memory_growth_tiny']})")
        print(f"  at most and at the end: a minute {minute}, an hour {hour}", flush=True)
        stretches = {"busy": predict.WINDOW, "slow hour": 3600 / given.windows}
        most = {
            name: peak(place / "base", place / f"{name}.mp4", window)[0]
            for name, window in stretches.items()
        }
        print(f"memory_base: {max(most.values()):.2f} GiB (bar {BARS['memory_base']})")
        print(f"  {most}", flush=True)
        found = ratios(place / "base", place / "busy.mp4", given.windows, given.repeats)
        for kind, ratio in zip(("", "_processor"), found.T, strict=True):
            print(
                f"predict_over_encoding{kind}: {np.median(ratio):.3f} [{ratio.min():.3f}, "
                f"{ratio.max():.3f}], {given.windows} windows (bar {BARS['predict_over_encoding']})"
            )


if __name__ == "__main__":
    main()
