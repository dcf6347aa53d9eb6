#include "sepify_cpu.h"

#include <stddef.h>
#include <string.h>

typedef struct {
  const char *name;
  int present;
} Feature;

#if defined(__linux__) && (defined(__aarch64__) || defined(__arm__))
#include <sys/auxv.h>

/* bits of the kernel's ABI (uapi/asm/hwcap.h), not all of them in older headers */
static int has(unsigned long which, unsigned bit) { return (int)((getauxval(which) >> bit) & 1); }

const char *sepify_missing_feature(const char *const *features) {
#if defined(__aarch64__)
  const Feature known[] = {
      {"neon", has(AT_HWCAP, 1)},
      {"lse", has(AT_HWCAP, 8)},
      {"fullfp16", has(AT_HWCAP, 9) && has(AT_HWCAP, 10)},
      {"complxnum", has(AT_HWCAP, 14)},
      {"dotprod", has(AT_HWCAP, 20)},
      {"sve", has(AT_HWCAP, 22)},
      {"fp16fml", has(AT_HWCAP, 23)},
      {"sve2", has(AT_HWCAP2, 1)},
      {"i8mm", has(AT_HWCAP2, 13)},
      {"bf16", has(AT_HWCAP2, 14)},
  };
#else
  const Feature known[] = {
      {"neon", has(AT_HWCAP, 12)},
      {"vfp4", has(AT_HWCAP, 16)},
      {"hwdiv-arm", has(AT_HWCAP, 17)},
  };
#endif
#elif defined(__APPLE__) && defined(__aarch64__)
/* every Apple processor with macOS has what an M1 has */
const char *sepify_missing_feature(const char *const *features) {
  const Feature known[] = {{"neon", 1},     {"lse", 1},     {"fullfp16", 1},
                           {"complxnum", 1}, {"dotprod", 1}, {"fp16fml", 1}};
#elif defined(__x86_64__)
#include <cpuid.h>

/* registers of CPUID: a, b, c, d */
static int has(unsigned leaf, unsigned part, int which, unsigned bit) {
  unsigned r[4] = {0, 0, 0, 0};
  if (!__get_cpuid_count(leaf, part, &r[0], &r[1], &r[2], &r[3])) return 0;
  return (int)((r[which] >> bit) & 1);
}

/* whether the system saves these parts of the registers when it switches tasks */
static int saved(unsigned parts) {
  unsigned low, high;
  if (!has(1, 0, 2, 27)) return 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (low & parts) == parts;
}

const char *sepify_missing_feature(const char *const *features) {
  enum { B = 1, C = 2, D = 3 };
  const int ymm = saved(0x06), zmm = saved(0xe6);
  const unsigned extended = 0x80000001u;
  const Feature known[] = {
      {"sse", has(1, 0, D, 25)},
      {"sse2", has(1, 0, D, 26)},
      {"sse3", has(1, 0, C, 0)},
      {"ssse3", has(1, 0, C, 9)},
      {"cx16", has(1, 0, C, 13)},
      {"sse4.1", has(1, 0, C, 19)},
      {"sse4.2", has(1, 0, C, 20)},
      {"movbe", has(1, 0, C, 22)},
      {"popcnt", has(1, 0, C, 23)},
      {"lzcnt", has(extended, 0, C, 5)},
      {"sse4a", has(extended, 0, C, 6)},
      {"bmi", has(7, 0, B, 3)},
      {"bmi2", has(7, 0, B, 8)},
      {"fma", ymm && has(1, 0, C, 12)},
      {"avx", ymm && has(1, 0, C, 28)},
      {"f16c", ymm && has(1, 0, C, 29)},
      {"avx2", ymm && has(7, 0, B, 5)},
      {"avxvnni", ymm && has(7, 1, 0, 4)},
      {"avxifma", ymm && has(7, 1, 0, 23)},
      {"avxvnniint8", ymm && has(7, 1, D, 4)},
      {"avxneconvert", ymm && has(7, 1, D, 5)},
      {"avxvnniint16", ymm && has(7, 1, D, 10)},
      {"avx512f", zmm && has(7, 0, B, 16)},
      {"avx512dq", zmm && has(7, 0, B, 17)},
      {"avx512ifma", zmm && has(7, 0, B, 21)},
      {"avx512cd", zmm && has(7, 0, B, 28)},
      {"avx512bw", zmm && has(7, 0, B, 30)},
      {"avx512vl", zmm && has(7, 0, B, 31)},
      {"avx512vbmi", zmm && has(7, 0, C, 1)},
      {"avx512vbmi2", zmm && has(7, 0, C, 6)},
      {"avx512vnni", zmm && has(7, 0, C, 11)},
      {"avx512bitalg", zmm && has(7, 0, C, 12)},
      {"avx512vpopcntdq", zmm && has(7, 0, C, 14)},
      {"avx512vp2intersect", zmm && has(7, 0, D, 8)},
      {"avx512fp16", zmm && has(7, 0, D, 23)},
      {"avx512bf16", zmm && has(7, 1, 0, 5)},
  };
#else
#error "sepify bundles run on x86-64, aarch64 and armv7 (Linux, Android), and on Apple silicon"
#endif
  for (; *features; ++features) {
    int present = 0;
    for (size_t i = 0; i < sizeof known / sizeof *known; ++i)
      if (!strcmp(known[i].name, *features)) present = known[i].present;
    if (!present) return *features;
  }
  return NULL;
}
