"""Names and shapes of the tensors of a ``transformers.SamModel``, from its configuration alone.

A packed file is checked against them before anything is computed. Laying the model out would say the same,
but the import of ``transformers``' models takes longer than all else up to the first mask.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from saqsam.families.sam_names import DecoderLayerNames, EncoderBlockNames, SamNames

_LAYERS_RATE = 2
"""Of cross-attentions inside of layers; what the configuration says is for the final one alone."""
_Named = Iterator[tuple[str, tuple[int, ...]]]


def sam_names(config: Any) -> SamNames:
    """The names of a SAM with this configuration."""
    return SamNames.of(config.vision_config.num_hidden_layers, config.mask_decoder_config.num_hidden_layers)


def sam_shapes(config: Any) -> dict[str, tuple[int, ...]]:
    """Shapes by name, of all that ``SamModel(config).state_dict()`` has."""
    names = sam_names(config)
    shapes = dict(_encoder(config.vision_config, names))
    shapes |= _prompts(config.prompt_encoder_config, names)
    shapes |= _decoder(config.mask_decoder_config, names)
    positions = (2, config.vision_config.num_pos_feats)
    return shapes | {names.frequencies: positions, names.shared_frequencies: positions}


def _layer(path: str, *shape: int, bias: int | None = None) -> _Named:
    """Weight ``shape`` with a bias for each output, or as many as said."""
    yield f"{path}.weight", shape
    yield f"{path}.bias", (shape[0] if bias is None else bias,)


def _norm(path: str, width: int) -> _Named:
    yield from _layer(path, width)


def _encoder(vision: Any, names: SamNames) -> _Named:
    width, patch, out = vision.hidden_size, vision.patch_size, vision.output_channels
    grid = vision.image_size // patch
    yield names.positions, (1, grid, grid, width)
    yield from _layer(names.projection, width, 3, patch, patch)
    for index, block in enumerate(names.blocks):
        side = grid if index in vision.global_attn_indexes else vision.window_size or grid
        yield from _block(vision, block, side)
    for path, inner, kernel in zip(names.neck_convolutions, (width, out), (1, 3), strict=True):
        yield f"{path}.weight", (out, inner, kernel, kernel)
    for path in names.neck_norms:
        yield from _norm(path, out)


def _block(vision: Any, block: EncoderBlockNames, side: int) -> _Named:
    """One whose attention sees ``side x side`` tokens at once."""
    width, hidden = vision.hidden_size, vision.mlp_dim
    for path in block.norms:
        yield from _norm(path, width)
    if vision.use_rel_pos:
        for path in block.tables:
            yield path, (2 * side - 1, width // vision.num_attention_heads)
    for path in block.attention.projections:
        yield f"{path}.weight", (3 * width, width)
        if vision.qkv_bias:
            yield f"{path}.bias", (3 * width,)
    yield from _layer(block.attention.output, width, width)
    yield from _layer(block.mlp_in, hidden, width)
    yield from _layer(block.mlp_out, width, hidden)


def _prompts(prompts: Any, names: SamNames) -> _Named:
    width, channels = prompts.hidden_size, prompts.mask_input_channels
    few = channels // 4
    for path in (names.no_mask, names.no_point):
        yield path, (1, width)
    for kind in range(prompts.num_point_embeddings):
        yield f"{names.points}.{kind}.weight", (1, width)
    yield from _layer(f"{names.mask_embedding}.conv1", few, 1, 2, 2)
    yield from _layer(f"{names.mask_embedding}.conv2", channels, few, 2, 2)
    yield from _layer(f"{names.mask_embedding}.conv3", width, channels, 1, 1)
    yield from _norm(f"{names.mask_embedding}.layer_norm1", few)
    yield from _norm(f"{names.mask_embedding}.layer_norm2", channels)


def _decoder(decoder: Any, names: SamNames) -> _Named:
    width, masks = decoder.hidden_size, decoder.num_multimask_outputs + 1
    for path, count in zip(names.output_tokens, (1, masks), strict=True):
        yield f"{path}.weight", (count, width)
    for layer in names.layers:
        yield from _two_way(decoder, layer)
    yield from _attention(names.final_attention.path, width, width // decoder.attention_downsample_rate)
    yield from _norm(names.final_norm, width)
    first, second = names.upscaling
    yield from _layer(first, width, width // 4, 2, 2, bias=width // 4)
    yield from _layer(second, width // 4, width // 8, 2, 2, bias=width // 8)
    yield from _norm(names.upscaling_norm, width // 4)
    for head in range(masks):
        yield from _mlp(f"{names.mask_heads}.{head}", (width, width, width // 8), 3)
    yield from _mlp(names.iou_head, (width, decoder.iou_head_hidden_dim, masks), decoder.iou_head_depth)


def _two_way(decoder: Any, layer: DecoderLayerNames) -> _Named:
    width = decoder.hidden_size
    yield from _attention(layer.self_attention.path, width, width)
    for crossing in (layer.tokens_to_image, layer.image_to_tokens):
        yield from _attention(crossing.path, width, width // _LAYERS_RATE)
    yield from _layer(layer.mlp_in, decoder.mlp_dim, width)
    yield from _layer(layer.mlp_out, width, decoder.mlp_dim)
    for path in layer.norms:
        yield from _norm(path, width)


def _attention(path: str, width: int, inner: int) -> _Named:
    for name in ("q_proj", "k_proj", "v_proj"):
        yield from _layer(f"{path}.{name}", inner, width)
    yield from _layer(f"{path}.out_proj", width, inner)


def _mlp(path: str, widths: tuple[int, int, int], depth: int) -> _Named:
    """Input, hidden and output width; the first and the last layer are there whatever the depth."""
    width, hidden, out = widths
    yield from _layer(f"{path}.proj_in", hidden, width)
    for index in range(depth - 2):
        yield from _layer(f"{path}.layers.{index}", hidden, hidden)
    yield from _layer(f"{path}.proj_out", out, hidden)
