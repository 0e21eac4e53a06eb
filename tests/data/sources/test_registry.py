"""Sources by their names."""

import pytest

from lrt_jax.data.sources import SOURCES, SourceError, read_groups
from lrt_jax.data.sources.published import PUBLISHED


def test_unknown_sources_and_folders(tmp_path):
    with pytest.raises(SourceError, match="did you mean 'imagereward'"):
        read_groups("ImageRewards", tmp_path)
    for source in SOURCES.keys() - {"scenes"}:
        with pytest.raises(SourceError, match="no such folder"):
            read_groups(source, tmp_path / "nowhere")


def test_every_source_says_where_it_comes_from():
    assert list(PUBLISHED) == list(SOURCES)
    for published in PUBLISHED.values():
        assert bool(published.hub_id) == bool(published.gigabytes) != bool(published.by_hand)
