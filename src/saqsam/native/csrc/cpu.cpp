// What this processor, its operating system and this build have.
#include "level.h"

#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace {

bool bit(unsigned word, int index) { return (word >> index) & 1; }

// Registers that the system saves when it switches between programs: 1 the SSE, 2 the AVX, 5 to 7 the AVX-512.
uint64_t saved_registers() {
  uint32_t low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return ((uint64_t)high << 32) | low;
}

// Linux lends the registers of tiles, 17 and 18 of those, to a process that asks.
bool tiles_lent() {
#if defined(__linux__)
  const long ask = 0x1023, registers = 18;
  return syscall(SYS_arch_prctl, ask, registers) == 0;
#else
  return false;
#endif
}

int32_t supported() {
  unsigned a, b, c, d, most, b7, c7, d7, a71 = 0;
  int32_t levels = 1;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !bit(c, 27) || !bit(c, 12)) return levels;  // OSXSAVE, FMA
  if (!__get_cpuid_count(7, 0, &most, &b7, &c7, &d7)) return levels;
  if (most >= 1) __get_cpuid_count(7, 1, &a71, &b, &c, &d);
  const uint64_t saved = saved_registers();
  if ((saved & 6) != 6 || !bit(b7, 5)) return levels;
  levels |= 1 << 1;                           // AVX2
  if (bit(a71, 4)) levels |= 1 << 2;          // AVX-VNNI
  const bool wide = bit(b7, 16) && bit(b7, 17) && bit(b7, 30) && bit(b7, 31);  // F, DQ, BW, VL
  if (wide && bit(c7, 11) && (saved & 0xe0) == 0xe0) levels |= 1 << 3;         // VNNI
  const bool tiles = bit(d7, 24) && bit(d7, 25) && (saved >> 17 & 3) == 3;     // registers, int8
  if (levels >> 3 & tiles && tiles_lent()) levels |= 1 << 5;
  return levels;
}

}  // namespace
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>

namespace {

const unsigned long kDotProduct = 1UL << 20;  // HWCAP_ASIMDDP, which old headers do not name

int32_t supported() { return getauxval(AT_HWCAP) & kDotProduct ? 1 | 1 << 4 : 1; }

}  // namespace
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>

namespace {

int32_t supported() {
  int32_t found = 0;
  size_t size = sizeof(found);
  if (sysctlbyname("hw.optional.arm.FEAT_DotProd", &found, &size, nullptr, 0)) return 1;
  return found ? 1 | 1 << 4 : 1;
}

}  // namespace
#else
namespace {
int32_t supported() { return 1; }
}  // namespace
#endif

const Level* level_of(int index) {
  switch (index) {
    case 1: return level_avx2();
    case 2: return level_avxvnni();
    case 3: return level_avx512vnni();
    case 4: return level_neondotprod();
    case 5: return level_amx();
    default: return level_plain();
  }
}

int32_t saqsam_version(void) { return SAQSAM_VERSION; }

int32_t saqsam_levels(void) {
  int32_t levels = supported();
  for (int index = 0; index < SAQSAM_LEVELS; ++index)
    if (!level_of(index)) levels &= ~(1 << index);
  return levels;
}
