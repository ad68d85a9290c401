# %% [markdown]
# # Session 3 · What hiding teaches
#
# You will write masks, the shuffle of Algorithm 1 and both losses of the second stage, then read real training curves and a
# real confusion table. Needs: lesson [03](../../notebooks/03_masking_and_shuffling.ipynb). About 60 minutes, no training.
# Symbols are those of the [notation card](../notation.md), terms those of the [glossary](../glossary.md).
#
# Replace each line that begins with `raise`, and each `None`, then run the check below it. Nothing here needs a network.
# %% [setup]
# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from vplib import figures, paths
from vplib.course import check

figures.style()
TABLES = paths.ROOT / "reports" / "tables"
check.begin("session3")
# %% [markdown]
# ## Warm-up
#
# **3.1** A frame has 256 places and the mask ratio is 0.65; the number of hidden places is rounded. How many stay visible?
# %%
# solution
stay = 256 - round(0.65 * 256)
# end
# %%
check.number(
    "3.1",
    stay,
    90,
    step=1,
    hints={
        166: "those are hidden: the ratio says how many are",
        179: "that is 0.7 of them: take 1 - 0.65",
        1440: "that is a clip of 16 frames: the question is about one frame",
    },
)
# %% [markdown]
# **3.2** A decoder looks at nothing and always says the same vector. The target tokens have length one, and their mean has
# length 0.366. What is the least mean cosine distance it can reach?
# %%
# solution
blind = 1 - 0.366
# end
# %%
check.number(
    "3.2",
    blind,
    0.634,
    step=0.001,
    hints={
        0.366: "that is the mean similarity: the distance is one minus it",
        1.0: "that is what a random direction gets: the direction of the mean does better",
        round(
            1 - 0.366**2, 3
        ): "the similarity with the mean's direction is its length, not its square",
    },
)
# %% [markdown]
# **3.3** In VideoPrism-B with 16 frames the student's *forward* pass costs 0.34 of the teacher's. A backward pass costs twice
# a forward one; the teacher is frozen and has none. What does the student cost in a training step, in teacher passes?
# %%
# solution
cost = 3 * 0.34
# end
# %%
check.number(
    "3.3",
    cost,
    1.02,
    step=0.01,
    hints={
        0.34: "that is forward only: the student also goes backward, at twice the cost",
        0.68: "that is backward only: forward comes on top",
        0.51: "backward costs twice as much as forward, not half",
    },
)


# %% [markdown]
# ## Core
#
# **3.4** Draw a random mask of one frame: the numbers of the visible places, in increasing order, exactly
# `tokens - round(ratio * tokens)` of them.
# %%
def visible(rng, tokens, ratio):
    # solution
    return np.sort(rng.permutation(tokens)[: tokens - round(ratio * tokens)])
    # end


# %%
check.function("3.4", visible)


# %% [markdown]
# **3.5** `order` shuffles tokens: slot s takes token `order[s]`. Return the permutation that undoes it:
# `x[order][inverse]` is x.
# %%
def inverse_of(order):
    # solution
    inverse = np.empty_like(order)
    inverse[order] = np.arange(len(order))
    return inverse
    # end


# %%
check.function("3.5", inverse_of)


# %% [markdown]
# **3.6** Algorithm 1, for one clip. `seen` (V, D) are the visible tokens. Append the mask token (D,) once for each hidden
# place, up to S tokens; shuffle: slot s takes token `order[s]`; **then** add `positions` (S, D), slot by slot.
# %%
def decoder_input(seen, mask_token, positions, order):
    # solution
    hidden = np.tile(mask_token, (len(positions) - len(seen), 1))
    return np.concatenate([seen, hidden])[order] + positions
    # end


# %%
check.function("3.6", decoder_input)


# %% [markdown]
# **3.7** Cosine distance, 1 - cos, of each pair of vectors along the last axis.
# %%
def cosine_distance(student, teacher):
    # solution
    lengths = np.linalg.norm(student, axis=-1) * np.linalg.norm(teacher, axis=-1)
    return 1 - (student * teacher).sum(-1) / lengths
    # end


# %%
check.function("3.7", cosine_distance)


# %% [markdown]
# **3.8** The loss of stage 2. `local` and `local_target` are (B, S, D), the predicted and the teacher's tokens; `masked`
# (B, S) is 1 where the student saw nothing; `whole` and `whole_target` are (B, D), one vector a clip. The paper takes the mean
# distance over **all** tokens, adds the mean distance of the clip vectors, and gives both weight one.
# %%
def stage2_loss(local, local_target, masked, whole, whole_target):
    # solution
    tokens = cosine_distance(local, local_target).mean()
    return tokens + cosine_distance(whole, whole_target).mean()
    # end


# %%
check.function("3.8", stage2_loss)
# %% [markdown]
# ## Open
#
# **3.9** The curves of two committed trainings of stage 2: the distance of all tokens, and of hidden ones alone. The share of
# slots that are shuffled grows up to the grey line. What happens to both curves while it grows, and what right after? Why does
# the gap between them shrink, and why do *hidden* tokens gain from a shuffle that only makes it harder to use visible
# ones? At which distance could a decoder stand without looking?
# (Curves without shuffle, and without its warm-up: **not yet run**; they will be read beside these.)
# %%
fig, axes = plt.subplots(1, 2, figsize=(figures.PAGE, 2.2), sharey=True)
for ax, (scale, warm) in zip(axes, {"lesson": 3000, "study": 6000}.items(), strict=True):
    curve = pd.read_csv(TABLES / f"30_stage2-training_world_{scale}.csv")
    ax.plot(curve.step, curve.local, color=figures.BLUE, label="all tokens")
    ax.plot(curve.step, curve.local_masked, color=figures.OURS, ls="--", label="hidden tokens")
    ax.axvline(warm, color=figures.MID, lw=0.8)
    ax.set(xlabel=f"step, {scale}", ylim=(0, 1))
axes[0].set_ylabel("cosine distance")
axes[1].legend()
# %%
answer = """
"""
# solution
answer = """Both distances fall, rise again in the second half of the warm-up when ever fewer visible tokens can be copied from
their own slot, and fall for good once all slots are shuffled. The gap shrinks because visible tokens must now be placed, too.
To be placed, tokens must say where they are and what is around them, which helps hidden slots. The best constant is near 0.63."""
# end
# %%
check.written("3.9", answer)
# %% [solution]
# **Model answer.** With few slots shuffled a visible token lies in the slot that must predict it: it is copied, and "all" lies well
# below "hidden". As the share grows, copying is lost: both curves rise in the second half of the warm-up and the gap between
# them shrinks. Once every slot is shuffled the decoder has learnt to place pieces by their content, and both fall below
# where they were. To be placed, a token must say where it is and what is around it; that same knowledge predicts hidden slots.
# The best constant of normalised targets was measured at 0.63 to 0.67 (LOG.md): a curve that stays there has learnt nothing.
#
# | Points | For |
# |---|---|
# | 0 | "the loss goes down" |
# | 1 | copying ends, or the constant as a baseline |
# | 2 | both, and why hidden tokens gain |
# %% [markdown]
# **3.10** A confusion table (rows are true motions, in %) of the probe after stage 2 at `study`, and the same accuracies for
# the axis of a motion and for its sense, with 95% intervals. Is "the encoder knows the axis of a motion, but not its sense"
# true? A shorter probe once said so (it is told in [the story](../story.md)). What would you have to do before you believe a
# statement of the form "the encoder does not know X"?
# %%
table = pd.read_csv(
    TABLES / "40_classification_localization-confusion_world_study.csv", index_col=0
)
table.round(0).astype(int)
# %%
pd.read_csv(TABLES / "40_classification_localization-motion_world_study.csv").round(3)
# %%
answer = """
"""
# solution
answer = """Not as it stands: of straight motions the probe reads the sense far above chance, and the interval excludes chance;
only the two senses of an orbit are still confused. The earlier statement was about a probe that had stopped too early. Before
saying that an encoder does not know something I would check the probe on tokens that surely know it, and train it longer."""
# end
# %%
check.written("3.10", answer)
# %% [solution]
# **Model answer.** The row `sense` (straight motions) contradicts it; what is left of it are the two orbits, which are still
# taken for each other in the table. A probe that finds nothing shows what *this probe* can read with *these*
# labels in *these* steps. Check it on tokens that surely know the answer (ideal tokens), train it longer, give it more
# labels, try another read-out, and take several seeds; compare with what the task allows (a tracker, end-to-end training).
# `46_checking_the_probe` does all of these.
#
# | Points | For |
# |---|---|
# | 0 | repeats the old statement |
# | 1 | reads table and interval rightly |
# | 2 | also says how to check a probe |
# %% [markdown]
# ## How far you are
# %%
check.summary()
# %%
check.hand_in(student="")
