// The tile registers of AMX, eight of 16 rows of 64 bytes, while an object lives; nothing where there are none.
#pragma once
#include "vec.h"

namespace mi {
namespace MI_ISA {

constexpr int64_t kSquare = 32;     // rows and lanes of a block of C
constexpr int64_t kStepPairs = 16;  // pairs of K in a step

#if defined(__AMX_BF16__)

struct TileRegisters {
  TileRegisters() {
    alignas(64) struct {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t bytes_per_row[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } config;
    asm volatile("" ::"r"(&config) : "memory");  // _tile_loadconfig does not say that it reads it all
    _tile_loadconfig(&config);
  }
  ~TileRegisters() { _tile_release(); }
};

#else

struct TileRegisters {
  TileRegisters() {}
  ~TileRegisters() {}
};

#endif

}  // namespace MI_ISA
}  // namespace mi
