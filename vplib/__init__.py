"""vplib: VideoPrism's encoder, losses and input pipelines, small enough to read in an evening.

Reading order: layers, encoders, masking, losses, stages (the method), then video, world, shards, data (the input),
train, checkpoints, sharding (the loop), heads, evaluate, metrics (what was learned), config, run, figures (the harness).

Axes, everywhere: B clips, T frames, H W C pixels, N tokens a frame, S = T*N, V visible tokens, D width, K heads,
L caption tokens, E joint embedding. Masks are True where something is kept.
"""
