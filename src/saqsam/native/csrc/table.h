// The functions of the level that includes this, as one table.
#pragma once

namespace {

Level make_level() {
  Level level = {};
  level.rows = kTileRows;
  level.columns = kTileColumns;
  for (int kind = 0; kind < kKinds; ++kind)
    for (int rows = 1; rows <= kTileRows; ++rows) level.tiles[kind][rows] = tile_of((Kind)kind, rows);
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
  return level;
}

}  // namespace
