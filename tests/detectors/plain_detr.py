"""H-Deformable-DETR and DINO a second time: functions of a dictionary of tensors under their published names.

Written from the papers for images without padding, one at a time, without a class for any layer. Every tensor
that is read is noted, so that a test can ask whether the whole file was used.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

Sizes = list[tuple[int, int]]


def sample(value: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Bilinear values ``(*points, C)`` of a map ``(h, w, C)``, 0 outside; pixel centres at half integers."""
    height, width = value.shape[:2]
    x, y = x - 0.5, y - 0.5
    result = torch.zeros(*x.shape, value.shape[2])
    for dy in (0, 1):
        for dx in (0, 1):
            row, column = y.floor() + dy, x.floor() + dx
            weight = (1 - (y - row).abs()) * (1 - (x - column).abs())
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            found = value[row.clamp(0, height - 1).long(), column.clamp(0, width - 1).long()]
            result += (weight * inside)[..., None] * found
    return result


def waves(x: Tensor, count: int, temperature: float) -> Tensor:
    index = torch.arange(count)
    angles = x[..., None] / temperature ** ((index // 2) * 2 / count)
    return torch.where(index % 2 == 0, angles.sin(), angles.cos())


def logit(x: Tensor, eps: float) -> Tensor:
    return torch.log(x.clamp(eps, 1) / (1 - x).clamp(eps, 1))


class PlainDetr:
    """What both have in common; ``heads`` attention heads, 4 points, the rest from the tensors' shapes."""

    eps = 1e-5

    def __init__(self, tensors: dict[str, Tensor], heads: int) -> None:
        self.t, self.heads, self.used = tensors, heads, set[str]()

    def __getitem__(self, name: str) -> Tensor:
        self.used.add(name)
        return self.t[name]

    def linear(self, name: str, x: Tensor) -> Tensor:
        return x @ self[f"{name}.weight"].T + self[f"{name}.bias"]

    def mlp(self, name: str, x: Tensor, depth: int) -> Tensor:
        for i in range(depth):
            x = self.linear(f"{name}.layers.{i}", x)
            x = x.relu() if i < depth - 1 else x
        return x

    def norm(self, name: str, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return scaled * self[f"{name}.weight"] + self[f"{name}.bias"]

    def deformable(self, name: str, query: Tensor, reference: Tensor, memory: Tensor, sizes: Sizes) -> Tensor:
        """``query (Q, d)``, ``reference (Q, 2 or 4)`` relative points or boxes, ``memory (S, d)``."""
        value = self.linear(f"{name}.value_proj", memory)
        count, width, levels = len(query), value.shape[1] // self.heads, len(sizes)
        offsets = self.linear(f"{name}.sampling_offsets", query).view(count, self.heads, levels, 4, 2)
        weights = self.linear(f"{name}.attention_weights", query).view(count, self.heads, -1).softmax(-1)
        weights = weights.view(count, self.heads, levels, 4)
        result, start = torch.zeros(count, self.heads, width), 0
        for level, (height, across) in enumerate(sizes):
            one = value[start : start + height * across].view(height, across, self.heads, width)
            start += height * across
            scale = torch.tensor([across, height])
            for head in range(self.heads):
                shift = offsets[:, head, level]
                if reference.shape[1] == 2:
                    places = reference[:, None] * scale + shift
                else:
                    places = (reference[:, None, :2] + shift / 4 * reference[:, None, 2:] / 2) * scale
                found = sample(one[:, :, head], places[..., 0], places[..., 1])
                result[:, head] += (found * weights[:, head, level, :, None]).sum(1)
        return self.linear(f"{name}.output_proj", result.flatten(1))

    def attention(self, name: str, x: Tensor, position: Tensor) -> Tensor:
        d = x.shape[1]
        weight, bias = self[f"{name}.in_proj_weight"], self[f"{name}.in_proj_bias"]
        q, k, v = (
            (part @ weight[i * d : i * d + d].T + bias[i * d : i * d + d]).view(
                -1, self.heads, d // self.heads
            )
            for i, part in enumerate((x + position, x + position, x))
        )
        maps = torch.einsum("qhc,khc->hqk", q, k) / math.sqrt(d // self.heads)
        return self.linear(f"{name}.out_proj", torch.einsum("hqk,khc->qhc", maps.softmax(-1), v).flatten(1))

    def ffn(self, name: str, x: Tensor) -> Tensor:
        return self.linear(f"{name}.linear2", self.linear(f"{name}.linear1", x).relu())

    def sources(self, maps: list[Tensor], levels: int) -> list[Tensor]:
        """``(d, h, w)`` of each level."""
        found, last = [], maps[-1]
        for i in range(levels):
            name = f"input_proj.{i}"
            stride = 1 if i < len(maps) else 2
            x = maps[i] if i < len(maps) else last
            weight = self[f"{name}.0.weight"]
            x = F.conv2d(x[None], weight, self[f"{name}.0.bias"], stride, padding=weight.shape[-1] // 2)
            x = F.group_norm(x, 32, self[f"{name}.1.weight"], self[f"{name}.1.bias"])[0]
            last = x if i >= len(maps) else last
            found.append(x)
        return found

    def encode(self, sources: list[Tensor], shift: float, temperature: float) -> tuple[Tensor, Sizes]:
        sizes = [(one.shape[1], one.shape[2]) for one in sources]
        d = sources[0].shape[0]
        positions, points = [], []
        for level, (height, width) in enumerate(sizes):
            y = (torch.arange(1, height + 1) - shift) / (height + 1e-6) * 2 * math.pi
            x = (torch.arange(1, width + 1) - shift) / (width + 1e-6) * 2 * math.pi
            down = waves(y, d // 2, temperature)[:, None].expand(-1, width, -1)
            across = waves(x, d // 2, temperature)[None].expand(height, -1, -1)
            positions.append(
                torch.cat([down, across], 2).view(-1, d) + self["transformer.level_embed"][level]
            )
            y, x = (torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width
            points.append(torch.stack([x.repeat(height), y.repeat_interleave(width)], 1))
        x, position, reference = (
            torch.cat([one.flatten(1).T for one in sources]),
            *map(torch.cat, (positions, points)),
        )
        for i in range(self.depth("transformer.encoder.layers.")):
            name = f"transformer.encoder.layers.{i}"
            found = self.deformable(f"{name}.self_attn", x + position, reference, x, sizes)
            x = self.norm(f"{name}.norm1", x + found)
            x = self.norm(f"{name}.norm2", x + self.ffn(name, x))
        return x, sizes

    def proposals(self, memory: Tensor, sizes: Sizes) -> tuple[Tensor, Tensor]:
        boxes = []
        for level, (height, width) in enumerate(sizes):
            for row in range(height):
                for column in range(width):
                    side = 0.05 * 2**level
                    boxes.append([(column + 0.5) / width, (row + 0.5) / height, side, side])
        table = torch.tensor(boxes)
        valid = ((table > 0.01) & (table < 0.99)).all(1)
        cells = self.linear("transformer.enc_output", memory * valid[:, None])
        start = torch.log(table / (1 - table))
        start[~valid] = math.inf
        return self.norm("transformer.enc_output_norm", cells), start

    def decoder_layer(
        self, i: int, x: Tensor, position: Tensor, boxes: Tensor, memory: Tensor, sizes: Sizes
    ) -> Tensor:
        name = f"transformer.decoder.layers.{i}"
        x = self.norm(f"{name}.norm2", x + self.attention(f"{name}.self_attn", x, position))
        found = self.deformable(f"{name}.cross_attn", x + position, boxes, memory, sizes)
        x = self.norm(f"{name}.norm1", x + found)
        return self.norm(f"{name}.norm3", x + self.ffn(name, x))

    def depth(self, prefix: str) -> int:
        return 1 + max(
            int(name.removeprefix(prefix).split(".")[0]) for name in self.t if name.startswith(prefix)
        )


class PlainHybridDetr(PlainDetr):
    def answer(self, maps: list[Tensor], levels: int, queries: int) -> tuple[Tensor, Tensor]:
        memory, sizes = self.encode(self.sources(maps, levels), 0.5, 10_000)
        layers = self.depth("transformer.decoder.layers.")
        cells, start = self.proposals(memory, sizes)
        best = self.linear(f"class_embed.{layers}", cells)[:, 0].topk(queries).indices
        raw = (self.mlp(f"bbox_embed.{layers}", cells, 3) + start)[best]
        d = memory.shape[1]
        spread = waves(raw.sigmoid() * 2 * math.pi, d // 2, 10_000).flatten(1)
        spread = self.norm("transformer.pos_trans_norm", self.linear("transformer.pos_trans", spread))
        x, position, boxes = self["query_embed.weight"][:queries], spread[:, :d], raw.sigmoid()
        for i in range(layers):
            x = self.decoder_layer(i, x, position, boxes, memory, sizes)
            logits = self.linear(f"class_embed.{i}", x)
            boxes = (self.mlp(f"bbox_embed.{i}", x, 3) + logit(boxes, 1e-5)).sigmoid()
        return logits, boxes


class PlainDino(PlainDetr):
    def answer(self, maps: list[Tensor], levels: int) -> tuple[Tensor, Tensor]:
        memory, sizes = self.encode(self.sources(maps, levels), 0.0, 20)
        cells, start = self.proposals(memory, sizes)
        x = self["transformer.tgt_embed.weight"]
        scores = self.linear("transformer.enc_out_class_embed", cells).max(1).values
        raw = self.mlp("transformer.enc_out_bbox_embed", cells, 3) + start
        boxes = raw[scores.topk(len(x)).indices].sigmoid()
        for i in range(self.depth("transformer.decoder.layers.")):
            spread = waves(boxes[:, [1, 0, 2, 3]] * 2 * math.pi, memory.shape[1] // 2, 10_000).flatten(1)
            position = self.mlp("transformer.decoder.ref_point_head", spread, 2)
            x = self.decoder_layer(i, x, position, boxes, memory, sizes)
            y = self.norm("transformer.decoder.norm", x)
            answer = (self.mlp(f"bbox_embed.{i}", y, 3) + logit(boxes, 1e-3)).sigmoid()
            boxes = (self.mlp(f"transformer.decoder.bbox_embed.{i}", x, 3) + logit(boxes, 1e-3)).sigmoid()
        return self.linear(f"class_embed.{i}", y), answer
