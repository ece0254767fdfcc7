"""Helpers that run transformers in the benchmarks (needs torch)."""

import tempfile

import numpy as np
import torch
import transformers

from benchmarks import workload
from models import images as image_processing
from models import qwen2_5_vl as qwen


def model(ours: qwen.Qwen2_5_VL):
    """transformers' model in float32 with our model's weights."""
    with tempfile.TemporaryDirectory() as folder:
        qwen.save(ours, folder)
        return transformers.Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)


def pixels(images) -> tuple[torch.Tensor, torch.Tensor]:
    """(patches of all images, their grids), in transformers' format."""
    patches = [image_processing.patches(image, workload.CONFIG.vision) for image in images]
    return torch.tensor(np.concatenate([values for values, _ in patches])), torch.tensor([grid for _, grid in patches])
