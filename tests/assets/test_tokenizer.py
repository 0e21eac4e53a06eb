import json
import subprocess
import sys
import unicodedata

import numpy as np
import pytest
from PIL import Image
from tokenizers import Tokenizer
from transformers import AutoImageProcessor, AutoTokenizer, GenerationConfig

from lrt_jax.assets import tokenizer as built_in
from tests.hf import image_only_processor


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    built_in.write_tokenizer(folder)
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder):
    return AutoTokenizer.from_pretrained(folder)


def test_auto_tokenizer_opens_the_folder_as_qwen2(tokenizer):
    assert type(tokenizer).__name__.startswith("Qwen2Tokenizer")
    assert len(tokenizer) == built_in.VOCAB_SIZE
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")
    assert tokenizer.bos_token is None


def test_special_tokens_are_one_id_each_after_the_ordinary_ones(tokenizer):
    names = built_in.CONTROL_TOKENS + built_in.MARKUP_TOKENS
    ids = [tokenizer.encode(name) for name in names]
    start = built_in.VOCAB_SIZE - len(names)
    assert ids == [[start + i] for i in range(len(names))]


def test_only_control_tokens_are_skipped_in_decoding(tokenizer):
    text = "".join(built_in.CONTROL_TOKENS + built_in.MARKUP_TOKENS)
    shown = tokenizer.decode(tokenizer.encode(text), skip_special_tokens=True)
    assert shown == "".join(built_in.MARKUP_TOKENS)


@pytest.mark.parametrize(
    "text", [" two\n\n it's 12 ></ <|im_end|>", "e\u0301 A\u030a", "<tool_call>"]
)
def test_tokenizer_json_alone_reads_text_as_the_whole_folder_does(folder, tokenizer, text):
    alone, whole = Tokenizer.from_file(str(folder / "tokenizer.json")), tokenizer
    ids = whole.encode(text)
    assert alone.encode(text).ids == ids
    assert alone.decode(ids) == whole.decode(ids, skip_special_tokens=True)
    pieces = whole.backend_tokenizer.pre_tokenizer.pre_tokenize_str(text)
    assert alone.pre_tokenizer.pre_tokenize_str(text) == pieces


@pytest.mark.parametrize("text", ["1", "2", "<answer>1</answer>", "10 12", "a1b2"])
def test_digits_are_single_tokens(tokenizer, text):
    pieces = tokenizer.convert_ids_to_tokens(tokenizer.encode(text))
    assert [p for p in pieces if any(c.isdigit() for c in p)] == [c for c in text if c.isdigit()]


@pytest.mark.parametrize(
    "text", ["A red circle.\n\n  two", "naïve café \u0301", "日本語 🎨", "\x00\x7f\t", "it's I'LL"]
)
def test_any_text_comes_back(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == unicodedata.normalize("NFC", text)


def test_the_words_of_the_training_text_are_whole_tokens(tokenizer):
    words = " ".join(built_in.WORDS[k] for k in ("colour", "shape", "number", "place")).split()
    assert [w for w in words if len(tokenizer.encode(" " + w)) != 1] == []


def test_chat_template_writes_what_qwen2_5_vl_does(tokenizer):
    messages = [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": " left: "},
                {"type": "image"},
                {"type": "video", "video": "clip"},
                {"type": "text", "text": "\nwhich?\n"},
            ],
        },
        {"role": "assistant", "content": "1"},
        {"role": "user", "content": [{"image": "a.png"}]},
    ]
    expected = (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\n left: <|vision_start|><|image_pad|><|vision_end|>"
        "<|vision_start|><|video_pad|><|vision_end|>\nwhich?\n<|im_end|>\n"
        "<|im_start|>assistant\n1<|im_end|>\n"
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|><|im_end|>\n"
    )
    render = tokenizer.apply_chat_template
    assert render(messages, tokenize=False) == expected
    assert (
        render(messages, tokenize=False, add_generation_prompt=True)
        == expected + "<|im_start|>assistant\n"
    )
    own = render([{"role": "system", "content": "Be brief."}], tokenize=False)
    assert own == "<|im_start|>system\nBe brief.<|im_end|>\n"
    content = [{"type": kind} for kind in ("image", "video", "image", "image", "video")]
    counted = render([{"role": "user", "content": content}], tokenize=False, add_vision_id=True)
    for name, pad in [("Picture 3", "image"), ("Video 2", "video")]:
        assert f"{name}: <|vision_start|><|{pad}_pad|><|vision_end|>" in counted


def test_image_processor_reads_the_pixel_bounds(tmp_path):
    built_in.write_tokenizer(tmp_path, min_pixels=28 * 28 * 4, max_pixels=84 * 84)
    for processor in (
        AutoImageProcessor.from_pretrained(tmp_path, backend="pil"),
        image_only_processor(tmp_path).image_processor,
    ):
        for size, grid in [((20, 20), [1, 4, 4]), ((500, 500), [1, 6, 6])]:
            image = Image.new("RGB", size)
            out = processor(images=[image], return_tensors="np")
            assert np.asarray(out["image_grid_thw"]).tolist() == [grid]


def test_generation_stops_at_the_end_of_a_turn_or_text(folder, tokenizer):
    config = GenerationConfig.from_pretrained(folder)
    assert config.eos_token_id == tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])


def test_files_are_the_same_in_another_process(folder, tmp_path):
    script = "import sys; from lrt_jax.assets.tokenizer import write_tokenizer as w; w(sys.argv[1])"
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True)
    names = sorted(path.name for path in folder.iterdir())
    assert names == sorted(path.name for path in tmp_path.iterdir())
    assert [n for n in names if (folder / n).read_bytes() != (tmp_path / n).read_bytes()] == []
    assert json.loads((folder / "vocab.json").read_text())  # not merely equal, but filled
