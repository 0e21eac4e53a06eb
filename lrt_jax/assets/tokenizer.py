"""The built-in model's tokenizer: a small byte-level BPE laid out on disk as the hub's Qwen2.5-VL.

The layout, the special tokens and the pre-tokenisation are Qwen2's, so everything that opens a real
checkpoint opens this one. The merges are learnt from text made here: the project's own prompts and
sentences about drawn scenes and pictures. Nothing is random, so the files are the same on every
machine.
"""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers
from tokenizers import pre_tokenizers as pre
from tokenizers.trainers import BpeTrainer
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from lrt_jax.data.input import prompts

# Byte alphabet, merges and special tokens together; with so many, each word of the text is one.
VOCAB_SIZE = 1022

# Qwen2's rule: contractions, words with at most one leading mark, *single* digits, runs of marks,
# line ends, blanks. Single digits are what makes "1" and "2" one token each.
PRE_TOKENS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
    r"|[^\r\n\p{L}\p{N}]?\p{L}+"
    r"|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+"
    r"|\s+(?!\S)"
    r"|\s+"
)

CONTROL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
# One id each as well, but Qwen2 keeps them when special tokens are skipped in decoding.
MARKUP_TOKENS = (
    "<tool_call>",
    "</tool_call>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
)
END_OF_TURN, END_OF_TEXT = "<|im_end|>", "<|endoftext|>"

CHAT_TEMPLATE = r"""{%- set seen = namespace(images=0, videos=0) -%}
{%- if messages[0].role != 'system' -%}
  {{- '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' -}}
{%- endif -%}
{%- for message in messages -%}
  {{- '<|im_start|>' ~ message.role ~ '\n' -}}
  {%- if message.content is string -%}
    {{- message.content -}}
  {%- else -%}
    {%- for item in message.content -%}
      {%- if item.type == 'image' or 'image' in item or 'image_url' in item -%}
        {%- set seen.images = seen.images + 1 -%}
        {%- if add_vision_id -%}{{- 'Picture ' ~ seen.images ~ ': ' -}}{%- endif -%}
        {{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
      {%- elif item.type == 'video' or 'video' in item -%}
        {%- set seen.videos = seen.videos + 1 -%}
        {%- if add_vision_id -%}{{- 'Video ' ~ seen.videos ~ ': ' -}}{%- endif -%}
        {{- '<|vision_start|><|video_pad|><|vision_end|>' -}}
      {%- elif 'text' in item -%}
        {{- item.text -}}
      {%- endif -%}
    {%- endfor -%}
  {%- endif -%}
  {{- '<|im_end|>\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{- '<|im_start|>assistant\n' -}}
{%- endif -%}
"""

# Words of the training text; each `{slot}` of a sentence runs through its list. BPE counts words
# and not sentences, so going round the lists is as good as drawing from them, and is the same
# everywhere. There are more words than merges: those of the rarest slots stay in pieces.
WORDS = {
    "colour": "red green blue yellow orange purple black white pink brown gray cyan",
    "shape": "circle square triangle star cross diamond ring heart",
    "shapes": "circles squares triangles stars crosses diamonds rings hearts objects shapes",
    "object": "dog cat car house tree flower bird boat person woman man child city mountain sky "
    "river table cup book horse robot castle garden street window forest beach dragon",
    "objects": "dogs cats cars houses trees flowers birds boats people women men children clouds "
    "mountains hands eyes legs fingers",
    "number": "one two three four five six seven eight nine zero no none",
    "digit": "1 2 3 4 5 6 7 8 9 0",
    "ordinal": "first second",
    "other": "second first",
    "place": "left right top bottom center middle corner upper lower row column",
    "relation": "above below beside behind under near between inside in on with",
    "quality": "sharp blurry bright dark noisy clean realistic beautiful detailed distorted small "
    "large pixelated plain empty crowded natural strange",
    "aspect": "composition lighting colours style background details quality anatomy text subject "
    "contrast perspective",
    "style": "photo painting drawing portrait sketch render illustration picture scene",
    "verdict": "better worse closer wrong preferred",
    "verb": "shows has contains matches misses follows fits includes lacks",
    "truth": "yes no",
    "degree": "more less most fewer very slightly clearly both",
    "link": "because but and while so although since",
    "action": "standing sitting running flying holding wearing looking sleeping walking",
    "setting": "snow rain ocean desert kitchen room field space road bridge night sunset",
    "light": "soft light, cinematic, golden hour, studio light, fog, shadow, neon, sunlight",
    "size": "small large",
    "column": "left middle right",
    "mark": "yes near no",
    "score": "zero one two three four five six seven",
    "picture": "sharp blurry noisy dark",
    "manner": "highly detailed, digital art, watercolor, oil on canvas, anime, fantasy",
}
SENTENCES = (
    "Image {digit}: a {colour} {shape} at the {place} {place}, {truth}.\n",
    "Image {digit}: {number} {colour} {shapes} and {number} {shapes}.\n",
    "Image {digit}: {colour} {shape} {truth}, {colour} {shape} {truth}; {digit} of {digit}.\n",
    "{colour} {shape}: {truth}\n{shape}: {truth}\n",
    "image {digit} {verb} {digit} of {digit}; {colour} {shape}: {truth}.\n",
    "A {style} of a {quality} {object} {relation} a {colour} {object}.\n",
    "a {colour} {shape} {relation} a {colour} {shape}, {place}\n",
    "a {style} of {number} {objects} {action} {relation} a {object}\n",
    "a {object} {action} {relation} the {setting}, {light}, {manner}\n",
    "The caption asks for {number} {colour} {objects} {relation} the {object}.\n",
    "The {ordinal} image is {verdict} {link} its {aspect} {verb} the caption.\n",
    "The {ordinal} image is {quality} {link} the {other} image is {quality}.\n",
    "The {object} in the {place} is {degree} {quality} than in the {other} image.\n",
    "It {verb} the {colour} {shape} in the {place}, {link} the count is {number}.\n",
    "There are {number} {shapes} in image {digit}, which is {degree} {quality}.\n",
    "{number} of {number} objects match, total {digit} against {digit}.\n",
    "<think>{truth} {colour} {shape}</think><answer>{digit}</answer>",
    "<think>\nThe {ordinal} image.\n</think>\n<answer>{digit}</answer>",
    "match: {truth}; missing: {truth}; {colour} {shapes}: {number}.\n",
    "a {size} {colour} {shape} on the {column} above none\n",
    "{number} {size} {colour} {shapes} in the {column}\n",
    "<think>First: {size} but {colour} {shape} {column} {mark}, {picture}, {score}. "
    "Second: {size} {colour} {shape} {column} {mark}, {picture}, {score}.</think>",
)
ROUNDS = 240


def training_text() -> Iterator[str]:
    """The text that the merges are learnt from: every prompt, and `ROUNDS` of each sentence."""
    wordings = [
        item["text"]
        for style in prompts.STYLES
        for message in prompts.messages("a caption", style)
        for item in message["content"]
        if item["type"] == "text"
    ]
    roles = "system\nYou are a helpful assistant.\nuser\nassistant\n"
    for text in [*wordings, roles]:
        yield from itertools.repeat(text, ROUNDS)
    slots = {name: itertools.cycle(words.split()) for name, words in WORDS.items()}
    for _, sentence in itertools.product(range(ROUNDS), SENTENCES):
        yield _filled(sentence, slots)


def _filled(sentence: str, slots: dict[str, Iterator[str]]) -> str:
    """The sentence with every slot, also a repeated one, filled by its list's next word."""
    parts = sentence.replace("}", "{").split("{")  # text and slot names take turns
    return "".join(next(slots[part]) if i % 2 else part for i, part in enumerate(parts))


def train_tokenizer() -> Tokenizer:
    """Learns the merges and adds the special tokens after the ordinary ones, as Qwen2 does."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre.Sequence(
        [
            pre.Split(Regex(PRE_TOKENS), behavior="isolated"),
            pre.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=VOCAB_SIZE - len(CONTROL_TOKENS) - len(MARKUP_TOKENS),
        initial_alphabet=sorted(pre.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(training_text(), trainer)
    tokenizer.add_special_tokens([*CONTROL_TOKENS])
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in MARKUP_TOKENS])
    return tokenizer


def write_tokenizer(
    folder: str | Path, *, min_pixels: int = 56 * 56, max_pixels: int = 224 * 224
) -> PreTrainedTokenizerBase:
    """Writes every file of a checkpoint folder that is neither weights nor `config.json`.

    Args:
      folder: made if it is not there; files of the same names are replaced.
      min_pixels: smallest area of an image after resizing, for `preprocessor_config.json`.
      max_pixels: largest area, likewise.

    Returns:
      The tokenizer, opened from the folder.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    tokenizer.model.save(str(folder))  # vocab.json and merges.txt
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    _write_json(folder / "tokenizer_config.json", _tokenizer_config(tokenizer))
    _write_json(folder / "preprocessor_config.json", _processor_config(min_pixels, max_pixels))
    _write_json(folder / "generation_config.json", _generation_config(tokenizer))
    return AutoTokenizer.from_pretrained(folder)


def _write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _tokenizer_config(tokenizer: Tokenizer) -> dict:
    added = tokenizer.get_added_tokens_decoder()
    return {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": {str(id): token.__getstate__() for id, token in added.items()},
        "additional_special_tokens": list(CONTROL_TOKENS[1:]),
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": END_OF_TURN,
        "errors": "replace",
        "model_max_length": 131072,
        "pad_token": END_OF_TEXT,
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }


def _processor_config(min_pixels: int, max_pixels: int) -> dict:
    return {
        "image_mean": [0.48145466, 0.4578275, 0.40821073],  # CLIP's, which the tower was made for
        "image_processor_type": "Qwen2VLImageProcessor",
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "max_pixels": max_pixels,
        "merge_size": 2,
        "min_pixels": min_pixels,
        "patch_size": 14,
        "processor_class": "Qwen2_5_VLProcessor",
        "temporal_patch_size": 2,
    }


def _generation_config(tokenizer: Tokenizer) -> dict:
    turn, text = tokenizer.token_to_id(END_OF_TURN), tokenizer.token_to_id(END_OF_TEXT)
    return {
        "bos_token_id": text,
        "do_sample": True,
        "eos_token_id": [turn, text],
        "pad_token_id": text,
        "temperature": 1.0,
        "top_k": 0,
        "top_p": 1.0,
    }
