"""Drawn scenes with known content: captions, images, rankings by noisy annotators, traces."""
