"""What a run says of itself: metrics, the line on the terminal, sampled completions."""
