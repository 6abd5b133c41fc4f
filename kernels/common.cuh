// What all kernels share: arithmetic with fixed rounding, lanes and warps, a row's profits.
//
// Every sum runs in stored order, from zero: multiply, round, add, round. The sources are compiled
// with --fmad=false, and the intrinsics below are never fused into a multiply-add, so that the
// bits are those of the NumPy reference whatever the compiler or its options.
// No header of the CUDA toolkit is needed, so that NVRTC from a wheel is enough.

#ifndef MARGIN_COMMON
#define MARGIN_COMMON

typedef long long Int;
typedef unsigned long long Key64;
typedef unsigned Key32;

constexpr unsigned WARP = 32;
constexpr unsigned ALL_LANES = 0xffffffffu;

#ifndef DYNAMIC_SHARED  // the CPU shim of the tests has its own
#define DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
#endif

__device__ __forceinline__ double multiply(double a, double b) { return __dmul_rn(a, b); }
__device__ __forceinline__ float multiply(float a, float b) { return __fmul_rn(a, b); }
__device__ __forceinline__ double add(double a, double b) { return __dadd_rn(a, b); }
__device__ __forceinline__ float add(float a, float b) { return __fadd_rn(a, b); }

__device__ __forceinline__ unsigned lane_of_thread() { return threadIdx.x % WARP; }
__device__ __forceinline__ unsigned warp_of_block() { return threadIdx.x / WARP; }
__device__ __forceinline__ unsigned warps_of_block() { return blockDim.x / WARP; }

// Number of this warp, and of all warps, in the grid: rows are dealt out to warps in turn.
__device__ __forceinline__ Int warp_of_grid() {
    return (Int)blockIdx.x * warps_of_block() + warp_of_block();
}
__device__ __forceinline__ Int warps_of_grid() { return (Int)gridDim.x * warps_of_block(); }

__device__ __forceinline__ Int thread_of_grid() {
    return (Int)blockIdx.x * blockDim.x + threadIdx.x;
}
__device__ __forceinline__ Int threads_of_grid() { return (Int)gridDim.x * blockDim.x; }

// Bits of the lanes before this one.
__device__ __forceinline__ unsigned lanes_before(unsigned lane) { return (1u << lane) - 1; }

// Loads of the matrix that a lane has on the way at a time: enough to hide the cache's latency with
// the warps that fit beside it, few enough for their registers.
constexpr int LOADS = 16;

// profit[slot] of scenario lane + 32 slot: value x matrix[column, scenario], entry after entry.
//
// `line` is matrix[0, first scenario + lane], `stride` the scenarios of a matrix row, and `count`
// the scenarios from this lane's first to the end (0 or less: the lane has none). A warp reads 32
// neighbouring scenarios at a time. First all loads of a batch, then their sums: a load beside
// each sum would be waited for one by one. Rows with few slots take several entries to a batch,
// still added one after another. What a batch lacks at the end is 0 x 0, which changes no sum: a
// sum that started from 0.0 is never -0.0.
template <class Stored, class Real, int SLOTS>
__device__ __forceinline__ void accumulate(
    Real (&profit)[SLOTS], Int first, Int last, const Int* __restrict__ column,
    const double* __restrict__ value, const Stored* __restrict__ line, Int stride, int count) {
    constexpr int PART = SLOTS < LOADS ? SLOTS : LOADS;
    constexpr int ENTRIES = SLOTS == 1 ? 8 : LOADS / PART;
#pragma unroll
    for (int slot = 0; slot < SLOTS; ++slot) profit[slot] = 0;
    for (Int start = first; start < last; start += ENTRIES) {
        const Stored* lines[ENTRIES];
        Real held[ENTRIES];
        int counts[ENTRIES];
#pragma unroll
        for (int batch = 0; batch < ENTRIES; ++batch) {
            const bool there = start + batch < last;
            const Int entry = there ? start + batch : start;
            lines[batch] = line + column[entry] * stride;
            held[batch] = there ? (Real)value[entry] : (Real)0;
            counts[batch] = there ? count : 0;
        }
#pragma unroll
        for (int part = 0; part < SLOTS; part += PART) {
            Stored unit[ENTRIES][PART];
#pragma unroll
            for (int load = 0; load < ENTRIES * PART; ++load) {
                const int batch = load / PART, slot = load % PART;
                const int at = (int)WARP * (part + slot);
                unit[batch][slot] = at < counts[batch] ? lines[batch][at] : (Stored)0;
            }
#pragma unroll
            for (int load = 0; load < ENTRIES * PART; ++load) {
                const int batch = load / PART, slot = load % PART;
                const Real term = multiply(held[batch], (Real)unit[batch][slot]);
                profit[part + slot] = add(profit[part + slot], term);
            }
        }
    }
}

#endif
