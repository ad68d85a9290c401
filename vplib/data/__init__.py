"""Videos and texts to batches.

Read video (files to frames), container (what a file says of itself), stream (some frames of a long
one), standardize (one kind of file), sources (folders and archives), shards (random access), text
(tokens), then pipeline (Grain) and cached (batches of tokens).
"""
