/* The plain C interface of saqsam's kernels; README.md explains each by its arithmetic.
 *
 * Every function is safe to call from several threads at once. Levels are numbered: 0 plain C++, 1 AVX2,
 * 2 AVX-VNNI, 3 AVX-512 VNNI, 4 NEON with dot product, 5 AMX. A level that this processor or this build lacks must not
 * be asked for: ask saqsam_levels() first. Strides and sizes count elements; every buffer of codes needs 64
 * readable bytes after its last one.
 */
#ifndef SAQSAM_NATIVE_H
#define SAQSAM_NATIVE_H
#include <stdint.h>

#if defined(_WIN32)
#define SAQSAM_API __declspec(dllexport)
#else
#define SAQSAM_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define SAQSAM_VERSION 5
#define SAQSAM_LEVELS 6

/* Rises whenever this file changes: what calls must have been written for what answers. */
SAQSAM_API int32_t saqsam_version(void);
/* Bit n says that level n was built and runs here. */
SAQSAM_API int32_t saqsam_levels(void);

/* A weight in tiles for one level. `bits` is 4 (weights of 2 to 4 bits, half a byte each) or 8. Both functions
 * give the number of bytes; `pack` writes them unless `out` is NULL. Codes are (columns, inner), rows one after
 * the other; what is multiplied is code - 8 for 4 bits, code - 128 for 8. */
SAQSAM_API int64_t saqsam_pack_weight(int32_t level, int32_t bits, const uint8_t *codes, int64_t columns,
                                      int64_t inner, uint8_t *out);

/* sums (m, n) of codes (m, k) times a packed weight (n, k), then for each value
 *     v = (sum + offset[n] - zero[n] * (sum of the row's codes)) * scale[n] + bias[n]
 * and, in this order, as far as asked: v becomes gelu(v); v is stored as float, added to `residual`; v is rounded
 * to its column's grid and stored as a byte. Arrays by column are padded to a multiple of 32. */
typedef struct {
  int64_t rows, columns, inner; /* inner: as packed, without padding */
  const uint8_t *codes;
  int64_t code_stride; /* at least inner rounded up to 32; what is between is multiplied by zero */
  const uint8_t *weight;
  int32_t weight_bits, largest_code; /* of the codes */
  int32_t largest_step;              /* the largest |code - 8| or |code - 128| of the weight */
  int32_t gelu;
  const int32_t *offset, *zero;
  const float *scale, *bias;
  float *values; /* NULL, or where to store floats of the first value_columns columns */
  int64_t value_stride, value_columns;
  const float *residual; /* NULL, or of the layout of values */
  uint8_t *out;          /* NULL, or where to store codes */
  int64_t out_stride;
  const float *grid_scale, *grid_inverse, *grid_zero, *grid_top;
} saqsam_linear_job;
SAQSAM_API void saqsam_linear(int32_t level, int32_t threads, const saqsam_linear_job *job);

/* Layer norm of each row of `inner` floats, then stored as float or rounded to one grid. */
typedef struct {
  int64_t rows, inner;
  const float *x;
  int64_t x_stride;
  const float *weight, *bias;
  float epsilon;
  int32_t lanes; /* 4 or 8: how many floats PyTorch's layer norm adds side by side */
  float *values; /* NULL, or (rows, value_stride) */
  int64_t value_stride;
  uint8_t *out; /* NULL, or (rows, out_stride) */
  int64_t out_stride;
  float scale, zero, top;
} saqsam_norm_job;
SAQSAM_API void saqsam_norm(int32_t level, int32_t threads, const saqsam_norm_job *job);

/* Attention of a square image of side * side tokens, within windows of window * window tokens (window = side:
 * global), over heads of `width` channels. Codes of query, key and value lie side by side: (tokens, code_stride),
 * 3 * heads * width of them. Tokens outside the image have the codes `padding`. Gives codes (tokens, out_stride).
 * With `pooled` a query stands for a square of 2 * 2 tokens: queries come from there, output has as many rows, side
 * and window are even, and there are no relative positions. */
typedef struct {
  int64_t side, window, heads, width;
  const uint8_t *codes;
  int64_t code_stride;
  const uint8_t *pooled; /* NULL, or (tokens / 4, pooled_stride), heads * width of them */
  int64_t pooled_stride;
  const uint8_t *padding;        /* (3 * heads * width) */
  int32_t query_zero, key_zero, value_zero;
  int32_t query_top, key_top, value_top;
  float query_scale, score_scale; /* score = sum * score_scale */
  const float *query_values;      /* NULL: query_scale * (code - zero); else (tokens, query_stride) floats */
  int64_t query_stride;
  const float *table_rows, *table_columns; /* NULL, or (window, width, padded window) relative positions */
  int64_t table_stride;                    /* padded window: a multiple of 16 */
  int32_t lanes;                           /* 4, 8 or 16: how many floats PyTorch's softmax adds side by side */
  float map_scale, map_zero, map_top;      /* affine map */
  const float *level_limits;               /* NULL, or logarithmic map: see attention.h */
  const float *level_low, *level_high;
  float value_scale;  /* scale of the values, for a logarithmic map */
  float output_scale; /* value = sum * output_scale */
  float out_scale, out_zero, out_top;
  uint8_t *out;
  int64_t out_stride;
} saqsam_attention_job;
SAQSAM_API void saqsam_attention(int32_t level, int32_t threads, const saqsam_attention_job *job);

/* Attention between an image of `image` tokens and, for each prompt, `tokens` others. Channels are heads * width. The
 * same job serves both directions: the image asks, then `values` are the tokens' (prompts * tokens, token_stride)
 * and a row of the image is what is computed; or tokens ask, and `values` are the image's. Steps of codes are
 * exact sums in float as long as they are below 2^24, as in PyTorch. */
typedef struct {
  int64_t prompts, image, tokens, heads, width;
  const uint8_t *image_codes; /* of the image's queries or keys, (image_rows, image_stride), over and over again */
  int64_t image_stride, image_rows;
  int32_t image_zero, image_top;
  const uint8_t *token_codes; /* of the tokens' keys or queries, (prompts * tokens, token_stride) */
  int64_t token_stride;
  int32_t token_zero, token_top;
  const uint8_t *values; /* of whoever is asked, laid out as its other codes */
  int64_t value_stride;
  float value_zero;
  float value_factor; /* 1 for an affine map; the values' scale for a logarithmic one */
  float score_scale;
  int32_t lanes;                      /* 4, 8 or 16: how many floats PyTorch's softmax adds side by side */
  float map_scale, map_zero, map_top; /* affine map */
  const float *level_limits;          /* NULL, or logarithmic map: as of saqsam_attention_job */
  const float *level_low, *level_high;
  float output_scale; /* value = sum * output_scale */
  float out_scale, out_zero, out_top;
  uint8_t *out; /* (prompts * image, out_stride) if the image asks, else (prompts * tokens, out_stride) */
  int64_t out_stride;
} saqsam_cross_job;
/* Tokens ask. */
SAQSAM_API void saqsam_tokens_ask(int32_t level, int32_t threads, const saqsam_cross_job *job);

/* Image tokens to masks, in float: two transposed convolutions of 2x2 with stride 2, layer norm and GELU after the
 * first, GELU after the second, and the product with a vector for each mask. Weights are packed by
 * saqsam_pack_matrix: (inner, 4 * first) with columns by place and channel, then (first, 4 * second) with columns
 * by channel and place. Vectors and biases of the second have a number for each of these columns. Finer features of
 * the image, which all prompts share, are added to what the two convolutions give. */
typedef struct {
  int64_t prompts, side, inner, first, second, masks;
  const float *x; /* (prompts * side * side, inner) */
  const float *first_weight, *first_bias, *norm_weight, *norm_bias;
  float epsilon;
  const float *second_weight, *second_bias; /* padded to a multiple of 32 */
  const float *first_features;  /* NULL, or (side * side, 4 places, first) */
  const float *second_features; /* NULL, or (side * side, 4 places, second, 4 places) */
  const float *vectors; /* (prompts, masks, 4 * second padded to a multiple of 32), zero beyond */
  float *out;           /* (prompts, masks, 4 * side, 4 * side) */
} saqsam_upscale_job;
/* A float matrix (inner, columns) in tiles for one level; gives the number of floats, writes unless `out` is NULL. */
SAQSAM_API int64_t saqsam_pack_matrix(int32_t level, const float *matrix, int64_t inner, int64_t columns,
                                      float *out);

SAQSAM_API void saqsam_upscale(int32_t level, int32_t threads, const saqsam_upscale_job *job);

/* Rows of the decoder's image, a few at a time through all steps, so that what one writes the next one finds in the
 * cache. If there is an attention, the image asks, the output layer takes what it gathered, and that is x; else x
 * is given. Then v = x + residual, normed if there is a weight; v is stored; v, or v plus the row's position, is
 * rounded and projected. Of the attention `out`, of the layers `codes` and of the output layer `values` are not
 * looked at: they are scratch. */
#define SAQSAM_MOST_PROJECTIONS 3
typedef struct {
  int64_t prompts, rows, inner; /* rows of each prompt, channels */
  const saqsam_cross_job *attention;
  const saqsam_linear_job *output;
  const float *x;        /* (prompts * rows, inner) */
  const float *residual; /* NULL, or (residual_rows, inner), over and over again */
  int64_t residual_rows;
  const float *positions; /* (position_rows, inner), over and over again */
  int64_t position_rows;
  const float *weight, *bias; /* NULL, or (inner) */
  float epsilon;
  int32_t lanes; /* as of saqsam_norm_job */
  float *values; /* NULL, or (prompts * rows, inner), which may be x or the residual */
  int32_t projections;
  struct {
    const saqsam_linear_job *layer; /* gives codes */
    float scale, zero, top;         /* of its input */
    int32_t with_positions;
  } projection[SAQSAM_MOST_PROJECTIONS];
} saqsam_image_job;
SAQSAM_API void saqsam_image(int32_t level, int32_t threads, const saqsam_image_job *job);

/* 3x3 neighbourhoods of an image (side, side, channels) side by side: (side * side, out_stride) with the codes of
 * row above left first; beyond the border lies `zero`. */
SAQSAM_API void saqsam_patches(int32_t threads, const uint8_t *codes, int64_t code_stride, int64_t side,
                               int64_t channels, uint8_t zero, uint8_t *out, int64_t out_stride);

#ifdef __cplusplus
}
#endif
#endif
