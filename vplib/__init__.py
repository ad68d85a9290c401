"""vplib: VideoPrism's encoder, losses and input pipelines, small enough to read in two evenings.

Reading order: method (the two stages), model (attention, layers, encoders), data (videos to batches), world (the
embedded corpus), train (the loop), evaluate (what was learned), and at the top what one types: config, run, export,
predict.

Axes, everywhere: B clips, T frames, H W C pixels, N tokens a frame, S = T*N, V visible tokens, D width, K heads,
L caption tokens, E joint embedding. Masks are True where something is kept.
"""
