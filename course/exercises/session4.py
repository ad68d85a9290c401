# %% [markdown]
# # Session 4 · How a batch comes about
#
# You will write what makes a training repeatable: records that are found by number, items that are functions of their number,
# turns of corpora, shares of processes; then look for a clip that gets lost. Needs: lesson
# [04](../../notebooks/04_input_pipeline.ipynb). About 60 minutes, no training. Symbols are those of the
# [notation card](../notation.md), terms those of the [glossary](../glossary.md).
#
# Replace each line that begins with `raise`, and each `None`, then run the check below it. Nothing here needs a network.
# %% [setup]
# %%
from collections import Counter

import numpy as np
import pandas as pd

from vplib import published
from vplib.course import check

check.begin("session4")
# %% [markdown]
# ## Warm-up
#
# **4.1** A corpus has 24 clips, a batch four of them. Batches, items and epochs are counted from 0. In which epoch is the first
# item of batch 100?
# %%
# solution
epoch = 100 * 4 // 24
# end
# %%
check.number(
    "4.1",
    epoch,
    16,
    step=1,
    hints={
        4: "that takes the number of the batch for that of the item: multiply by the clips of a batch",
        18: "count from 0: batch 100 begins with item 400",
        400: "that is the item: divide by the clips of an epoch, and round down",
    },
)
# %% [markdown]
# **4.2** A step takes 4,096 clips and two seconds; to decode the frames of one clip takes 50 milliseconds of one core. How many
# cores must decode all the time?
# %%
# solution
cores = 4096 / 2 * 0.05
# end
# %%
check.number(
    "4.2",
    cores,
    102.4,
    step=0.1,
    hints={
        204.8: "those are the seconds of work of one step: a step lasts two seconds",
        409.6: "you multiplied by the two seconds: more time for a step needs fewer cores",
        40960: "a core decodes a clip in 0.05 s: multiply by it, do not divide",
    },
)
# %% [markdown]
# **4.3** 600 million clips of 100 kB (10⁵ bytes) go into files of one GB (10⁹ bytes). How many files?
# %%
# solution
shards = 600e6 * 1e5 / 1e9
# end
# %%
check.number(
    "4.3",
    shards,
    60000,
    step=1,
    hints={
        60: "those are terabytes (10¹² bytes): a file has 10⁹",
        10000: "so many clips fit into a file: how many files do they fill?",
        6000: "100 kB are 10⁵ bytes, not 10⁴",
    },
)


# %% [markdown]
# ## Core
#
# **4.4** A file holds records one after another. Of the record `k`, counted from 0, return where it begins and where it ends: two
# numbers of bytes. `sizes` has the length of every record.
# %%
def bounds(sizes, k):
    # solution
    return np.array([sum(sizes[:k]), sum(sizes[: k + 1])])
    # end


# %%
check.function("4.4", bounds)


# %% [markdown]
# **4.5** Items as a function of their number. Item `i` of a corpus of `n` clips is in epoch `i // n`; an epoch takes the clips in
# the order `np.random.default_rng((seed, epoch)).permutation(n)`. Return the clip of each of `items`, which come in any order.
# %%
def clips_of(items, n, seed):
    # solution
    found = []
    for i in items:
        order = np.random.default_rng((seed, i // n)).permutation(n)
        found.append(order[i % n])
    return np.array(found)
    # end


# %%
check.function("4.5", clips_of)


# %% [markdown]
# **4.6** Whose turn is it? Batch k (from 0) goes to the corpus that is furthest behind: whose share of the k + 1 batches, its
# weight divided by all weights, is furthest above what it has been given so far; the first one of equals. Return the numbers
# of the corpora of the first `count` batches. (Grain's own rule, in the lesson, is another one with the same shares.)
# %%
def turns(count, weights):
    # solution
    share = np.array(weights) / np.sum(weights)
    given, order = np.zeros(len(weights)), []
    for k in range(count):
        corpus = int(np.argmax((k + 1) * share - given))
        given[corpus] += 1
        order.append(corpus)
    return np.array(order)
    # end


# %%
check.function("4.6", turns)


# %% [markdown]
# **4.7** Batch `step` of a training has `batch` clips: items `step * batch`, `step * batch + 1`, and so on. `count` processes share
# it, `index` is one of them: of the items of the batch, it reads number `index`, then every `count`-th. Return them.
# %%
def own_items(step, batch, index, count):
    # solution
    return np.arange(step * batch + index, (step + 1) * batch, count)
    # end


# %%
check.function("4.7", own_items)


# %% [markdown]
# **4.8** An encoder knows the corpus of every clip and text, and nothing else. So each clip guesses among the clips of its own
# corpus in the batch. `corpora` has the number of the corpus of each clip; return the mean loss in nats.
# %%
def style_loss(corpora):
    # solution
    return np.mean([np.log(np.sum(corpora == corpus)) for corpus in corpora])
    # end


# %%
check.function("4.8", style_loss)


# %% [markdown]
# ## Open
#
# **4.9** A pipeline takes batches of four from 23 clips and drops what is left over at the end of an epoch. Below, how often each
# clip was seen in 40 epochs, once with one order for all epochs, once with an order an epoch. What is lost in each of them, and
# does it matter? How would you notice it in a real training, where nobody counts clips?
# %%
def seen(reshuffled, epochs=40, n=23, batch=4):
    counts = Counter({k: 0 for k in range(n)})
    for e in range(epochs):
        order = np.random.default_rng((0, e if reshuffled else 0)).permutation(n)
        counts.update(order[: n // batch * batch].tolist())
    return counts


kinds = {"one order": False, "an order an epoch": True}
times = pd.DataFrame({name: pd.Series(seen(kind)) for name, kind in kinds.items()})
times.describe().loc[["min", "mean", "max"]].round(1)
# %%
answer = """
"""
# solution
answer = """With one order the same three clips are never seen, so the training has silently lost a part of its data for
good. With an order an epoch each epoch loses three others: every clip is seen less often, but nearly equally often, which
is harmless. I would log the identity of the clips of an epoch, or ask whether the union of all batches is the corpus."""
# end
# %%
check.written("4.9", answer)
# %% [solution]
# **Model answer.** One order: the same three clips of 23 are dropped in every epoch, min is 0: they are not in the training set, and
# no curve shows it. An order an epoch: three others each time; the counts differ by chance alone. It matters where the end
# of an order is not random, as in shards sorted by length or by class. One notices it only by looking for it: a test that the
# union of an epoch's batches is the corpus (or a counter in the pipeline), or by repeating without a break between epochs, as
# `item` does, where nothing is left over.
#
# | Points | For |
# |---|---|
# | 0 | "some clips are lost" |
# | 1 | tells lost for good from lost by turns |
# | 2 | also how to find it, or when the end is no random sample |
# %% [markdown]
# **4.10** Left, the paper's Table 22 (R@1 in per cent, as published): one corpus a batch in turns ("+"), corpora mixed within batches,
# one after the other ("->"). Right, what your 4.8 says of batches of 64 from eight equal corpora. Do the two fit together?
# Name another explanation of the published numbers, and an experiment of a few hours that would tell the two apart.
# %%
table = published.numbers("T22").pivot_table(
    index="model", columns=["benchmark", "task"], values="value"
)
table.round(1)
# %%
try:
    mixed = np.random.default_rng(0).integers(8, size=64)
    for name, corpora in {"mixed": mixed, "one corpus": np.zeros(64, int)}.items():
        print(f"{name}: {style_loss(corpora):.2f} nats")
except check.NotDone:
    print("this needs your function of 4.8")
# %%
answer = """
"""
# solution
answer = """They fit: within a mixed batch the corpus alone saves two nats, which rewards recognising the source and not the
content, and alternating takes that reward away. But the gain is large on VATEX and small on MSRVTT, so it could also come from
harder negatives or from a difference in how often each corpus is seen. I would make texts of all corpora alike in style."""
# end
# %%
check.written("4.10", answer)
# %% [solution]
# **Model answer.** They fit in direction: mixing pays about two nats for knowing the source. That is no proof. Batches of one corpus
# also have harder negatives; and the optimiser sees the corpora in another order. The gain is large on one benchmark and
# within a point on the other, and there is one run of each. An experiment: two corpora whose texts can be told apart by one added
# word, and the same with the word taken away; mixed and alternating, several seeds. If the shortcut is the reason, mixing only
# suffers with the word. (In this repository's world the seven corpora of videos share their scenes: the lesson measures it.)
#
# | Points | For |
# |---|---|
# | 0 | repeats the table |
# | 1 | says why the loss of 4.8 explains it |
# | 2 | also another explanation, and an experiment that decides |
# %% [markdown]
# ## How far you are
# %%
check.summary()
# %%
check.hand_in(student="")
