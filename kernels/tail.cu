// Positions x unit P&L -> tail measures, fused: one warp per row, its profits in registers.
//
// Twin: NumpyBackend.tail (cpu_fallback/numpy_backend.py), which gives the same bits. No
// rows x scenarios are ever in memory: a row's profits live in its warp's registers, the smallest
// `depth` of them in shared memory, and its measures are all that is written.
//
// Entry tail_warp_<precision>_<slots>(
//     offsets [row + 1], column [entry], value [entry], matrix [column, scenario], rows, scenarios,
//     weights [measure, depth] worst first, sizes [measure], divisors [measure], measures, depth,
//     result [row, measure], worst [row], tail_index [row, depth] or null)
// precision: f64; mixed (matrix float32, sums float64); f32 (matrix and sums float32). Quantities,
//     weights and results are float64, all integers int64.
// result: the measures. worst: first scenario of the smallest profit. tail_index: scenarios, worst
//     first, the earlier of equal ones first.
// Launch: blocks of BLOCK threads or fewer, a multiple of 32; any grid. Dynamic shared memory:
//     warps of a block x padded(depth) x (8 + 4) bytes (f32: 4 + 4), `kernels/launch.py`.
// Requires 1 <= scenarios <= 32 slots and 1 <= sizes <= depth <= scenarios.

#include "tail.cuh"

template <class Key>
__device__ __forceinline__ Kept<Key> kept_of_warp(unsigned char* shared, unsigned depth) {
    const unsigned room = padded(depth);
    Key* keys = (Key*)shared;
    unsigned* indices = (unsigned*)(keys + (size_t)warps_of_block() * room);
    return {keys + (size_t)warp_of_block() * room, indices + (size_t)warp_of_block() * room};
}

template <class Stored, class Real, int SLOTS>
__device__ __forceinline__ void tail_warp(
    const Int* __restrict__ offsets, const Int* __restrict__ column,
    const double* __restrict__ value, const Stored* __restrict__ matrix, Int rows, Int scenarios,
    Measures measures, double* result, Int* worst, Int* tail_index) {
    typedef typename KeyOf<Real>::type Key;
    DYNAMIC_SHARED(shared);
    const Kept<Key> kept = kept_of_warp<Key>(shared, (unsigned)measures.depth);
    const unsigned lane = lane_of_thread();
    const unsigned depth = (unsigned)measures.depth;
    const int count = (int)scenarios - (int)lane;
    for (Int row = warp_of_grid(); row < rows; row += warps_of_grid()) {
        Real profit[SLOTS];
        accumulate<Stored, Real, SLOTS>(
            profit, offsets[row], offsets[row + 1], column, value, matrix + lane, scenarios, count);
        Key key[SLOTS];
        to_keys(profit, key, count);
        const Worst<Key> first = worst_of(key);
        if (lane == 0) worst[row] = first.index;
        collect(key, limit_of(key, depth, range_of(key, depth)), depth, 0, kept);
        sort(kept, depth);
        measure(kept.key, measures, result + row * measures.count);
        if (tail_index) {
            for (unsigned place = lane; place < depth; place += WARP) {
                tail_index[row * depth + place] = kept.index[place];
            }
        }
        __syncwarp();  // the next row writes over what slower lanes may still be reading
    }
}

#define TAIL_WARP(PRECISION, STORED, REAL, SLOTS)                                               \
    extern "C" __global__ void __launch_bounds__(BLOCK, blocks_that_fit(SLOTS))                 \
    tail_warp_##PRECISION##_##SLOTS(                                                            \
        const Int* offsets, const Int* column, const double* value, const STORED* matrix,       \
        Int rows, Int scenarios, const double* weights, const Int* sizes,                       \
        const double* divisors, Int measures, Int depth, double* result, Int* worst,            \
        Int* tail_index) {                                                                      \
        tail_warp<STORED, REAL, SLOTS>(                                                         \
            offsets, column, value, matrix, rows, scenarios,                                    \
            Measures{weights, sizes, divisors, measures, depth}, result, worst, tail_index);    \
    }
#define TAIL_WARP_ALL_SLOTS(PRECISION, STORED, REAL) \
    TAIL_WARP(PRECISION, STORED, REAL, 1)            \
    TAIL_WARP(PRECISION, STORED, REAL, 2)            \
    TAIL_WARP(PRECISION, STORED, REAL, 4)            \
    TAIL_WARP(PRECISION, STORED, REAL, 8)            \
    TAIL_WARP(PRECISION, STORED, REAL, 16)           \
    TAIL_WARP(PRECISION, STORED, REAL, 32)

TAIL_WARP_ALL_SLOTS(f64, double, double)
TAIL_WARP_ALL_SLOTS(mixed, float, double)
TAIL_WARP_ALL_SLOTS(f32, float, float)
