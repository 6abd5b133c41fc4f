// Tail measures of any number of scenarios: a launch per tile of them, the worst kept in between.
//
// Twin: NumpyBackend.tail (cpu_fallback/numpy_backend.py), which gives the same bits. A tile's
// part of the matrix stays in the cache while all rows pass; a row's profits of the tile live in
// its warp's registers. Of these only those join the kept ones that are among the `depth` smallest
// so far, which is exact, and the workspace holds rows x depth, never rows x scenarios.
//
// Entry tail_tile_<precision>_<slots>(
//     ... the arguments of tail_warp (tail.cu) ...,
//     kept_key [row, depth] uint64 (f32: uint32), kept_index [row, depth] uint32, first, width)
// scenarios: those of the matrix, all tiles together. first, width: the tile's. kept_*: the
//     workspace, whose first content does not matter; `worst` serves as one, too. result,
//     tail_index: written by the launch of the last tile only.
// Launch: one after another with first = 0, then first + width of the one before, up to scenarios.
//     Blocks of BLOCK threads or fewer, a multiple of 32; any grid. Dynamic shared memory: warps of
//     a block x padded(min(depth, width)) x (8 + 8) bytes (f32: 4 + 8), `kernels/launch.py`.
// Requires 1 <= width <= 32 slots and 1 <= sizes <= depth <= scenarios; depth may exceed a tile.

#include "tail.cuh"

// The merge needs registers, too.
__device__ constexpr int tiles_that_fit(int slots) {
    return slots == 32 ? 3 : blocks_that_fit(slots);
}

// A tile's smallest, and the places they get among the kept ones.
template <class Key>
struct Taken {
    Kept<Key> kept;
    unsigned* place;
};
template <class Key>
__device__ __forceinline__ Taken<Key> taken_of_warp(unsigned char* shared, unsigned most) {
    const size_t room = padded(most);
    const size_t own = warp_of_block() * room, all = warps_of_block() * room;
    Key* keys = (Key*)shared;
    unsigned* indices = (unsigned*)(keys + all);
    return {{keys + own, indices + own}, indices + all + own};
}

// The worst scenario up to this tile. The first NaN counts as the worst, as for numpy.argmin, and
// is remembered as ~index until the last tile.
template <class Key>
__device__ __forceinline__ Int worst_so_far(
    Worst<Key> tile, Int first, const Int* earlier, const Key* smallest) {
    if (first > 0 && (*earlier < 0 || (tile.rank != 0 && tile.rank >= *smallest))) return *earlier;
    return tile.rank == 0 ? ~(first + tile.index) : first + tile.index;
}

// Take what the tile adds to the `depth` smallest, sorted; returns how many. `held` are kept.
template <class Key, int SLOTS>
__device__ __forceinline__ unsigned take_smallest(
    const Key (&key)[SLOTS], unsigned first, unsigned width, Kept<Key> kept, unsigned held,
    unsigned depth, Kept<Key> taken) {
    unsigned take = width < depth ? width : depth;
    Key limit;
    if (held < depth) {
        limit = limit_of(key, take, range_of(key, take));
    } else {
        // An equal profit of a later scenario does not displace a kept one.
        limit = kept.key[depth - 1] - 1;
        const unsigned better = count_up_to(key, limit);
        if (better == 0) return 0;
        take = better < take ? better : take;
        if (better > take) limit = limit_of(key, take, range_of(key, take));
    }
    collect(key, limit, take, first, taken);
    sort(taken, take);
    return take;
}

// Merge the taken into the kept, in place: the kept ones move up from the last on, 32 at a time,
// so that none is written over before it is read.
template <class Key>
__device__ __forceinline__ void merge(
    Taken<Key> taken, unsigned take, Kept<Key> kept, unsigned held, unsigned depth) {
    const unsigned lane = lane_of_thread();
    for (unsigned place = lane; place < take; place += WARP) {
        taken.place[place] = place + count_of(kept.key, held, taken.kept.key[place], true);
    }
    __syncwarp();
    const int unmoved = (int)taken.place[0];
    for (int end = (int)held; end > unmoved; end -= WARP) {
        const int place = end - 1 - (int)lane;
        const bool moves = place >= unmoved;
        const Key key = moves ? kept.key[place] : 0;
        const unsigned index = moves ? kept.index[place] : 0;
        __syncwarp();
        const unsigned to = place + (moves ? count_of(taken.kept.key, take, key, false) : 0);
        if (moves && to < depth) {
            kept.key[to] = key;
            kept.index[to] = index;
        }
    }
    for (unsigned place = lane; place < take; place += WARP) {
        const unsigned to = taken.place[place];
        if (to < depth) {
            kept.key[to] = taken.kept.key[place];
            kept.index[to] = taken.kept.index[place];
        }
    }
    __syncwarp();
}

template <class Stored, class Real, int SLOTS>
__device__ __forceinline__ void tail_tile(
    const Int* __restrict__ offsets, const Int* __restrict__ column,
    const double* __restrict__ value, const Stored* __restrict__ matrix, Int rows, Int scenarios,
    Measures measures, double* result, Int* worst, Int* tail_index,
    typename KeyOf<Real>::type* kept_key, unsigned* kept_index, Int first, Int width) {
    typedef typename KeyOf<Real>::type Key;
    DYNAMIC_SHARED(shared);
    const unsigned lane = lane_of_thread();
    const unsigned depth = (unsigned)measures.depth;
    const unsigned held = (unsigned)(first < measures.depth ? first : measures.depth);
    const unsigned most = (unsigned)(width < measures.depth ? width : measures.depth);
    const Taken<Key> taken = taken_of_warp<Key>(shared, most);
    const int count = (int)width - (int)lane;
    const bool last = first + width == scenarios;
    for (Int row = warp_of_grid(); row < rows; row += warps_of_grid()) {
        const Kept<Key> kept = {kept_key + row * depth, kept_index + row * depth};
        Real profit[SLOTS];
        accumulate<Stored, Real, SLOTS>(
            profit, offsets[row], offsets[row + 1], column, value, matrix + first + lane,
            scenarios, count);
        Key key[SLOTS];
        to_keys(profit, key, count);
        const Worst<Key> of_tile = worst_of(key);
        if (lane == 0) {
            const Int index = worst_so_far(of_tile, first, worst + row, kept.key);
            worst[row] = last && index < 0 ? ~index : index;
        }
        const unsigned take = take_smallest(
            key, (unsigned)first, (unsigned)width, kept, held, depth, taken.kept);
        if (take > 0) merge(taken, take, kept, held, depth);
        if (last) {
            measure(kept.key, measures, result + row * measures.count);
            if (tail_index) {
                for (unsigned place = lane; place < depth; place += WARP) {
                    tail_index[row * depth + place] = kept.index[place];
                }
            }
        }
        __syncwarp();  // the next row writes over what slower lanes may still be reading
    }
}

#define TAIL_TILE(PRECISION, STORED, REAL, SLOTS)                                               \
    extern "C" __global__ void __launch_bounds__(BLOCK, tiles_that_fit(SLOTS))                  \
    tail_tile_##PRECISION##_##SLOTS(                                                            \
        const Int* offsets, const Int* column, const double* value, const STORED* matrix,       \
        Int rows, Int scenarios, const double* weights, const Int* sizes,                       \
        const double* divisors, Int measures, Int depth, double* result, Int* worst,            \
        Int* tail_index, KeyOf<REAL>::type* kept_key, unsigned* kept_index, Int first,          \
        Int width) {                                                                            \
        tail_tile<STORED, REAL, SLOTS>(                                                         \
            offsets, column, value, matrix, rows, scenarios,                                    \
            Measures{weights, sizes, divisors, measures, depth}, result, worst, tail_index,     \
            kept_key, kept_index, first, width);                                                \
    }
#define TAIL_TILE_ALL_SLOTS(PRECISION, STORED, REAL) \
    TAIL_TILE(PRECISION, STORED, REAL, 1)            \
    TAIL_TILE(PRECISION, STORED, REAL, 2)            \
    TAIL_TILE(PRECISION, STORED, REAL, 4)            \
    TAIL_TILE(PRECISION, STORED, REAL, 8)            \
    TAIL_TILE(PRECISION, STORED, REAL, 16)           \
    TAIL_TILE(PRECISION, STORED, REAL, 32)

TAIL_TILE_ALL_SLOTS(f64, double, double)
TAIL_TILE_ALL_SLOTS(mixed, float, double)
TAIL_TILE_ALL_SLOTS(f32, float, float)
