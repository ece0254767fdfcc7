"""Creates a small Qwen2.5-VL; see `models.new_model`."""

from models import new_model
from models.new_model import SPECIAL_TOKENS, train_tokenizer
from models.qwen2_5_vl.config import Config, TextConfig, VisionConfig
from models.qwen2_5_vl.model import Qwen2_5_VL

FAMILY = new_model.Family(
    Config,
    VisionConfig,
    TextConfig,
    Qwen2_5_VL,
    "Qwen2_5_VLProcessor",
    system="<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n",
)
make, make_processor, CHAT_TEMPLATE = FAMILY.make, FAMILY.make_processor, FAMILY.chat_template

__all__ = ["CHAT_TEMPLATE", "FAMILY", "SPECIAL_TOKENS", "make", "make_processor", "train_tokenizer"]
