"""C++ of ours: quantizers that work on one block of weights in each lane of a vector.

ggml's quantizers try some twenty scales for each sub-block, one weight at a time. The tries of a block
wait for each other, but different blocks do not. So `lanes/` does the same operations in the same
order, for 16, 8 or 4 blocks at once, and branches become selections. The bytes are the same.

- `lanes/` has the C++: `search.h` the searches for scales, one per family, `super_blocks.h`,
  `small_blocks.h` and `uneven.h` the types, `encode.cpp` the way through the rows. `dispatch.cpp` asks
  the processor which of the three widths it can do, so no instruction is met that it does not have.
- `library` opens what `scripts/build_lanes.py` compiled; the package's build runs that.
- `quantizers` decides by type, at its first use in a process. What `trial` holds, blocks of every kind,
  is made by both sides; ours does the type only if all bytes are equal.

Without the library, with another answer, or with `CODELLAMA_QUANTIZERS=ggml`, ggml's own function does
it. Equal bytes need ggml's operations one by one: ours are compiled without fused multiply-add, as ggml's
are on x86-64. Where a compiler fuses them in ggml, as it may on Arm, the trial finds it out.
"""
