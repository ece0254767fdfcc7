"""transformers' outputs for the tiny models and prompts: the reference for live comparisons and golden files.

Needs torch; tests import it through `pytest.importorskip`.
"""

import numpy as np
import tiny
import torch
import transformers

import models

FEATURES, LOGITS = 1e-4, 5e-4  # how far ours may be from theirs
KINDS = {  # of config and model, and the fields of the vision and text configs that are a family's own
    "qwen2_5_vl": (
        transformers.Qwen2_5_VLConfig,
        transformers.Qwen2_5_VLForConditionalGeneration,
        ("window_size", "fullatt_block_indexes"),
        (),
    ),
    "qwen3_vl": (
        transformers.Qwen3VLConfig,
        transformers.Qwen3VLForConditionalGeneration,
        ("num_position_embeddings", "deepstack_visual_indexes"),
        ("head_dim",),
    ),
}


def build(config: models.Config):
    """A transformers model; its config is written out so as not to depend on `Config.to_hf`."""
    vision, text = config.vision, config.text
    tied = text.tie_word_embeddings
    config_class, model_class, of_vision, of_text = KINDS[config.model_type]
    hf_config = config_class(
        vision_config={
            "depth": vision.depth,
            "hidden_size": vision.hidden_size,
            "intermediate_size": vision.intermediate_size,
            "num_heads": vision.num_heads,
            "out_hidden_size": vision.out_hidden_size,
            **{name: getattr(vision, name) for name in of_vision},
        },
        text_config={
            "vocab_size": text.vocab_size,
            "hidden_size": text.hidden_size,
            "intermediate_size": text.intermediate_size,
            "num_hidden_layers": text.num_hidden_layers,
            "num_attention_heads": text.num_attention_heads,
            "num_key_value_heads": text.num_key_value_heads,
            "rms_norm_eps": text.rms_norm_eps,
            **{name: getattr(text, name) for name in of_text},
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
    return model_class(hf_config).eval()


def hub_name(name: str, theirs) -> str:
    """The checkpoint name of a parameter in memory."""
    if theirs.config.model_type == "qwen3_vl":
        return name
    return name.replace("model.visual.", "visual.", 1).replace("model.language_model.", "model.", 1)


def with_weights(model: models.Model):
    """A transformers model with our model's weights."""
    theirs = build(model.config)
    ours = {name: np.array(value) for name, value in models.named(model).items()}
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():  # a tied head is listed once
            parameter.copy_(torch.tensor(ours.pop(hub_name(name, theirs))))
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
        processor = image_processor(theirs.config.model_type, tiny.MIN_PIXELS, max_pixels)
        processed = processor(list(images), return_tensors="pt")
        arguments |= {"pixel_values": processed["pixel_values"], "image_grid_thw": processed["image_grid_thw"]}
    return arguments


def image_processor(model_type: str, min_pixels: int, max_pixels: int):
    """transformers' image processor with the published settings of a family."""
    own = {"qwen3_vl": {"patch_size": 16, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}}.get(model_type, {})
    return transformers.Qwen2VLImageProcessorPil(min_pixels=min_pixels, max_pixels=max_pixels, **own)


def logits(theirs, prompt, max_pixels: int) -> torch.Tensor:
    """Logits [T, V] of one prompt, differentiable."""
    return theirs(**inputs(theirs, prompt, max_pixels)).logits[0]


def features(theirs, prompt, max_pixels: int) -> np.ndarray:
    """The merged image tokens of a prompt with images, and any deepstack features next to them: [S, E]."""
    arguments = inputs(theirs, prompt, max_pixels)
    with torch.no_grad():
        out = theirs.model.get_image_features(arguments["pixel_values"], arguments["image_grid_thw"])
    levels = [getattr(out, "pooler_output", out), *(getattr(out, "deepstack_features", None) or ())]  # of each image
    return torch.cat([torch.cat(list(level)) for level in levels], dim=-1).numpy()


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


def assert_equal(model, theirs, prompts, max_pixels: int = tiny.MAX_PIXELS):
    """Equal positions, features and logits of prompts in one batch here and one by one there; the packed inputs."""
    packed = models.pack(model.config, prompts, min_pixels=tiny.MIN_PIXELS, max_pixels=max_pixels)
    ours = np.asarray(model(packed))
    for b, prompt in enumerate(prompts):
        length = len(prompt[0])
        expected = logits(theirs, prompt, max_pixels).detach().numpy()
        np.testing.assert_array_equal(packed.position_ids[:, b, :length], position_ids(theirs, prompt, max_pixels))
        np.testing.assert_allclose(ours[b, :length], expected, atol=LOGITS, rtol=0)
        if prompt[1]:
            expected = features(theirs, prompt, max_pixels)
            np.testing.assert_allclose(tiny.features(model, packed, b), expected, atol=FEATURES, rtol=0)
    return packed


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
    return {hub_name(name, theirs): parameter.grad.numpy().copy() for name, parameter in theirs.named_parameters()}
