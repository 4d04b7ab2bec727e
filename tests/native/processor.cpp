// Stands in for the part of GCC's runtime library that says which instructions a processor has. A
// shared object linked with it dispatches as on a processor with LEVEL and no other level, or,
// where LEVEL is not defined, on one with none that FASTLOSS_SIMD names.
extern "C" {
struct {
  unsigned vendor, type, subtype, features;
} __cpu_model;
unsigned __cpu_features2[8];

int __cpu_indicator_init() {
#ifdef LEVEL
  // The bit that stands for the level differs between versions of GCC: the one that is asked for.
  for (unsigned& word : __cpu_features2) {
    for (int bit = 0; bit < 32; ++bit) {
      word = 1u << bit;
      asm volatile("" ::: "memory");
      if (__builtin_cpu_supports(LEVEL)) return 0;
    }
    word = 0;
  }
#endif
  return 0;
}
}
