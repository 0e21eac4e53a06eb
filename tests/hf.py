"""The other side of parity tests: transformers, opened so that it needs no torchvision."""

from pathlib import Path

from transformers import AutoTokenizer, Qwen2_5_VLProcessor, Qwen2VLImageProcessorPil
from transformers.processing_utils import ProcessorMixin


class ImageOnlyProcessor(Qwen2_5_VLProcessor):
    """Qwen2.5-VL's processor for still images.

    A processor learns what it is made of from the parameters of its `__init__`. This one has no
    video processor, whose only implementation needs torchvision.
    """

    def __init__(self, image_processor=None, tokenizer=None, chat_template=None, **_):
        self.image_token, self.video_token = "<|image_pad|>", "<|video_pad|>"
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        self.video_token_id = tokenizer.convert_tokens_to_ids(self.video_token)
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)


def image_only_processor(folder: str | Path) -> ImageOnlyProcessor:
    """The processor of a checkpoint folder: its tokenizer, chat template and image processor."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return ImageOnlyProcessor(
        image_processor=Qwen2VLImageProcessorPil.from_pretrained(folder),
        tokenizer=tokenizer,
        chat_template=tokenizer.chat_template,
    )
