// What the tail kernels share: profits as ordered integers, the smallest of them, their measures.
//
// Twin: NumpyBackend.tail (cpu_fallback/numpy_backend.py). A row's profits become unsigned keys in
// the same order, so that the depth-th smallest can be found exactly by bisection, and so that
// equal profits are equal keys. Order statistics have no rounding: any way to find them gives the
// same bits, and only the weighted sum at the end has an order to keep.

#include "common.cuh"

#ifndef MARGIN_TAIL
#define MARGIN_TAIL

// Threads of a block at most, and blocks that shall fit on a multiprocessor: without the latter the
// compiler saves registers, spills some, and has fewer loads on the way.
constexpr int BLOCK = 128;
__device__ constexpr int blocks_that_fit(int slots) {
    return slots == 32 ? 4 : slots == 16 ? 5 : 6;
}

// Keys of no number, which NumPy sorts behind +inf, and of no scenario, behind all.
__device__ __forceinline__ Key64 nan_key(Key64) { return 0xfff8000000000000ull; }
__device__ __forceinline__ Key32 nan_key(Key32) { return 0xffc00000u; }
template <class Key>
__device__ __forceinline__ Key no_key() { return ~(Key)0; }

template <class Real> struct KeyOf;
template <> struct KeyOf<double> { typedef Key64 type; typedef Int bits; };
template <> struct KeyOf<float> { typedef Key32 type; typedef int bits; };

// A profit as an integer in the same order: negative numbers have all bits turned over, others only
// the sign. -0.0 would come before 0.0, but a sum that started from 0.0 is never -0.0.
__device__ __forceinline__ Key64 key_of(double profit) {
    const Int bits = __double_as_longlong(profit);
    const Key64 key = (Key64)bits ^ ((Key64)(bits >> 63) | 0x8000000000000000ull);
    return profit == profit ? key : nan_key(Key64());
}
__device__ __forceinline__ Key32 key_of(float profit) {
    const int bits = __float_as_int(profit);
    const Key32 key = (Key32)bits ^ ((Key32)(bits >> 31) | 0x80000000u);
    return profit == profit ? key : nan_key(Key32());
}
__device__ __forceinline__ double profit_of(Key64 key) {
    const bool negative = (key >> 63) == 0;
    return __longlong_as_double((Int)(negative ? ~key : key ^ 0x8000000000000000ull));
}
__device__ __forceinline__ double profit_of(Key32 key) {
    const bool negative = (key >> 31) == 0;
    return (double)__int_as_float((int)(negative ? ~key : key ^ 0x80000000u));
}

// ---------------------------------------------------------------- over the lanes of a warp

__device__ __forceinline__ Key32 warp_min(Key32 key) { return __reduce_min_sync(ALL_LANES, key); }
__device__ __forceinline__ Key32 warp_max(Key32 key) { return __reduce_max_sync(ALL_LANES, key); }
__device__ __forceinline__ Key64 warp_min(Key64 key) {
    for (int step = WARP / 2; step > 0; step /= 2) {
        const Key64 other = __shfl_xor_sync(ALL_LANES, key, step);
        key = other < key ? other : key;
    }
    return key;
}
__device__ __forceinline__ Key64 warp_max(Key64 key) { return ~warp_min(~key); }

// ---------------------------------------------------------------- a row in registers
//
// key[slot] is the profit of scenario lane + 32 slot (of the tile), or no_key().

template <class Real, class Key, int SLOTS>
__device__ __forceinline__ void to_keys(const Real (&profit)[SLOTS], Key (&key)[SLOTS], int count) {
#pragma unroll
    for (int slot = 0; slot < SLOTS; ++slot) {
        key[slot] = (int)WARP * slot < count ? key_of(profit[slot]) : no_key<Key>();
    }
}

template <class Key, int SLOTS>
__device__ __forceinline__ unsigned count_up_to(const Key (&key)[SLOTS], Key limit) {
    unsigned own = 0;
#pragma unroll
    for (int slot = 0; slot < SLOTS; ++slot) own += key[slot] <= limit;
    return __reduce_add_sync(ALL_LANES, own);
}

template <class Key>
struct Worst {
    Key rank;         // key of the smallest profit, 0 where there is one that is no number
    unsigned index;   // first scenario of it
};

// The first scenario of the smallest profit; like numpy.argmin, the first NaN if there is any.
template <class Key, int SLOTS>
__device__ __forceinline__ Worst<Key> worst_of(const Key (&key)[SLOTS]) {
    Key best = no_key<Key>();
    unsigned at = 0;
#pragma unroll
    for (int slot = 0; slot < SLOTS; ++slot) {
        const Key rank = key[slot] == nan_key(Key()) ? 0 : key[slot];
        if (rank < best) {
            best = rank;
            at = slot;
        }
    }
    const Key least = warp_min(best);
    const unsigned index = best == least ? lane_of_thread() + WARP * at : ~0u;
    return {least, __reduce_min_sync(ALL_LANES, index)};
}

// Bounds of the take-th smallest key: where as many lanes have a scenario as are taken, there are
// that many keys up to the greatest of the lanes' smallest, and the search starts much closer.
template <class Key>
struct Range {
    Key low, high;
};
template <class Key, int SLOTS>
__device__ __forceinline__ Range<Key> range_of(const Key (&key)[SLOTS], unsigned take) {
    Key least = no_key<Key>();
    Key most = 0;
#pragma unroll
    for (int slot = 0; slot < SLOTS; ++slot) {
        least = key[slot] < least ? key[slot] : least;
        most = key[slot] != no_key<Key>() && key[slot] > most ? key[slot] : most;
    }
    const Key own = least == no_key<Key>() ? 0 : least;  // a lane without scenarios bounds nothing
    const Key low = warp_min(least);
    return {low, take == 1 ? low : warp_max(take <= WARP ? own : most)};
}

// A limit up to which there are exactly `take` keys, or where ties forbid that, the take-th
// smallest key itself. It is within `range`. At most one step per bit of a key.
template <class Key, int SLOTS>
__device__ __forceinline__ Key limit_of(
    const Key (&key)[SLOTS], unsigned take, Range<Key> range) {
    while (range.low < range.high) {
        const Key middle = range.low + (range.high - range.low) / 2;
        const unsigned count = count_up_to(key, middle);
        if (count == take) return middle;
        if (count > take) range.high = middle;
        else range.low = middle + 1;
    }
    return range.low;
}

// ---------------------------------------------------------------- the kept ones in shared memory

// The smallest profits of a row and their scenarios; place 0 is the worst once they are sorted.
template <class Key>
struct Kept {
    Key* key;
    unsigned* index;
};

// The smallest power of two that is not below `count`.
__device__ __forceinline__ unsigned padded(unsigned count) {
    unsigned size = 1;
    while (size < count) size *= 2;
    return size;
}

// Write the `take` smallest keys in order of scenarios; of those equal to the limit, the first.
template <class Key, int SLOTS>
__device__ __forceinline__ void collect(
    const Key (&key)[SLOTS], Key limit, unsigned take, unsigned first, Kept<Key> kept) {
    const unsigned lane = lane_of_thread();
    const unsigned before = lanes_before(lane);
    unsigned ties = take - count_up_to(key, (Key)(limit - 1));  // no profit has the key 0
    unsigned place = 0;
#pragma unroll
    for (int slot = 0; slot < SLOTS; ++slot) {
        const unsigned equal = __ballot_sync(ALL_LANES, key[slot] == limit);
        const bool tie = key[slot] == limit && __popc(equal & before) < (int)ties;
        const bool chosen = key[slot] < limit || tie;
        const unsigned all = __ballot_sync(ALL_LANES, chosen);
        if (chosen) {
            const unsigned at = place + __popc(all & before);
            kept.key[at] = key[slot];
            kept.index[at] = first + WARP * slot + lane;
        }
        place += __popc(all);
        const unsigned used = __popc(equal);
        ties = used < ties ? ties - used : 0;
    }
}

// Of two kept ones the worse is the smaller, and of equal ones the earlier scenario.
template <class Key>
__device__ __forceinline__ bool worse(Key a, unsigned index_a, Key b, unsigned index_b) {
    return a < b || (a == b && index_a < index_b);
}

// How many of `count` sorted keys are below the limit, or with `equal` not above it.
template <class Key>
__device__ __forceinline__ unsigned count_of(
    const Key* key, unsigned count, Key limit, bool equal) {
    unsigned first = 0;
    while (first < count) {
        const unsigned middle = first + (count - first) / 2;
        if (key[middle] < limit || (equal && key[middle] == limit)) first = middle + 1;
        else count = middle;
    }
    return first;
}

// Sort `count` kept ones, worst first: a bitonic network of the warp, padded to a power of two.
template <class Key>
__device__ __forceinline__ void sort(Kept<Key> kept, unsigned count) {
    const unsigned lane = lane_of_thread();
    const unsigned size = padded(count);
    for (unsigned place = count + lane; place < size; place += WARP) {
        kept.key[place] = no_key<Key>();
        kept.index[place] = ~0u;
    }
    __syncwarp();
    for (unsigned run = 2; run <= size; run *= 2) {
        for (unsigned step = run / 2; step > 0; step /= 2) {
            for (unsigned pair = lane; pair < size / 2; pair += WARP) {
                const unsigned low = 2 * pair - (pair & (step - 1));
                const unsigned high = low + step;
                const Key a = kept.key[low], b = kept.key[high];
                const unsigned index_a = kept.index[low], index_b = kept.index[high];
                const bool ascending = (low & run) == 0;
                if (worse(b, index_b, a, index_a) == ascending) {
                    kept.key[low] = b;
                    kept.key[high] = a;
                    kept.index[low] = index_b;
                    kept.index[high] = index_a;
                }
            }
            __syncwarp();
        }
    }
}

// ---------------------------------------------------------------- measures

// What a row's tail becomes. weights [measure, depth], worst first; the first sizes[measure] count.
struct Measures {
    const double* weights;
    const Int* sizes;
    const double* divisors;
    Int count, depth;
};

// value[measure] of sorted keys: from the smallest of the kept losses to the worst, one after
// another. One lane per measure, for the sum has an order and cannot be shared.
template <class Key>
__device__ __forceinline__ void measure(const Key* key, Measures measures, double* value) {
    for (Int number = lane_of_thread(); number < measures.count; number += WARP) {
        const double* weights = measures.weights + number * measures.depth;
        double total = 0.0;
        for (Int place = measures.sizes[number] - 1; place >= 0; --place) {
            total = add(total, multiply(weights[place], -profit_of(key[place])));
        }
        value[number] = __ddiv_rn(total, measures.divisors[number]);
    }
}

#endif
