// GCC's _tile_loadconfig (amxtileintrin.h, seen in 12.2) tells the optimizer that it reads 8 bytes; it reads 64.
// The rest of ggml's tile configuration is then never written (ggml-cpu/amx/mmq.cpp), and every quantized model
// ends the process on a processor with AMX. Here is the same instruction with the right size.
#if defined(__AMX_TILE__) && defined(__GNUC__) && !defined(__clang__)
#include <immintrin.h>
#define _tile_loadconfig(config) __asm__ volatile("ldtilecfg\t%0" ::"m"(*(const char(*)[64])(config)))
#endif
