// A defect of each kind that the sanitizers must catch, run before the corpus: a sanitizer that is
// not there finds nothing. `volatile` keeps the compiler from seeing the mistake.
#include <vector>

#pragma GCC visibility push(default)
extern "C" {

int beyond_the_end(int count) {
  const std::vector<int> heap(count, 1);
  int sum = 0;
  for (int i = 0; i <= count; ++i) sum += *(heap.data() + i);
  return sum;
}

int beyond_the_stack(int count) {
  volatile int buffer[8] = {};
  volatile int* volatile start = buffer;
  start[count] = 1;
  return buffer[0];
}

int overflow(int count) {
  volatile int largest = 0x7fffffff;
  return largest + count;
}

int shift(int count) {
  volatile int bits = 64;
  return count << bits;
}

int misaligned(int count) {
  alignas(8) char bytes[64] = {};
  volatile int offset = 1;
  return *reinterpret_cast<int*>(bytes + offset) + count;
}

int not_an_integer(int count) {
  volatile float huge = 1e30f;
  return static_cast<int>(huge) + count;
}
}
