# %% [markdown]
# # Session 2 · What captions teach
#
# You will write the contrastive loss three times, from a loop to a form that never holds all similarities, and train on
# captions of which half are wrong. Needs: lesson [02](../../notebooks/02_contrastive.ipynb). About 60 minutes; the
# longest cell takes under a minute. Symbols are those of the [notation card](../notation.md), terms those of the
# [glossary](../glossary.md).
#
# Replace each line that begins with `raise`, and each `None`, then run the check below it. Nothing here needs a network.
# %% [setup]
# %%
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd

from vplib.course import check
from vplib.method import losses
from vplib.world import corpora

check.begin("session2")
# %% [markdown]
# ## Warm-up
#
# **2.1** A model that knows nothing gives every text the same similarity. What is its loss, in nats, in a batch of 4,096?
# %%
# solution
chance = math.log(4096)
# end
# %%
check.number(
    "2.1",
    chance,
    math.log(4096),
    step=0.01,
    hints={
        12.0: "that is in bits: use the natural logarithm",
        math.log10(4096): "that is a logarithm to base ten: use the natural one",
        2 * math.log(4096): "the loss is the mean of the two games, not their sum",
        1 / 4096: "that is the probability of guessing right: the loss is its negative logarithm",
    },
)
# %% [markdown]
# **2.2** A batch of 65,536, and 512 rows of similarities at a time in float32: how many MiB (2²⁰ bytes) do they take?
# %%
# solution
mebibytes = 4 * 65536 * 512 / 2**20
# end
# %%
check.number(
    "2.2",
    mebibytes,
    128,
    step=1,
    hints={
        16384: "that is the whole matrix: only 512 rows exist at once",
        32: "a number in float32 takes four bytes",
        134: "that is in megabytes of 10⁶ bytes: a MiB has 2²⁰",
        1: "that is 512 x 512: a row has all 65,536 texts",
    },
)
# %% [markdown]
# **2.3** Predict: encoders are perfect, clips share no facts, half of the texts describe a clip outside the batch of 64. As
# the temperature goes to zero, right pairs cost nothing. What does the loss go to, in nats?
# %%
# solution
spoilt = 0.5 * math.log(64)
# end
# %%
check.number(
    "2.3",
    spoilt,
    0.5 * math.log(64),
    step=0.01,
    hints={
        math.log(
            64
        ): "that is the loss when all texts are wrong: half of them are right and cost nothing",
        0: "that is the loss without wrong texts: a wrong one is a guess among 64",
        math.log(2): "it is not a coin: for a wrong text all 64 clips look alike",
        math.log(
            32
        ): "a wrong text is compared with all 64 clips, and only half of the texts are wrong",
    },
)


# %% [markdown]
# ## Core
#
# **2.4** InfoNCE as a loop. `video` and `text` are (B, E) of unit length, text i belongs to clip i; logits are cosines
# divided by the temperature. For each clip, the surprise -log softmax at its own text; for each text, at its own clip; the
# mean of the two, over the batch:
#
# $$\frac{1}{2B}\sum_i\left[\log\sum_j e^{s_{ij}} - s_{ii} + \log\sum_j e^{s_{ji}} - s_{ii}\right]$$
#
# $$s_{ij} = \frac{v_i\cdot t_j}{\tau}$$
# %%
def info_nce_naive(video, text, temperature):
    # solution
    total, b = 0.0, len(video)
    for i in range(b):
        of_clip = [float(video[i] @ text[j]) / temperature for j in range(b)]
        of_text = [float(video[j] @ text[i]) / temperature for j in range(b)]
        for logits in (of_clip, of_text):
            total += math.log(sum(math.exp(s) for s in logits)) - logits[i]
    return total / (2 * b)
    # end


# %%
check.function("2.4", info_nce_naive)


# %% [markdown]
# **2.5** The same without a loop, in `jax.numpy`, so that gradients come through. `jax.nn.logsumexp(x, axis)` helps.
# %%
def info_nce(video, text, temperature):
    # solution
    logits = video @ text.T / temperature
    over = jax.nn.logsumexp(logits, 1) + jax.nn.logsumexp(logits, 0)
    return (over - 2 * jnp.diagonal(logits)).mean() / 2
    # end


# %%
check.function("2.5", info_nce)


# %% [markdown]
# **2.6** The same once more in numpy, `chunk` clips at a time, so that only (chunk, B) logits exist. A row is complete in
# its chunk; the sum of a column goes on in the next. Keep the largest logit of each column so far and scale the old sum
# when a larger one comes.
# %%
def streamed(video, text, temperature, chunk):
    # solution
    highest, total, rows = np.full(len(text), -np.inf), np.zeros(len(text)), 0.0
    for start in range(0, len(video), chunk):
        logits = video[start : start + chunk] @ text.T / temperature
        top = logits.max(1)
        rows += (top + np.log(np.exp(logits - top[:, None]).sum(1))).sum()
        new = np.maximum(highest, logits.max(0))
        total = total * np.exp(highest - new) + np.exp(logits - new).sum(0)
        highest = new
    own = (video * text).sum() / temperature
    return (rows + (highest + np.log(total)).sum() - 2 * own) / (2 * len(video))
    # end


# %%
check.function("2.6", streamed)


# %% [markdown]
# **2.7** Retrieval: the share, from 0 to 1, of texts whose own clip is the most similar of all (R@1, text to video).
# %%
def recall(video, text):
    # solution
    nearest = (video @ text.T).argmax(0)
    return (nearest == np.arange(len(text))).mean()
    # end


# %%
check.function("2.7", recall)


# %% [markdown]
# **2.8** Spoil captions as speech does, which talks about what comes next: return `count` whole numbers, the clip that each
# text describes. About a share `rate` of them, drawn with `rng`, describe the next clip (the one after the last is the
# first), the others their own.
# %%
def spoil(count, rate, rng):
    # solution
    return (np.arange(count) + (rng.random(count) < rate)) % count
    # end


# %%
check.function("2.8", spoil)
# %% [markdown]
# ## Open
#
# **2.9** Two linear maps learn from 2,048 pairs of made-up clips and texts. A share of the training texts is spoilt by your
# function; the 256 test pairs are right. *Predict first: at 50% wrong texts, what are the last training loss and R@1 on test
# pairs?* Then run it and explain: is a low loss a good model? Must wrong captions be filtered out first?
# %%
rng = np.random.default_rng(0)
CLIPS, TEST, WIDTH = 2048, 256, 32


def unit(x):
    return x / jnp.linalg.norm(x, axis=1, keepdims=True)


facts = rng.normal(size=(CLIPS + TEST, WIDTH))  # what is true of each clip
views = [facts @ rng.normal(size=(WIDTH, 64)) + rng.normal(size=(len(facts), 64)) for _ in range(2)]
clips, texts = (np.float32(view / view.std()) for view in views)
optimiser = optax.adam(3e-3)


@jax.jit
def train_step(maps, state, video, text):
    def loss(maps):
        return losses.contrastive(unit(video @ maps[0]), unit(text @ maps[1]), 1 / 0.07)

    value, gradient = jax.value_and_grad(loss)(maps)
    change, state = optimiser.update(gradient, state)
    return optax.apply_updates(maps, change), state, value


def learn(rate, steps=400, batch=128):
    """The last loss on training batches, and R@1 of the test pairs."""
    rng = np.random.default_rng(1)
    told = texts[spoil(CLIPS, rate, rng)]
    maps = [jnp.float32(0.1 * rng.normal(size=(64, 32))) for _ in range(2)]
    state, seen = optimiser.init(maps), []
    for _ in range(steps):
        some = rng.choice(CLIPS, batch, replace=False)
        maps, state, value = train_step(maps, state, clips[some], told[some])
        seen.append(float(value))
    held_out = [np.asarray(unit(x[CLIPS:] @ m)) for x, m in zip((clips, texts), maps, strict=True)]
    return np.mean(seen[-20:]), recall(*held_out)


try:
    rows = [(rate, *learn(rate)) for rate in (0.0, 0.3, 0.5, 0.9)]
    print(
        pd.DataFrame(rows, columns=["wrong texts", "last loss (nats)", "R@1 of test pairs"]).round(
            2
        )
    )
except check.NotDone:
    print("this needs your functions of 2.7 and 2.8")
# %%
answer = """
"""
# solution
answer = """The loss rises with the rate, because a wrong text can only be guessed, but R@1 on right pairs hardly falls
until most texts are wrong: errors point in random directions and cancel, right pairs all point the same way.
So the loss measures the captions as much as the model, and wrong captions need not be filtered out first."""
# end
# %%
check.written("2.9", answer)


# %% [solution]
# **Model answer.** The loss measures the captions as much as the model: it cannot fall below what the wrong texts cost. R@1 on
# right pairs stays high far beyond one half, because wrong pairs agree on nothing while right pairs all pull in the same
# direction. So losses at different noise rates do not compare, and filtering is a question of cost, not of possibility. It
# ends where wrong texts are most of them, or where they are wrong in a *systematic* way (a shortcut).
#
# | Points | For |
# |---|---|
# | 0 | only reads off numbers |
# | 1 | says that loss and test score part ways |
# | 2 | also why errors cancel, or when they would not |
# %% [markdown]
# **2.10** Appearance alone: leave the motions out of what is known of a clip and count clips that have a twin in appearance.
# At what batch size does contrastive learning start to pay for motion, and what does that say about the first stage?
# %%
def appearance(scene):
    things = sorted((thing.shape, thing.colour) for thing in scene.objects)
    return scene.background, scene.camera, *things


looks = [appearance(corpora.scene("yt180m", i)) for i in range(4096)]
for b in (64, 256, 1024, 4096):
    first = pd.Series(looks[:b])
    print(f"of the first {b:5} clips {int(first.duplicated(keep=False).sum()):5} have a twin")
# %%
answer = """
"""
# solution
answer = """In a batch of 64 appearance tells nearly all clips apart, so the loss has no reason to look at motion; only in
batches of thousands do many clips look alike, and then motion is what decides between them. A small first stage
therefore learns appearance and leaves motion alone, which is what the second stage is for."""
# end
# %%
check.written("2.10", answer)
# %% [solution]
# **Model answer.** Contrastive learning pays only for what tells the clips *of this batch* apart. In 64 clips appearance does, so
# motion earns nothing; with thousands, many clips have a twin and motion begins to decide. The paper's batches are of
# thousands, ours of 64 to 128; also, few captions name a motion at all (`11_corpus_statistics`).
#
# | Points | For |
# |---|---|
# | 0 | "bigger batches are better" |
# | 1 | connects twins with the need for motion |
# | 2 | also says what it means for the first stage, or adds that captions seldom name motion |
# %% [markdown]
# ## How far you are
# %%
check.summary()
# %%
check.hand_in(student="")
