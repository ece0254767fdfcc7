"""Creates a small Qwen3-VL; see `models.new_model`."""

from models import new_model
from models.qwen3_vl.config import Config, TextConfig, VisionConfig
from models.qwen3_vl.model import Qwen3_VL

FAMILY = new_model.Family(Config, VisionConfig, TextConfig, Qwen3_VL, "Qwen3VLProcessor", system="")
make, make_processor, CHAT_TEMPLATE = FAMILY.make, FAMILY.make_processor, FAMILY.chat_template
