# %% [markdown]
# # Session 5 · How many devices train one model
#
# You will write what devices say to each other, and three losses of which two are wrong without an error. Needs: lesson
# [05](../../notebooks/05_scaling_out.ipynb). About 75 minutes, no training, no accelerator: the devices are the first axis of an
# array. Symbols are those of the [notation card](../notation.md), terms those of the [glossary](../glossary.md).
#
# Replace each line that begins with `raise`, and each `None`, then run the check below it. Nothing here needs a network.
# %% [setup]
# %%
import math

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from vplib.course import check
from vplib.method import losses

check.begin("session5")
# %% [markdown]
# ## Warm-up
#
# **5.1** An array of 64 vectors of 32 numbers is split over eight devices with `P("data")`. How many numbers has device 3?
# %%
# solution
on_device = 64 // 8 * 32
# end
# %%
check.number(
    "5.1",
    on_device,
    256,
    step=1,
    hints={
        2048: "that is the whole array: it is split, P() would be a copy",
        8: "so many vectors: each has 32 numbers",
        32: "that splits both axes: P names the mesh for the first one only",
    },
)
# %% [markdown]
# **5.2** A global batch of 64 pairs, eight devices. Each looks at its own pairs alone. What is the loss, in nats, of a model that
# knows nothing?
# %%
# solution
chance = math.log(64 / 8)
# end
# %%
check.number(
    "5.2",
    chance,
    math.log(8),
    step=0.01,
    hints={
        math.log(64): "that is the chance of the whole batch: a device sees eight pairs",
        math.log(64) / 8: "a mean over devices is no eighth: each of them pays the same",
        3.0: "that is in bits: use the natural logarithm",
    },
)
# %% [markdown]
# **5.3** A model has 1.1 billion parameters. Parameters, gradients and Adam's two moments are float32 and all split over eight devices
# (FSDP). How many GB (10⁹ bytes) has each, before activations?
# %%
# solution
gigabytes = 1.1 * 4 * 4 / 8
# end
# %%
check.number(
    "5.3",
    gigabytes,
    2.2,
    step=0.01,
    hints={
        17.6: "that is one device alone: FSDP keeps an eighth on each",
        0.55: "those are the parameters: gradients and two moments are as large, each",
        1.65: "that is three arrays: parameters, gradients and two moments are four",
        1.1: "that is two arrays: Adam has two moments beside parameters and gradients",
    },
)


# %% [markdown]
# ## Core
#
# **5.4** All-reduce. `gradients` (D, P) has a row a device: its gradient of the mean loss over its own clips. Return what each device
# holds after the exchange, (D, P), so that all take the same step as one device with the whole batch would.
# %%
def all_reduce(gradients):
    # solution
    return np.repeat(gradients.mean(0, keepdims=True), len(gradients), axis=0)
    # end


# %%
check.function("5.4", all_reduce)


# %% [markdown]
# **5.5** Reduce-scatter. Of the **sum** of the rows of `gradients` (D, P), device d keeps the d-th of D equal parts: return (D, P / D).
# %%
def reduce_scatter(gradients):
    # solution
    return gradients.sum(0).reshape(len(gradients), -1)
    # end


# %%
check.function("5.5", reduce_scatter)


# %% [markdown]
# **5.6** The contrastive loss on device `d`. `v` and `t` (D, b, E) are vectors of length one; suppose that those of all devices were
# gathered. Return the mean, over the **own** b pairs, of both directions against **all** D·b, as in exercise 2.4: the mean over
# devices is then the loss of the whole batch.
# %%
def own_rows(v, t, scale, d):
    # solution
    clips, texts = v.reshape(-1, v.shape[-1]), t.reshape(-1, t.shape[-1])
    of_clip = np.log(np.exp(scale * v[d] @ texts.T).sum(1))
    of_text = np.log(np.exp(scale * t[d] @ clips.T).sum(1))
    return np.mean(of_clip + of_text - 2 * scale * (v[d] * t[d]).sum(1)) / 2
    # end


# %%
check.function("5.6", own_rows)


# %% [markdown]
# **5.7** Traffic. In a ring of D devices an all-reduce of P numbers sends 2·P·(D - 1)/D of them from each device, a gather or a scatter
# half of that. `split=False`: one all-reduce of gradients. `split=True` (FSDP): parameters are gathered forward and again
# backward, gradients scattered. Return the bytes that a device sends in a step, in float32.
# %%
def traffic(count, devices, split):
    # solution
    once = 4 * count * (devices - 1) / devices
    return 3 * once if split else 2 * once
    # end


# %%
check.function("5.7", traffic)


# %% [markdown]
# **5.8** Gradient accumulation. The gradients of `k` parts of the batch, of consecutive pairs, are averaged. Which loss is minimised?
# `v` and `t` are (B, E); return its value.
# %%
def accumulated(v, t, scale, k):
    # solution
    parts = zip(np.split(v, k), np.split(t, k), strict=True)
    return np.mean([own_rows(a[None], b[None], scale, 0) for a, b in parts])
    # end


# %%
check.function("5.8", accumulated)


# %% [markdown]
# ## Open
#
# **5.9** Three ways to train the same two linear maps on 64 pairs over "eight devices": gathered, each device alone, and gathered but
# cut off from the gradient. Shown are the loss that each way reports and the true loss of all 64 pairs, at the start and after 60
# steps. A colleague's run looks like the second row, another's like the third. How would each of them notice, from
# what a training logs? Write the test that finds both before any training.
# %%
def unit(x):
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def reported(maps, clips, texts, way, devices=8):
    v, t = unit(clips @ maps[0]), unit(texts @ maps[1])
    if way == "gathered":
        return losses.contrastive(v, t, 10.0)
    parts = [x.reshape(devices, -1, x.shape[-1]) for x in (v, t)]
    if way == "alone":
        return jax.vmap(lambda a, b: losses.contrastive(a, b, 10.0))(*parts).mean()
    clips_, texts_ = jax.lax.stop_gradient((v, t))  # cut off
    of_clip = jax.nn.logsumexp(10.0 * v @ texts_.T, axis=1)
    of_text = jax.nn.logsumexp(10.0 * t @ clips_.T, axis=1)
    return (of_clip + of_text - 2 * 10.0 * (v * t).sum(1)).mean() / 2


rng = np.random.default_rng(0)
facts = rng.normal(size=(64, 12))
clips, texts = (
    jnp.float32(facts @ rng.normal(size=(12, 32)) + rng.normal(size=(64, 32))) for _ in range(2)
)
start = [jnp.float32(rng.normal(size=(32, 16)) / 6) for _ in range(2)]
rows = {}
for way in ("gathered", "alone", "cut off"):
    maps, told = (
        start,
        jax.jit(jax.value_and_grad(lambda m, way=way: reported(m, clips, texts, way))),
    )
    seen = []
    for _ in range(61):
        value, gradient = told(maps)
        seen.append((float(value), float(reported(maps, clips, texts, "gathered"))))
        maps = [m - 0.3 * g for m, g in zip(maps, gradient, strict=True)]
    names = ("reports at first", "truth at first", "reports at last", "truth at last")
    rows[way] = dict(zip(names, (*seen[0], *seen[-1]), strict=True))
pd.DataFrame(rows).T.round(2)
# %%
answer = """
"""
# solution
answer = """Alone: the reported loss begins near log 8 instead of log 64 and is always too low, so the first logged value
already tells. Cut off: the first value is right, but the training differs. The test: loss and gradient of one step on eight
devices must equal those on one device with the same batch; the first run fails at the loss, the second at the gradient."""
# end
# %%
check.written("5.9", answer)
# %% [solution]
# **Model answer.** *Alone* reports the loss of a smaller game: at chance log 8, not log 64. Whoever knows what chance is for the global
# batch sees it in the first line of the log. *Cut off* reports the right loss for its weights; only its path is another one,
# and from a curve alone nobody knows which path is right: here it even reaches a value that looks like a training. So
# compare **gradients**, not losses: one step, one batch, on one device and on eight, to rounding. That test finds both.
#
# | Points | For |
# |---|---|
# | 0 | "the loss is wrong" for both |
# | 1 | chance of the smaller game for the second row |
# | 2 | also that only the gradient tells the third, as a test |
# %% [markdown]
# **5.10** The batch of the paper's first stage grows from 4,096 to 65,536, on 64 devices. Below, what a device holds. Which of the rows
# runs out first on 16 GB, and which of them does "more devices" not help? What would you change first?
# %%
sizes = {}
for batch in (4096, 65536):
    own, width, tokens, layers = batch / 64, 768, 8 * 256, 16
    sizes[f"B = {batch:,}"] = {
        "all logits at once": 4 * batch**2 / 64,
        "logits, 512 rows at a time": 4 * 512 * batch,
        "vectors of all, gathered": 2 * 4 * batch * width,
        "one activation a layer, bfloat16": 2 * own * tokens * width * layers,
    }
pd.DataFrame(sizes).div(1e9).map(lambda gigabytes: f"{gigabytes:.3g} GB")
# %%
answer = """
"""
# solution
answer = """Activations run out first: they grow with the clips of a device and are far above sixteen gigabytes at the large
batch. More devices halve them, but not the gathered vectors, which every device holds whole, nor the streamed rows. I would
recompute activations in the backward pass or add devices before touching the loss, whose logits can be streamed."""
# end
# %%
check.written("5.10", answer)
# %% [solution]
# **Model answer.** The activations: 1,024 clips a device with one stored activation a layer are already more than 16 GB, and a block
# stores several. More devices divide them and the logits of the own rows, but not the gathered vectors (0.4 GB, whole on
# each device) and not a streamed block of rows. First change: rematerialise activations, or more devices; only then the loss.
# Accumulating gradients is no way out, see 5.8, unless all vectors are computed first (GradCache).
#
# | Points | For |
# |---|---|
# | 0 | "the logits", by feeling |
# | 1 | reads off activations, and that devices divide them |
# | 2 | also what is not divided, or why accumulation is no way out |
# %% [markdown]
# ## How far you are
# %%
check.summary()
# %%
check.hand_in(student="")
