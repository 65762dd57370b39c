// The door of the library: how many lanes this processor can work with, and the encoders by that number.
//
// Compiled for the plainest processor of its kind, so that asking is always safe.
#include <stdint.h>

typedef int Encode(int type, const float *rows, uint8_t *out, int64_t n_rows, int64_t n_columns,
                   const float *importance);

extern "C" {

Encode codellama_encode_4;
#if defined(__x86_64__)
Encode codellama_encode_8, codellama_encode_16;
#endif

// Raised with every change of what these functions take or mean; library.py knows the same number.
__attribute__((visibility("default"))) int codellama_lanes_interface(void) { return 1; }

// The most lanes that this processor has the instructions for.
__attribute__((visibility("default"))) int codellama_lanes(void) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        return 16;
    if (__builtin_cpu_supports("avx2")) return 8;
#endif
    return 4;
}

// Encode rows in so many lanes; 0, and nothing is written, where this cannot be done.
__attribute__((visibility("default"))) int codellama_encode(
    int lanes, int type, const float *rows, uint8_t *out, int64_t n_rows, int64_t n_columns,
    const float *importance) {
    if (lanes > codellama_lanes()) return 0;
#if defined(__x86_64__)
    if (lanes == 16) return codellama_encode_16(type, rows, out, n_rows, n_columns, importance);
    if (lanes == 8) return codellama_encode_8(type, rows, out, n_rows, n_columns, importance);
#endif
    if (lanes == 4) return codellama_encode_4(type, rows, out, n_rows, n_columns, importance);
    return 0;
}
}
