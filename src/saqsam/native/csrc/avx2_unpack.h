// Half bytes to signed bytes, for the levels that have AVX2: (byte & 15) - 8 and (byte >> 4) - 8.
#pragma once
#include <immintrin.h>
#include <string.h>

namespace {

void unpack(const uint8_t* nibbles, int8_t* bytes, int64_t count) {
  const __m256i low = _mm256_set1_epi8(15), middle = _mm256_set1_epi8(8);
  for (int64_t at = 0; at < count; at += 64) {
    const __m256i x = _mm256_loadu_si256((const __m256i*)(nibbles + at / 2));
    const __m256i first = _mm256_and_si256(x, low), second = _mm256_and_si256(_mm256_srli_epi16(x, 4), low);
    _mm256_storeu_si256((__m256i*)(bytes + at), _mm256_sub_epi8(first, middle));
    _mm256_storeu_si256((__m256i*)(bytes + at + 32), _mm256_sub_epi8(second, middle));
  }
}

}  // namespace
