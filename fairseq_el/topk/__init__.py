"""Top-k attention and feed-forward layers (Gupta et al. 2021); EL-attention does without them."""
