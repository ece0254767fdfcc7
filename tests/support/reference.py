"""transformers' outputs for the tiny models and prompts: the reference for live comparisons and golden files.

Needs torch; tests import it through `pytest.importorskip`.
"""

import numpy as np
import torch
import transformers

from models import qwen2_5_vl as qwen

MIN_PIXELS = 3136


def build(config: qwen.Config):
    """A transformers model; its config is written out so as not to depend on `Config.to_hf`."""
    vision, text = config.vision, config.text
    tied = text.tie_word_embeddings
    hf_config = transformers.Qwen2_5_VLConfig(
        vision_config={
            "depth": vision.depth,
            "hidden_size": vision.hidden_size,
            "intermediate_size": vision.intermediate_size,
            "num_heads": vision.num_heads,
            "out_hidden_size": vision.out_hidden_size,
            "window_size": vision.window_size,
            "fullatt_block_indexes": list(vision.fullatt_block_indexes),
        },
        text_config={
            "vocab_size": text.vocab_size,
            "hidden_size": text.hidden_size,
            "intermediate_size": text.intermediate_size,
            "num_hidden_layers": text.num_hidden_layers,
            "num_attention_heads": text.num_attention_heads,
            "num_key_value_heads": text.num_key_value_heads,
            "rms_norm_eps": text.rms_norm_eps,
            "rope_parameters": {
                "rope_type": "default",
                "mrope_section": list(text.mrope_section),
                "rope_theta": text.rope_theta,
            },
            "tie_word_embeddings": tied,
            "bos_token_id": None,
            "eos_token_id": None,
        },
        image_token_id=config.image_token_id,
        video_token_id=config.video_token_id,
        vision_start_token_id=config.vision_start_token_id,
        vision_end_token_id=config.vision_end_token_id,
        tie_word_embeddings=tied,
    )
    return transformers.Qwen2_5_VLForConditionalGeneration(hf_config).eval()


def hub_name(name: str) -> str:
    """The checkpoint name of a parameter in memory."""
    return name.replace("model.visual.", "visual.", 1).replace("model.language_model.", "model.", 1)


def with_weights(model: qwen.Qwen2_5_VL):
    """A transformers model with our model's weights."""
    theirs = build(model.config)
    ours = {name: np.array(value) for name, value in qwen.named(model).items()}
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():  # a tied head is listed once
            parameter.copy_(torch.tensor(ours.pop(hub_name(name))))
    assert not ours, f"transformers has no {sorted(ours)}"
    return theirs


def inputs(theirs, prompt, max_pixels: int) -> dict:
    """The keyword arguments of a forward pass for one prompt (ids, images)."""
    ids, images = prompt
    ids = torch.tensor([list(ids)])
    arguments = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": (ids == theirs.config.image_token_id).int(),  # without it positions are one-dimensional
    }
    if images:
        processor = transformers.Qwen2VLImageProcessorPil(min_pixels=MIN_PIXELS, max_pixels=max_pixels)
        processed = processor(list(images), return_tensors="pt")
        arguments |= {"pixel_values": processed["pixel_values"], "image_grid_thw": processed["image_grid_thw"]}
    return arguments


def logits(theirs, prompt, max_pixels: int) -> torch.Tensor:
    """Logits [T, V] of one prompt, differentiable."""
    return theirs(**inputs(theirs, prompt, max_pixels)).logits[0]


def features(theirs, prompt, max_pixels: int) -> np.ndarray:
    """The merged image tokens [S, D] of a prompt with images."""
    arguments = inputs(theirs, prompt, max_pixels)
    with torch.no_grad():
        out = theirs.model.get_image_features(arguments["pixel_values"], arguments["image_grid_thw"])
    return torch.cat(list(getattr(out, "pooler_output", out))).numpy()


def position_ids(theirs, prompt, max_pixels: int) -> np.ndarray:
    """M-RoPE positions [3, T]."""
    arguments = inputs(theirs, prompt, max_pixels)
    positions, _ = theirs.model.get_rope_index(
        arguments["input_ids"],
        arguments["mm_token_type_ids"],
        arguments.get("image_grid_thw"),
        attention_mask=arguments["attention_mask"],
    )
    return positions[:, 0].numpy()


def greedy(theirs, prompt, count: int, max_pixels: int) -> np.ndarray:
    """`count` greedy tokens, image and video tokens suppressed."""
    config = theirs.config
    out = theirs.generate(
        **inputs(theirs, prompt, max_pixels),
        max_new_tokens=count,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
        suppress_tokens=[config.image_token_id, config.video_token_id],
    )
    return out[0, len(prompt[0]) :].numpy()


def next_token_gradient(theirs, prompts, max_pixels: int) -> dict[str, np.ndarray]:
    """The gradient, by checkpoint name, of `tiny.next_token_loss` over all prompts."""
    theirs.zero_grad()
    for prompt in prompts:
        logp = torch.log_softmax(logits(theirs, prompt, max_pixels)[:-1], dim=-1)
        targets = torch.tensor(list(prompt[0]))[1:, None]
        (-logp.gather(1, targets).sum() / 100).backward()
    return gradient(theirs)


def gradient(theirs) -> dict[str, np.ndarray]:
    """The gradients of the last backward pass, by checkpoint name."""
    return {hub_name(name): parameter.grad.numpy().copy() for name, parameter in theirs.named_parameters()}
