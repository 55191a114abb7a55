// Which copy of a CPU kernel to run. No torch header: the operators and genet_ext._C both ask here.
#pragma once

#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

namespace genet {

enum class SimdLevel : int { kBaseline, kV3, kV4 };  // the processor's own minimum, AVX2 + FMA, AVX-512

constexpr const char* kSimdNames[] = {"baseline", "x86-64-v3", "x86-64-v4"};

inline SimdLevel best_simd_level() {
#if defined(__x86_64__) && defined(__gnu_linux__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("x86-64-v4")) return SimdLevel::kV4;
  if (__builtin_cpu_supports("x86-64-v3")) return SimdLevel::kV3;
#endif
  return SimdLevel::kBaseline;
}

// The best level this processor has, or the one that the environment variable GENET_SIMD names (for tests and
// comparisons; throws if the processor lacks it).
inline SimdLevel simd_level() {
  const SimdLevel best = best_simd_level();
  const char* wanted = std::getenv("GENET_SIMD");
  if (!wanted || !*wanted) return best;
  for (int level = 0; level <= int(best); ++level) {
    if (std::strcmp(wanted, kSimdNames[level]) == 0) return SimdLevel(level);
  }
  throw std::runtime_error(std::string("GENET_SIMD: expected a level up to this processor's ") +
                           kSimdNames[int(best)] + ", got '" + wanted + "'");
}

}  // namespace genet
