"""A reward model over HTTP: JSON for programs, a page for people.

A call (`schemas`) is held against the limits (`limits`), and asked of the model in a thread
(`service`), where calls that come together share batches; its routes are in `app`, and `rewards`
turns groups of images into rewards for those who train generators. Needs the extra `serve`.
"""
