"""Sources by their names."""

import pytest

from lrt_jax.config import ConfigError, default_config, parse_config
from lrt_jax.data.sources import (
    SOURCES,
    SourceError,
    find_source,
    published_test_splits,
    read_groups,
    source_problems,
)


def test_unknown_sources_and_folders(tmp_path):
    with pytest.raises(SourceError, match="did you mean 'imagereward'"):
        read_groups("ImageRewards", tmp_path)
    for source in SOURCES.keys() - {"scenes"}:
        with pytest.raises(SourceError, match="no such folder"):
            read_groups(source, tmp_path / "nowhere")


def test_every_source_says_where_it_comes_from():
    for published in SOURCES.values():
        assert bool(published.hub_id) == bool(published.gigabytes) != bool(published.by_hand)
        assert bool(published.hub_id) or published.about


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("nowhere:SOURCE", "'nowhere:SOURCE' cannot be imported"),
        ("lrt_jax.data.sources.hpdv2:read", "is no lrt_jax.data.sources.source.Source"),
    ],
)
def test_a_source_of_ones_own_that_is_none(name, told):
    with pytest.raises(SourceError, match=told):
        find_source(name)
    config = default_config()
    config.data.source, config.data.path = name, "somewhere"
    with pytest.raises(ConfigError, match=f"data.source: .*{told}"):
        parse_config(config, source_problems)


def test_what_data_name_is_not_imported():
    """A prepared set or a workdir comes from elsewhere."""
    assert published_test_splits("nowhere:SOURCE") == ()
