"""What masking saves: the encoder's time, forward and backward, on visible tokens and on all.

    python benchmarks/visible_cost.py            prints
    python benchmarks/visible_cost.py --record   also writes rows of reports/tables/headline.csv

Both passes are measured in one process, taking turns, so that whatever else the machine does meets
both alike. Sizes are those of `model=tiny`; the second line has as many tokens as the released
base model (16 frames of 256) at tiny's width, where attention weighs more than in any real model.
Minutes on 2 CPU cores.
"""

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from vplib import environment

environment.restart()  # as in every run, before jax starts

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from vplib import config, paths, results
from vplib.method.masking import draw_mask, visible_count
from vplib.model.encoders import VideoEncoder
from vplib.model.sizes import Sizes


def seconds(run, *inputs) -> float:
    start = time.perf_counter()
    jax.block_until_ready(run(*inputs))
    return time.perf_counter() - start


def measure(
    sizes: Sizes, *, batch: int, mask: str, mask_ratio: float, repeats: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """Seconds of each repeat, dense and on visible tokens, and the share that is visible."""
    encoder = VideoEncoder(sizes, rngs=nnx.Rngs(0))
    shape = (batch, sizes.frames, sizes.size, sizes.size, 3)
    video = jax.random.uniform(jax.random.key(0), shape)
    visible = draw_mask(
        mask, mask_ratio, jax.random.key(1), batch=batch, frames=sizes.frames, grid=sizes.grid
    )
    dense = jax.jit(jax.grad(lambda encoder, video: jnp.square(encoder(video)).mean()))
    masked = jax.jit(
        jax.grad(lambda encoder, video, visible: jnp.square(encoder(video, visible=visible)).mean())
    )
    times = []
    for _ in range(repeats + 2):  # the first ones compile and warm up
        times.append((seconds(dense, encoder, video), seconds(masked, encoder, video, visible)))
    dense_times, masked_times = np.array(times[2:]).T
    share = visible_count(sizes.places, mask_ratio) / sizes.places
    return dense_times, masked_times, share


def interval(ratios: np.ndarray) -> tuple[float, float]:
    """95% bootstrap interval of the median of paired ratios."""
    drawn = np.random.default_rng(0).choice(ratios, (2000, len(ratios)))
    low, high = np.percentile(np.median(drawn, axis=1), [2.5, 97.5])
    return float(low), float(high)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--record", action="store_true", help="write the rows into reports/tables/headline.csv"
    )
    parser.add_argument("--repeats", type=int, default=30, help="measurements of each pass")
    options = parser.parse_args()
    cfg = config.load("30_stage2", "scale=smoke model=tiny tag=visible_cost")
    tiny = Sizes.of(cfg.model)
    cases = {
        "visible_cost_ratio": (tiny, 32),
        "visible_cost_ratio_base_tokens": (replace(tiny, frames=16, size=16 * tiny.patch), 1),
    }
    rows = []
    for name, (sizes, batch) in cases.items():
        dense, masked, share = measure(
            sizes,
            batch=batch,
            mask=cfg.stage2.mask,
            mask_ratio=cfg.stage2.mask_ratio,
            repeats=options.repeats,
        )
        ratio, (low, high) = float(np.median(masked / dense)), interval(masked / dense)
        print(
            f"{name}: {ratio:.3f} [{low:.3f}, {high:.3f}] of dense; dense {1e3 * np.median(dense):.1f} ms, visible "
            f"{1e3 * np.median(masked):.1f} ms, {share:.3f} of the tokens, {sizes.frames} frames, batch {batch}"
        )
        rows.append(
            {"name": name, "value": ratio, "low": low, "high": high, "unit": "of the dense pass"}
        )
    if options.record:
        out = paths.RUNS / "visible_cost" / paths.tag("world", "benchmark")
        command = "python benchmarks/visible_cost.py --record"
        results.write(out, rows, scale="benchmark", command=command, timing=True)
        results.build("world")


if __name__ == "__main__":
    main()
