// Products of small matrices by a warp on its tensor cores, one set of verbs for every element type.
//
// Shared tiles hold rows of 128 bytes in 8 segments of 16, permuted within each row so that no access below meets a
// bank twice. A product takes 32 bytes of K at a time: Rows are 16 rows of the left factor, Columns 16 rows of the
// right one (columns of the product), and `multiply` adds a 16 x 8 block. A thread with g = lane / 4, t = lane % 4
// holds of every block c[0], c[1] at row g, c[2], c[3] at row g + 8, columns 2t and 2t + 1.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace mi::cuda {

constexpr int kRowBytes = 128;  // of a shared tile
constexpr int kStepBytes = 32;  // of K in a product
constexpr int kSegmentBytes = 16;

__device__ __forceinline__ float exp2_of(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ double exp2_of(double x) { return exp2(x); }

__device__ __forceinline__ float reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ double reciprocal(double x) { return 1 / x; }

// Four 8 x 8 blocks of 16-bit elements; lane l names the address of row l % 8 of block l / 8.
__device__ __forceinline__ void load_blocks(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}
__device__ __forceinline__ void load_blocks_transposed(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}
__device__ __forceinline__ float load_shared(float, uint32_t address) {
  float value;
  asm volatile("ld.shared.f32 %0, [%1];" : "=f"(value) : "r"(address) : "memory");
  return value;
}
__device__ __forceinline__ double load_shared(double, uint32_t address) {
  double value;
  asm volatile("ld.shared.f64 %0, [%1];" : "=d"(value) : "r"(address) : "memory");
  return value;
}

#define MI_MMA(name, a, b)                                                                        \
  asm("mma.sync.aligned." name " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" \
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])                                            \
      : "r"((a)[0]), "r"((a)[1]), "r"((a)[2]), "r"((a)[3]), "r"((b)[0]), "r"((b)[1]))

// Rows, and K-major values, by ldmatrix: 16 rows, two segments.
__device__ __forceinline__ uint32_t blocks_by_row(int lane) {
  return (lane & 15) * kRowBytes + (((lane >> 4) ^ (lane & 7)) * kSegmentBytes);
}
// Columns by ldmatrix: the two segments of 8 rows, then of 8 more.
__device__ __forceinline__ uint32_t blocks_by_segment(int lane) {
  const int row = (lane & 7) + (lane >> 4) * 8;
  return row * kRowBytes + ((((lane >> 3) & 1) ^ (lane & 7)) * kSegmentBytes);
}

__device__ __forceinline__ void multiply_16(float (&c)[4], const uint32_t* a, const uint32_t* b, __nv_bfloat16) {
  MI_MMA("m16n8k16.row.col.f32.bf16.bf16.f32", a, b);
}
__device__ __forceinline__ void multiply_16(float (&c)[4], const uint32_t* a, const uint32_t* b, __half) {
  MI_MMA("m16n8k16.row.col.f32.f16.f16.f32", a, b);
}
__device__ __forceinline__ void multiply_tf32(float (&c)[4], const uint32_t* a, const uint32_t* b) {
  MI_MMA("m16n8k8.row.col.f32.tf32.tf32.f32", a, b);
}
#undef MI_MMA
__device__ __forceinline__ uint32_t packed(float low, float high, __nv_bfloat16) {
  uint32_t r;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
}
__device__ __forceinline__ uint32_t packed(float low, float high, __half) {
  uint32_t r;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
}

// 16-bit elements.
template <class Element>
struct Products {
  using Scalar = float;
  struct Rows {
    uint32_t r[4];
  };
  using Columns = Rows;
  template <int kBlocks>
  static constexpr int kValueSteps = kBlocks / 2;
  static constexpr bool kValuesAsRows = true;  // values_offset is rows_offset

  static __device__ __forceinline__ uint32_t segment(int row, int segment) { return segment ^ (row & 7); }
  static __device__ __forceinline__ uint32_t rows_offset(int lane) { return blocks_by_row(lane); }
  static __device__ __forceinline__ uint32_t columns_offset(int lane) { return blocks_by_segment(lane); }
  static __device__ __forceinline__ uint32_t values_offset(int lane) { return blocks_by_row(lane); }

  static __device__ __forceinline__ Rows load_rows(uint32_t address, bool) {
    Rows a;
    load_blocks(a.r, address);
    return a;
  }
  static __device__ __forceinline__ Columns load_columns(uint32_t address, bool exact) {
    return load_rows(address, exact);
  }
  // 16 features of the rows that the K-step `step` of weights multiplies.
  static __device__ __forceinline__ Columns load_values(uint32_t address, int step, bool) {
    Columns b;
    load_blocks_transposed(b.r, address + step * 16 * kRowBytes);
    return b;
  }
  // Weights as a left factor: a row of blocks, and what a K-step takes of it.
  template <int kBlocks>
  struct Weights {
    uint32_t r[kBlocks][2];

    __device__ __forceinline__ void take(const float (&w)[kBlocks][4]) {
#pragma unroll
      for (int k = 0; k < kBlocks; k++) put(k, w[k]);
    }
    __device__ __forceinline__ void put(int block, const float (&w)[4]) {
      r[block][0] = packed(w[0], w[1], Element{}), r[block][1] = packed(w[2], w[3], Element{});
    }
    __device__ __forceinline__ Rows rows(int step, bool) const {
      return {{r[2 * step][0], r[2 * step][1], r[2 * step + 1][0], r[2 * step + 1][1]}};
    }
  };
  static __device__ __forceinline__ void multiply(float (&c)[4], const Rows& a, const Columns& b, int half, bool) {
    multiply_16(c, a.r, b.r + 2 * half, Element{});
  }
};

// float by TF32: x = high + low, each rounded to 11 bits; x y = high high + (low high + high low). An infinite factor
// takes part in the first product only: times a `low` of 0 it would be NaN. Tensor cores do not round their sums, they
// cut them off, which over many steps adds up to more than float's own error; so the exact product of a step is added
// to the sum outside them, and rounded.
template <>
struct Products<float> {
  using Scalar = float;
  struct Rows {
    uint32_t high[4], finite[4], low[4];
  };
  using Columns = Rows;
  template <int kBlocks>
  static constexpr int kValueSteps = kBlocks;
  static constexpr bool kValuesAsRows = false;

  static __device__ __forceinline__ uint32_t segment(int row, int segment) { return segment ^ (row & 7); }
  static __device__ __forceinline__ uint32_t rows_offset(int lane) { return blocks_by_row(lane); }
  static __device__ __forceinline__ uint32_t columns_offset(int lane) { return blocks_by_segment(lane); }
  static __device__ __forceinline__ uint32_t values_offset(int lane) {
    const int g = lane >> 2, row = 2 * (lane & 3);
    return row * kRowBytes + ((g >> 2) ^ row) * kSegmentBytes + (g & 3) * 4;
  }

  static __device__ __forceinline__ uint32_t rounded(float x) {
    uint32_t r;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(r) : "f"(x));
    return r;
  }
  static __device__ __forceinline__ Rows split(const float (&x)[4], bool exact) {
    Rows out;
#pragma unroll
    for (int k = 0; k < 4; k++) {
      out.high[k] = rounded(x[k]);
      if (!exact) continue;
      const bool finite = fabsf(x[k]) < __builtin_huge_valf();
      out.finite[k] = finite ? out.high[k] : 0;
      out.low[k] = finite ? rounded(x[k] - __uint_as_float(out.high[k])) : 0;
    }
    return out;
  }
  static __device__ __forceinline__ Rows load_rows(uint32_t address, bool exact) {
    uint32_t r[4];
    load_blocks(r, address);
    return split({__uint_as_float(r[0]), __uint_as_float(r[1]), __uint_as_float(r[2]), __uint_as_float(r[3])}, exact);
  }
  static __device__ __forceinline__ Columns load_columns(uint32_t address, bool exact) {
    return load_rows(address, exact);
  }
  // K = t stands for row 2t and K = t + 4 for row 2t + 1, as the columns of the weights lie.
  static __device__ __forceinline__ Columns load_values(uint32_t even, int step, bool exact) {
    const uint32_t odd = even ^ kSegmentBytes;
    const int rows = step * 8 * kRowBytes;
    return split(
        {load_shared(0.f, even + rows), load_shared(0.f, odd + rows + kRowBytes),
         load_shared(0.f, (even ^ kStepBytes) + rows), load_shared(0.f, (odd ^ kStepBytes) + rows + kRowBytes)},
        exact);
  }
  template <int kBlocks>
  struct Weights {
    float w[kBlocks][4];

    __device__ __forceinline__ void take(const float (&from)[kBlocks][4]) {
#pragma unroll
      for (int k = 0; k < kBlocks; k++) put(k, from[k]);
    }
    __device__ __forceinline__ void put(int block, const float (&from)[4]) {
#pragma unroll
      for (int k = 0; k < 4; k++) w[block][k] = from[k];
    }
    __device__ __forceinline__ Rows rows(int step, bool exact) const {
      return split({w[step][0], w[step][2], w[step][1], w[step][3]}, exact);
    }
  };
  static __device__ __forceinline__ void multiply(float (&c)[4], const Rows& a, const Columns& b, int half,
                                                  bool exact) {
    if (!exact) return multiply_tf32(c, a.high, b.high + 2 * half);
    float step[4] = {};
    multiply_tf32(step, a.low, b.finite + 2 * half);
    multiply_tf32(step, a.finite, b.low + 2 * half);
    multiply_tf32(step, a.high, b.high + 2 * half);
#pragma unroll
    for (int k = 0; k < 4; k++) c[k] += step[k];
  }
};

// double: 8 x 8 x 4 products, two for a block of 16 rows.
template <>
struct Products<double> {
  using Scalar = double;
  struct Rows {
    double r[2];
  };
  using Columns = Rows;
  template <int kBlocks>
  static constexpr int kValueSteps = 2 * kBlocks;
  static constexpr bool kValuesAsRows = false;

  static __device__ __forceinline__ uint32_t segment(int row, int segment) {
    return segment ^ (((row & 3) ^ ((row >> 2) & 1)) << 1);
  }
  static __device__ __forceinline__ uint32_t rows_offset(int lane) {
    const int row = lane >> 2, t = lane & 3;
    return row * kRowBytes + segment(row, t >> 1) * kSegmentBytes + (t & 1) * 8;
  }
  static __device__ __forceinline__ uint32_t columns_offset(int lane) { return rows_offset(lane); }
  static __device__ __forceinline__ uint32_t values_offset(int lane) {
    return (lane & 3) * 2 * kRowBytes + (lane >> 3) * kSegmentBytes + ((lane >> 2) & 1) * 8;
  }

  static __device__ __forceinline__ Rows load_rows(uint32_t address, bool) {
    return {{load_shared(0., address), load_shared(0., address + 8 * kRowBytes)}};
  }
  static __device__ __forceinline__ Columns load_columns(uint32_t address, bool exact) {
    return load_rows(address, exact);
  }
  // Step 2k takes the even rows of 8, step 2k + 1 the odd ones, as the columns of the weights lie.
  static __device__ __forceinline__ Columns load_values(uint32_t address, int step, bool) {
    const int row = 2 * (threadIdx.x & 3) + (step & 1);
    const uint32_t at =
        (address + (step >> 1) * 8 * kRowBytes + (step & 1) * kRowBytes) ^ (segment(row, 0) * kSegmentBytes);
    return {{load_shared(0., at), load_shared(0., at ^ 64)}};
  }
  template <int kBlocks>
  struct Weights {
    double w[kBlocks][4];

    __device__ __forceinline__ void take(const double (&from)[kBlocks][4]) {
#pragma unroll
      for (int k = 0; k < kBlocks; k++) put(k, from[k]);
    }
    __device__ __forceinline__ void put(int block, const double (&from)[4]) {
#pragma unroll
      for (int k = 0; k < 4; k++) w[block][k] = from[k];
    }
    __device__ __forceinline__ Rows rows(int step, bool) const {
      return {{w[step >> 1][step & 1], w[step >> 1][2 + (step & 1)]}};
    }
  };
  static __device__ __forceinline__ void multiply(double (&c)[4], const Rows& a, const Columns& b, int half, bool) {
#pragma unroll
    for (int k = 0; k < 2; k++)
      asm("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0, %1}, {%2}, {%3}, {%0, %1};"
          : "+d"(c[2 * k]), "+d"(c[2 * k + 1])
          : "d"(a.r[k]), "d"(b.r[half]));
  }
};

}  // namespace mi::cuda
