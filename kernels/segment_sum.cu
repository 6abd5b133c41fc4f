// Sums of segments, each in stored order: a thread per segment, however long.
//
// Twin: NumpyBackend.segment_sum (cpu_fallback/numpy_backend.py), which gives the same bits. A sum
// with an order cannot be shared among threads; what runs side by side is segments.
//
// Entry segment_sum_<precision>(values [entry], offsets [segment + 1], segments, result [segment])
// precision: f64; mixed (values float32, sums and result float64); f32 (all float32).
// Launch: any block, any grid. No shared memory.

#include "common.cuh"

template <class Stored, class Real>
__device__ __forceinline__ void segment_sum(
    const Stored* __restrict__ values, const Int* __restrict__ offsets, Int segments,
    Real* __restrict__ result) {
    for (Int segment = thread_of_grid(); segment < segments; segment += threads_of_grid()) {
        const Int last = offsets[segment + 1];
        Real total = 0;
#pragma unroll 4
        for (Int entry = offsets[segment]; entry < last; ++entry) {
            total = add(total, (Real)values[entry]);
        }
        result[segment] = total;
    }
}

#define SEGMENT_SUM(PRECISION, STORED, REAL)                                                    \
    extern "C" __global__ void segment_sum_##PRECISION(                                         \
        const STORED* values, const Int* offsets, Int segments, REAL* result) {                 \
        segment_sum<STORED, REAL>(values, offsets, segments, result);                           \
    }

SEGMENT_SUM(f64, double, double)
SEGMENT_SUM(mixed, float, double)
SEGMENT_SUM(f32, float, float)
