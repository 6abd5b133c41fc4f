// Positions x unit P&L -> P&L itself, for rulebooks that need it: a warp per row and 128 scenarios.
//
// Twin: NumpyBackend.weighted_sum (cpu_fallback/numpy_backend.py), which gives the same bits.
//
// Entry weighted_sum_<precision>(
//     offsets [row + 1], column [entry], value [entry], matrix [column, scenario], rows, scenarios,
//     result [row, scenario])
// precision: f64; mixed (matrix float32, sums and result float64); f32 (matrix, sums and result
//     float32). Quantities are float64, integers int64.
// Launch: blocks of a multiple of 32 threads; any grid. No shared memory.

#include "common.cuh"

constexpr int SLOTS = 4;

template <class Stored, class Real>
__device__ __forceinline__ void weighted_sum(
    const Int* __restrict__ offsets, const Int* __restrict__ column,
    const double* __restrict__ value, const Stored* __restrict__ matrix, Int rows, Int scenarios,
    Real* __restrict__ result) {
    const Int width = (Int)WARP * SLOTS;
    const Int chunks = (scenarios + width - 1) / width;
    for (Int task = warp_of_grid(); task < rows * chunks; task += warps_of_grid()) {
        const Int row = task / chunks;
        const Int start = task % chunks * width + lane_of_thread();
        const Int rest = scenarios - start;
        const int count = (int)(rest < width ? rest : width);
        Real profit[SLOTS];
        accumulate<Stored, Real, SLOTS>(
            profit, offsets[row], offsets[row + 1], column, value, matrix + start, scenarios,
            count);
#pragma unroll
        for (int slot = 0; slot < SLOTS; ++slot) {
            if ((int)WARP * slot < count) {
                result[row * scenarios + start + WARP * slot] = profit[slot];
            }
        }
    }
}

#define WEIGHTED_SUM(PRECISION, STORED, REAL)                                                   \
    extern "C" __global__ void weighted_sum_##PRECISION(                                        \
        const Int* offsets, const Int* column, const double* value, const STORED* matrix,       \
        Int rows, Int scenarios, REAL* result) {                                                \
        weighted_sum<STORED, REAL>(offsets, column, value, matrix, rows, scenarios, result);    \
    }

WEIGHTED_SUM(f64, double, double)
WEIGHTED_SUM(mixed, float, double)
WEIGHTED_SUM(f32, float, float)
