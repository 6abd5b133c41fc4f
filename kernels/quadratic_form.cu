// Ragged x' C x: a warp per row, its slopes side by side, their sum one after another.
//
// Twin: NumpyBackend.quadratic_form (cpu_fallback/numpy_backend.py), which gives the same bits:
// slope_i = sum over j of C[i, j] x_j in order of j, then the sum over i of x_i slope_i in order
// of i. A lane owns a slope; the final sum goes through the lanes in turn.
//
// Entry quadratic_form_<precision>(
//     offsets [row + 1], column [entry], value [entry], matrix [factor, factor], rows, factors,
//     result [row])
// precision: f64; mixed (matrix float32, sums and result float64); f32 (matrix, sums and result
//     float32). Exposures are float64, integers int64.
// Launch: blocks of a multiple of 32 threads; any grid. No shared memory.

#include "common.cuh"

template <class Stored, class Real>
__device__ __forceinline__ Real slope_of(
    Int entry, Int first, Int last, const Int* __restrict__ column,
    const double* __restrict__ value, const Stored* __restrict__ matrix, Int factors) {
    const Stored* line = matrix + column[entry] * factors;
    Real slope = 0;
#pragma unroll 4
    for (Int other = first; other < last; ++other) {
        slope = add(slope, multiply((Real)line[column[other]], (Real)value[other]));
    }
    return slope;
}

template <class Stored, class Real>
__device__ __forceinline__ void quadratic_form(
    const Int* __restrict__ offsets, const Int* __restrict__ column,
    const double* __restrict__ value, const Stored* __restrict__ matrix, Int rows, Int factors,
    Real* __restrict__ result) {
    const unsigned lane = lane_of_thread();
    for (Int row = warp_of_grid(); row < rows; row += warps_of_grid()) {
        const Int first = offsets[row], last = offsets[row + 1];
        Real total = 0;
        for (Int start = first; start < last; start += WARP) {
            const Int entry = start + lane;
            Real term = 0;
            if (entry < last) {
                const Real slope =
                    slope_of<Stored, Real>(entry, first, last, column, value, matrix, factors);
                term = multiply((Real)value[entry], slope);
            }
            const int lanes = last - start < WARP ? (int)(last - start) : (int)WARP;
            for (int owner = 0; owner < lanes; ++owner) {
                total = add(total, __shfl_sync(ALL_LANES, term, owner));
            }
        }
        if (lane == 0) result[row] = total;
    }
}

#define QUADRATIC_FORM(PRECISION, STORED, REAL)                                                 \
    extern "C" __global__ void quadratic_form_##PRECISION(                                      \
        const Int* offsets, const Int* column, const double* value, const STORED* matrix,       \
        Int rows, Int factors, REAL* result) {                                                  \
        quadratic_form<STORED, REAL>(offsets, column, value, matrix, rows, factors, result);    \
    }

QUADRATIC_FORM(f64, double, double)
QUADRATIC_FORM(mixed, float, double)
QUADRATIC_FORM(f32, float, float)
