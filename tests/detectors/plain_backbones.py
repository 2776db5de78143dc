"""ResNet, Swin and FocalNet a second time: functions of a dictionary of tensors by published names."""

from __future__ import annotations

import torch
from tests.detectors.plain_detr import PlainDetr
from torch import Tensor
from torch.nn import functional as F


def resnet(p: PlainDetr, image: Tensor, start: str, depths: list[int]) -> list[Tensor]:
    """Maps ``(C, h, w)`` of the last three stages; batch norms are frozen."""

    def conv_bn(conv: str, bn: str, x: Tensor, stride: int = 1) -> Tensor:
        weight = p[f"{start}{conv}.weight"]
        x = F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
        mean, var, scale, shift = (
            p[f"{start}{bn}.{key}"][:, None, None]
            for key in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-5).sqrt() * scale + shift

    x = F.max_pool2d(conv_bn("conv1", "bn1", image[None], 2).relu(), 3, 2, 1)
    maps = []
    for stage, depth in enumerate(depths, start=1):
        for block in range(depth):
            name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            y = conv_bn(f"{name}.conv1", f"{name}.bn1", x).relu()
            y = conv_bn(f"{name}.conv2", f"{name}.bn2", y, stride).relu()
            y = conv_bn(f"{name}.conv3", f"{name}.bn3", y)
            if block == 0:
                x = conv_bn(f"{name}.downsample.0", f"{name}.downsample.1", x, stride)
            x = (x + y).relu()
        maps.append(x[0])
    return maps[1:]


def swin(
    p: PlainDetr, image: Tensor, start: str, depths: list[int], heads: list[int], window: int
) -> list[Tensor]:
    """Maps ``(C, h, w)`` of the last three stages, each window by itself in a loop."""
    height, width = image.shape[1:]
    image = F.pad(image, (0, -width % 4, 0, -height % 4))
    x = F.conv2d(image[None], p[f"{start}patch_embed.proj.weight"], p[f"{start}patch_embed.proj.bias"], 4)
    x = p.norm(f"{start}patch_embed.norm", x[0].permute(1, 2, 0))
    maps = []
    for stage, depth in enumerate(depths):
        for block in range(depth):
            name = f"{start}layers.{stage}.blocks.{block}"
            shift = window // 2 if block % 2 else 0
            x = x + _windows(p, f"{name}.attn", p.norm(f"{name}.norm1", x), heads[stage], window, shift)
            y = F.gelu(p.linear(f"{name}.mlp.fc1", p.norm(f"{name}.norm2", x)))
            x = x + p.linear(f"{name}.mlp.fc2", y)
        if stage > 0:
            maps.append(p.norm(f"{start}norm{stage}", x).permute(2, 0, 1))
        if stage < len(depths) - 1:
            x = F.pad(x, (0, 0, 0, x.shape[1] % 2, 0, x.shape[0] % 2))
            parts = [x[row::2, column::2] for column in (0, 1) for row in (0, 1)]
            down = f"{start}layers.{stage}.downsample"
            x = p.norm(f"{down}.norm", torch.cat(parts, 2)) @ p[f"{down}.reduction.weight"].T
    return maps


def _windows(p: PlainDetr, name: str, x: Tensor, heads: int, window: int, shift: int) -> Tensor:
    height, width, channels = x.shape
    x = F.pad(x, (0, 0, 0, -width % window, 0, -height % window))
    rows, columns = x.shape[:2]
    # Which stretch of the unshifted map a pixel comes from: pixels of different stretches do not meet.
    y, z = torch.arange(rows), torch.arange(columns)
    stretch = lambda a, size: (a >= size - window).long() + (a >= size - shift).long()  # noqa: E731
    region = (stretch(y, rows)[:, None] * 3 + stretch(z, columns)[None]) * (shift > 0)
    x = torch.roll(x, (-shift, -shift), (0, 1))
    step = torch.arange(window)
    place = torch.stack(torch.meshgrid(step, step, indexing="ij"), -1).view(-1, 2)
    apart = place[:, None] - place[None] + window - 1
    bias = p[f"{name}.relative_position_bias_table"][apart[..., 0] * (2 * window - 1) + apart[..., 1]]
    result = torch.empty_like(x)
    for top in range(0, rows, window):
        for left in range(0, columns, window):
            part = (slice(top, top + window), slice(left, left + window))
            qkv = p.linear(f"{name}.qkv", x[part].reshape(window**2, channels))
            q, k, v = qkv.view(window**2, 3, heads, channels // heads).unbind(1)
            scores = torch.einsum("qhc,khc->qkh", q, k) * (channels // heads) ** -0.5 + bias
            own = region[part].reshape(-1)
            scores = scores.masked_fill((own[:, None] != own[None])[..., None], -1e4)
            mixed = torch.einsum("qkh,khc->qhc", scores.softmax(1), v).flatten(1)
            result[part] = p.linear(f"{name}.proj", mixed).view(window, window, channels)
    return torch.roll(result, (shift, shift), (0, 1))[:height, :width]


def focalnet(
    p: PlainDetr, image: Tensor, start: str, depths: list[int], levels: int, window: int
) -> list[Tensor]:
    """Maps ``(C, h, w)`` of all four stages."""

    def patches(name: str, x: Tensor, stride: int, padding: int) -> Tensor:
        x = F.pad(x, (0, -x.shape[2] % stride, 0, -x.shape[1] % stride))
        x = F.conv2d(x[None], p[f"{name}.proj.weight"], p[f"{name}.proj.bias"], stride, padding)[0]
        return p.norm(f"{name}.norm", x.permute(1, 2, 0))

    def modulation(name: str, x: Tensor) -> Tensor:
        channels = x.shape[2]
        q, context, gates = p.linear(f"{name}.f", x).split([channels, channels, levels + 1], 2)
        context, total = context.permute(2, 0, 1), torch.zeros(())
        for level in range(levels):
            kernel = window + 2 * level
            weight = p[f"{name}.focal_layers.{level}.0.weight"]
            context = F.gelu(F.conv2d(context[None], weight, padding=kernel // 2, groups=channels)[0])
            total = total + context * gates[..., level]
        total = total + F.gelu(context.mean((1, 2), keepdim=True)) * gates[..., levels]
        total = F.conv2d(total[None] / (levels + 1), p[f"{name}.h.weight"], p[f"{name}.h.bias"])[0]
        return p.linear(f"{name}.proj", q * total.permute(1, 2, 0))

    x = patches(f"{start}patch_embed", image, 4, 2)
    maps = []
    for stage, depth in enumerate(depths):
        for block in range(depth):
            name = f"{start}layers.{stage}.blocks.{block}"
            y = p.norm(f"{name}.norm1", modulation(f"{name}.modulation", x))
            x = x + p[f"{name}.gamma_1"] * y
            y = p.linear(f"{name}.mlp.fc2", F.gelu(p.linear(f"{name}.mlp.fc1", x)))
            x = x + p[f"{name}.gamma_2"] * p.norm(f"{name}.norm2", y)
        maps.append(p.norm(f"{start}norm{stage}", x).permute(2, 0, 1))
        if stage < len(depths) - 1:
            x = patches(f"{start}layers.{stage}.downsample", x.permute(2, 0, 1), 2, 1)
    return maps
