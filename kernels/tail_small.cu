// Tail measures of rows with up to 16 scenarios: two or four rows per warp, one scenario per lane.
//
// Twin: NumpyBackend.tail (cpu_fallback/numpy_backend.py), which gives the same bits. With 16
// scenarios (a SPAN array) a warp per row would leave half its lanes idle. All scenarios of a row
// are sorted among its lanes; there is nothing to select.
//
// Entry tail_small_<precision>_<width>: arguments, results and precisions of tail_warp (tail.cu).
// Launch: blocks of BLOCK threads or fewer, a multiple of 32; any grid. No shared memory.
// Requires 1 <= scenarios <= width and 1 <= sizes <= depth <= scenarios.

#include "tail.cuh"

// Sort the keys of each group of lanes, worst first: a bitonic network by shuffles.
template <class Key, int WIDTH>
__device__ __forceinline__ void sort_lanes(Key& key, unsigned& index, unsigned place) {
#pragma unroll
    for (int run = 2; run <= WIDTH; run *= 2) {
#pragma unroll
        for (int step = run / 2; step > 0; step /= 2) {
            const Key other = __shfl_xor_sync(ALL_LANES, key, step, WIDTH);
            const unsigned other_index = __shfl_xor_sync(ALL_LANES, index, step, WIDTH);
            const bool keeps_worse = ((place & step) == 0) == ((place & run) == 0);
            if (worse(other, other_index, key, index) == keeps_worse) {
                key = other;
                index = other_index;
            }
        }
    }
}

// Measures of each group's sorted keys, one lane per measure. All lanes go through all places, for
// a shuffle needs them all.
template <class Key, int WIDTH>
__device__ __forceinline__ void measure_lanes(
    Key key, unsigned place, bool live, Measures measures, double* value) {
    for (Int start = 0; start < measures.count; start += WIDTH) {
        const Int number = start + place;
        const bool owner = live && number < measures.count;
        const Int size = owner ? measures.sizes[number] : 0;
        double total = 0.0;
        for (int worst = (int)measures.depth - 1; worst >= 0; --worst) {
            const double loss = -profit_of(__shfl_sync(ALL_LANES, key, worst, WIDTH));
            if (worst < size) {
                const double weight = measures.weights[number * measures.depth + worst];
                total = add(total, multiply(weight, loss));
            }
        }
        if (owner) value[number] = __ddiv_rn(total, measures.divisors[number]);
    }
}

// The first scenario of each group whose profit is no number, or ~0; numpy.argmin picks it, too.
template <class Key, int WIDTH>
__device__ __forceinline__ unsigned first_nan(Key key) {
    const unsigned group = lane_of_thread() / WIDTH * WIDTH;
    const unsigned all = __ballot_sync(ALL_LANES, key == nan_key(Key())) >> group;
    const unsigned own = all & ((1u << WIDTH) - 1);
    return own ? __ffs(own) - 1 : ~0u;
}

template <class Stored, class Real, int WIDTH>
__device__ __forceinline__ void tail_small(
    const Int* __restrict__ offsets, const Int* __restrict__ column,
    const double* __restrict__ value, const Stored* __restrict__ matrix, Int rows, Int scenarios,
    Measures measures, double* result, Int* worst, Int* tail_index) {
    typedef typename KeyOf<Real>::type Key;
    const unsigned place = lane_of_thread() % WIDTH;
    const Int rows_of_warp = WARP / WIDTH;
    // By warps, not by groups: a warp's last rows may be missing, but its lanes stay together.
    for (Int start = warp_of_grid() * rows_of_warp; start < rows;
         start += warps_of_grid() * rows_of_warp) {
        const Int row = start + lane_of_thread() / WIDTH;
        const bool live = row < rows;
        const bool used = live && place < scenarios;
        Real profit[1];
        accumulate<Stored, Real, 1>(
            profit, used ? offsets[row] : 0, used ? offsets[row + 1] : 0, column, value,
            matrix + place, scenarios, 1);
        Key key = used ? key_of(profit[0]) : no_key<Key>();
        unsigned index = place;
        const unsigned nan = first_nan<Key, WIDTH>(key);
        sort_lanes<Key, WIDTH>(key, index, place);
        if (live && place == 0) worst[row] = nan == ~0u ? index : nan;
        measure_lanes<Key, WIDTH>(key, place, live, measures, result + row * measures.count);
        if (tail_index && live && place < measures.depth) {
            tail_index[row * measures.depth + place] = index;
        }
    }
}

#define TAIL_SMALL(PRECISION, STORED, REAL, WIDTH)                                              \
    extern "C" __global__ void __launch_bounds__(BLOCK, blocks_that_fit(1))                     \
    tail_small_##PRECISION##_##WIDTH(                                                           \
        const Int* offsets, const Int* column, const double* value, const STORED* matrix,       \
        Int rows, Int scenarios, const double* weights, const Int* sizes,                       \
        const double* divisors, Int measures, Int depth, double* result, Int* worst,            \
        Int* tail_index) {                                                                      \
        tail_small<STORED, REAL, WIDTH>(                                                        \
            offsets, column, value, matrix, rows, scenarios,                                    \
            Measures{weights, sizes, divisors, measures, depth}, result, worst, tail_index);    \
    }

TAIL_SMALL(f64, double, double, 8)
TAIL_SMALL(f64, double, double, 16)
TAIL_SMALL(mixed, float, double, 8)
TAIL_SMALL(mixed, float, double, 16)
TAIL_SMALL(f32, float, float, 8)
TAIL_SMALL(f32, float, float, 16)
