"""What a config.json declares is held to bounds before anything is made of that size."""

import json
import time

import pytest

from lrt_jax import assets
from lrt_jax.models import read_config


def declared(tmp_path, change):
    """The built-in model's config with a change in it, read."""
    content = json.loads((assets.tiny_model() / "config.json").read_text())
    change(content)
    (tmp_path / "config.json").write_text(json.dumps(content))
    return read_config(tmp_path)


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("num_hidden_layers", 10**8, "num_hidden_layers is 100000000, above 1,024"),
        ("num_hidden_layers", 1e8, r"num_hidden_layers is 100000000\.0, not a whole number"),
        ("vocab_size", 10**13, "vocab_size is 10000000000000, above 4,194,304"),
        ("hidden_size", "96", "hidden_size is '96', not a whole number"),
        ("rope_theta", "1e6", "rope_theta is '1e6', not a number"),
        ("rms_norm_eps", True, "rms_norm_eps is True, not a number"),
        ("image_token_id", 1022, "image_token_id is 1022, not one of the 1,022 tokens"),
        ("image_token_id", "7", "image_token_id is '7', not a whole number"),
        ("vision_config.depth", 10**8, "vision_config.depth is 100000000, above 1,024"),
        ("vision_config.fullatt_block_indexes", [10**9], "full_attention_layers .* 2 layers"),
        ("vision_config.fullatt_block_indexes", 1, "fullatt_block_indexes is 1, not a list"),
        ("rope_scaling.mrope_section", [4, 4], "mrope_section .* not three"),
        ("rope_scaling.mrope_section", ["4", 4, 4], "mrope_section is .* not a list of whole"),
        ("rope_scaling.rope_theta", "1e6", "rope_scaling.rope_theta is '1e6', not a number"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_what_cannot_be_is_told_at_once_with_file_and_field(tmp_path, field, value, told):
    *parents, name = field.split(".")

    def change(content):
        for parent in parents:
            content = content[parent]
        content[name] = value

    began = time.monotonic()
    with pytest.raises(ValueError, match=f"{tmp_path}/config.json: .*{told}.*; take the config"):
        declared(tmp_path, change)
    assert time.monotonic() - began < 5


def test_the_nested_layout_is_held_to_the_same_bounds(tmp_path):
    def nest(content):
        content["text_config"] = {"num_hidden_layers": 10**8}

    with pytest.raises(ValueError, match="text_config.num_hidden_layers is 100000000, above 1,024"):
        declared(tmp_path, nest)


def test_the_largest_model_that_is_published_is_within_the_bounds(tmp_path):
    """Sizes of Qwen2.5-VL-72B-Instruct."""

    def grow(content):
        content |= {"hidden_size": 8192, "intermediate_size": 29568, "num_hidden_layers": 80}
        content |= {"num_attention_heads": 64, "num_key_value_heads": 8, "vocab_size": 152064}
        content["rope_scaling"]["mrope_section"] = [16, 24, 24]
        content["vision_config"] |= {"depth": 32, "hidden_size": 1280, "intermediate_size": 3456}
        content["vision_config"] |= {"num_heads": 16, "out_hidden_size": 8192}
        content["vision_config"]["fullatt_block_indexes"] = [7, 15, 23, 31]

    config = declared(tmp_path, grow)
    assert config.text.num_layers == 80 and config.vision.full_attention_layers == (7, 15, 23, 31)
