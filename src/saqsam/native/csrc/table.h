// The functions of the level that includes this, as one table.
#pragma once

namespace {

Level make_level() {
  Level level = {};
  level.rows = kTileRows;
  level.columns = kTileColumns;
  level.float_columns = kFloatColumns;
  for (int kind = 0; kind < kKinds; ++kind)
    for (int rows = 1; rows <= kTileRows; ++rows) level.tiles[kind][rows] = tile_of((Kind)kind, rows);
  level.flip = kFlip;
  level.kind = kind_of;
  level.unpack = unpack;
  level.widen = widen;
  level.widen_panel = widen_panel;
  level.row_sums = row_sums;
  level.finish = finish;
  level.norm = norm;
  level.attention_bytes = attention_bytes;
  level.pack_map = pack_map;
  level.attention_scratch = attention_scratch;
  level.attend = attend;
  level.settle = settle;
  level.image_asks_scratch = image_asks_scratch;
  level.image_asks = image_asks;
  level.tokens_ask_scratch = tokens_ask_scratch;
  level.tokens_ask = tokens_ask;
  level.upscale_scratch = upscale_scratch;
  level.upscale = upscale;
  return level;
}

}  // namespace
