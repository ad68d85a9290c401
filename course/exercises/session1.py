# %% [markdown]
# # Session 1 · What a video model computes
#
# You will write the pieces of a video encoder, each a few lines of numpy, and be told at once whether they are right.
# Needs: lessons [00](../../notebooks/00_tour.ipynb) and [01](../../notebooks/01_tokens.ipynb). About 60 minutes, no
# training. Symbols are those of the [notation card](../notation.md), terms those of the [glossary](../glossary.md).
#
# Replace each line that begins with `raise`, and each `None`, then run the check below it. Nothing here needs a network.
# %% [setup]
# %%
import numpy as np
import pandas as pd

from vplib import shipped
from vplib.course import check
from vplib.model import checkpoints, encoders
from vplib.world import corpora

check.begin("session1")
# %% [markdown]
# ## Warm-up
#
# **1.1** VideoPrism-B, as released, takes 16 frames of 288 x 288 pixels in patches of 18 x 18. How many tokens S has a clip?
# %%
# solution
tokens = 16 * (288 // 18) ** 2
# end
# %%
check.number(
    "1.1",
    tokens,
    4096,
    step=1,
    hints={
        256: "that is N, the tokens of one frame: the clip has 16",
        16: "that is the side of the grid (or the number of frames): a frame has a grid of them",
        2048: "that is the clip of training, 8 frames: the released model takes 16",
        16 * 288**2: "those are pixels: a token is a patch of 18 x 18 of them",
    },
)
# %% [markdown]
# **1.2** How many numbers P go into one patch?
# %%
# solution
numbers = 18 * 18 * 3
# end
# %%
check.number(
    "1.2",
    numbers,
    972,
    step=1,
    hints={
        324: "those are pixels: each has three colours",
        54: "that is one row of a patch: it has 18",
        768: "that is the width D, which the patch gets from a linear map afterwards",
    },
)
# %% [markdown]
# **1.3** In one block of attention every token is compared with every token of its sequence. How many comparisons are made
# in one space block (T sequences of N tokens) and one time block (N sequences of T) together, for T = 16 and N = 256?
# %%
# solution
comparisons = 16 * 256**2 + 256 * 16**2
# end
# %%
check.number(
    "1.3",
    comparisons,
    1_114_112,
    step=1,
    hints={
        4096**2: "that is joint attention, one sequence of all S tokens: 15 times as many",
        16 * 256**2: "that is the space block alone: add the time block",
        256**2 + 16**2: "that is one frame and one place: there are T frames and N places",
        16 * 256: "that is the number of tokens: each is compared with all of its sequence",
    },
)


# %% [markdown]
# ## Core
#
# **1.4** Cut a clip (T, H, W, 3) into patches (T, N, P): squares in reading order, each flattened as (row, column,
# colour). No loop is needed: split rows and columns by a reshape, then swap axes.
# %%
def patchify(frames, p):
    t, h, w, _ = frames.shape
    # solution
    squares = frames.reshape(t, h // p, p, w // p, p, 3).transpose(0, 1, 3, 2, 4, 5)
    return squares.reshape(t, -1, 3 * p * p)
    # end


# %%
check.function("1.4", patchify)


# %% [markdown]
# **1.5** Offset LayerNorm: each token (a row of x) to mean 0 and variance 1 over its own features (add 1e-6 to the variance
# before the root), then times (1 + scale), plus bias.
# %%
def norm(x, scale, bias):
    # solution
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * (1 + scale) + bias
    # end


# %%
check.function("1.5", norm)


# %% [markdown]
# **1.6** Capped attention of queries q (N, H) over keys k (M, H) and values v (M, D). Logits are q · k / √H, then
# 50 tanh(logits / 50); each query shares out one unit among the keys by a softmax.
# %%
def attend(q, k, v):
    # solution
    logits = 50 * np.tanh(q @ k.T / np.sqrt(q.shape[-1]) / 50)
    shares = np.exp(logits - logits.max(-1, keepdims=True))
    return shares / shares.sum(-1, keepdims=True) @ v
    # end


# %%
check.function("1.6", attend)


# %% [markdown]
# **1.7** The factorised encoder. `space` and `time` are stacks that let the tokens of the **second axis from the end** see
# each other. Given x (T, N, D), run space within each frame, then time at each place, and return (T, N, D).
# %%
def factorised(x, space, time):
    # solution
    return time(space(x).swapaxes(0, 1)).swapaxes(0, 1)
    # end


# %%
check.function("1.7", factorised)


# %% [markdown]
# **1.8** Attention pooling makes one vector of all tokens x (S, D). Each of K heads has a learnt query (K, H), and
# matrices key and value (D, K, H). Its weights are a softmax over the tokens of query · key / √H; its result is the
# weighted mean of the tokens' values. Return the heads' results one after another, (K * H,).
# `np.einsum("sd,dkh->skh", x, key)` gives each token's keys.
# %%
def pool(x, query, key, value):
    # solution
    keys, values = np.einsum("sd,dkh->skh", x, key), np.einsum("sd,dkh->skh", x, value)
    logits = np.einsum("kh,skh->sk", query, keys) / np.sqrt(query.shape[-1])
    weights = np.exp(logits - logits.max(0))
    weights = weights / weights.sum(0)
    return np.einsum("sk,skh->kh", weights, values).reshape(-1)
    # end


# %%
check.function("1.8", pool)
# %% [markdown]
# ## Open
#
# **1.9** Below, the trained encoder of this repository looks at a clip forwards and backwards: as it is, and without its
# table of moments. *Before you run it, say which of the two numbers is zero.* Then explain in your own words: why is it
# zero, and which motions of the world (a star that goes left, right, up, down, round in circles either way, or shakes)
# could an encoder without that table never tell apart?
# %%
encoder = checkpoints.load(shipped.WEIGHTS / "study-stage1.npz").vision_encoder
frames = corpora.clip("retrieval/test", 8, resolution=48)[0]
clip = encoders.pixels(frames[:: len(frames) // 8][:8])[None]


def difference():
    """Tokens of the clip, against tokens of the reversed clip put back in order."""
    forwards, backwards = (np.asarray(encoder(x)).reshape(8, -1, 64) for x in (clip, clip[:, ::-1]))
    return np.abs(forwards - backwards[::-1]).max()


print(f"with the table of moments: {difference():.2g}")
table = encoder.temporal_pos_emb.emb_var
table[...] = 0 * table[...]
print(f"without it: {difference():.2g}")
# %%
answer = """
"""
# solution
answer = """Without the table of moments the time stack treats the frames as a set: reversing the clip only
reorders its tokens, so every frame gets the same tokens as before and the difference is zero up to rounding.
Motions that are each other's reversal look the same: left and right, up and down, the two orbits."""
# end
# %%
check.written("1.9", answer)
# %% [solution]
# **Model answer.** Attention has no order of its own: it is equivariant to permutations. Without the table of moments a
# reversed clip is the same set of frames, so the tokens are the same, in reversed order. Pairs of motions that turn into each
# other when time is reversed cannot be told apart: left and right, up and down, the two orbits. Shaking and rest are their
# own reversal, so they are told apart from the others.
#
# | Points | For |
# |---|---|
# | 0 | only the number is repeated, or "attention knows the order anyway" |
# | 1 | says that without the table the order of frames is invisible |
# | 2 | also names the pairs, and that shaking and rest are not affected |
# %% [markdown]
# **1.10** How do comparisons grow with the length of a video? Look at the table. At which length does the time block cost
# as much as the space block? What can a token of joint attention see in its *first* block that a token of the factorised
# encoder cannot, and through which block does the factorised one see it after all?
# %%
N = 256
pd.DataFrame(
    [
        {"frames": T, "space": T * N**2, "time": N * T**2, "joint": (T * N) ** 2}
        for T in (8, 16, 64, 256, 1024)
    ]
).set_index("frames")
# %%
answer = """
"""
# solution
answer = """The time block costs as much as the space block when T equals N, here at 256 frames. With joint attention a
token sees every place of every frame in the first block. In the factorised encoder it sees its own frame in space;
other places of other frames reach it in two steps, through the token of its own place in the other frame, in time."""
# end
# %%
check.written("1.10", answer)
# %% [solution]
# **Model answer.** T N² = N T² at T = N = 256 frames; up to there space dominates, beyond it time does, and both grow far
# more slowly than joint attention. Joint: any place of any frame at once. Factorised: a token of another frame at another
# place reaches ours in two steps, first within its frame to the token at our place (space), then along that place (time).
# All space blocks come before all time blocks, so what the places of *different* frames say of each other is only combined by
# what that one token carried.
#
# | Points | For |
# |---|---|
# | 0 | only "joint is slower" |
# | 1 | T = N, or the two steps |
# | 2 | both, with the order of the stacks |
# %% [markdown]
# ## How far you are
# %%
check.summary()
# %%
check.hand_in(student="")
