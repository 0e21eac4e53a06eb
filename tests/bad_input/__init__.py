"""Kinds of bad input, each a function that meets one; importing the files registers them."""

from tests.bad_input import configs, data_sets, prepared_sets, models, runs, asking  # noqa: F401, I001 (in the page's order)
