// CUDA C++ on a CPU, as far as the kernels use it: the very same .cu sources compile with g++.
//
//     g++ -std=c++17 -O2 -ffp-contract=off -fPIC -shared -include shim.hpp entries.cpp
//
// One fibre per CUDA thread, blocks one after another. A fibre runs until it waits for its warp or
// its block, so lanes run far apart from each other, as they may on a device; `order` turns the
// lanes around, which shows up code that relies on one order. Stricter than a device: collectives
// must name all 32 lanes, all of them must take part in the same one, dynamic shared memory starts
// as rubbish and must not be left. What breaks this ends the launch with a message.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <tuple>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
#define __shared__ static  // blocks run one after another, so that one copy is enough
#define DYNAMIC_SHARED(name) unsigned char* const name = shim::shared_memory

struct dim3 {
    unsigned x = 1, y = 1, z = 1;
};
static dim3 threadIdx, blockIdx, blockDim, gridDim;  // of the fibre that runs

namespace shim {

constexpr unsigned LANES = 32;
constexpr unsigned MOST_THREADS = 1024;
constexpr size_t STACK = 64 << 10;
constexpr size_t MOST_SHARED = 228 << 10;
constexpr size_t GUARD = 1 << 10;
constexpr unsigned char RUBBISH = 0xcd;

enum State : unsigned char { READY, AT_WARP, AT_BLOCK, DONE };

struct Fibre {
    void* stack_pointer;
    State state;
    const char* operation;  // that it waits in
    unsigned collectives;   // it has taken part in
};

// What lanes hand each other: two boards in turn, for a lane may be one collective ahead.
struct Warp {
    uint64_t board[2][LANES];
};

alignas(64) static unsigned char shared_memory[MOST_SHARED + GUARD];
static std::vector<unsigned char> stacks;
static Fibre fibres[MOST_THREADS];
static Warp warps[MOST_THREADS / LANES];
static unsigned running;
static void* scheduler;
static const char* failure;
static void (*body)(const void*);
static const void* arguments;

// ---------------------------------------------------------------- fibres (System V, x86-64)

#if !defined(__x86_64__)
#error "the CUDA shim switches fibres by hand and knows x86-64 only"
#endif

extern "C" void shim_switch(void** save, void* load);
asm(R"(
.text
.hidden shim_switch
.globl shim_switch
.type shim_switch, @function
shim_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size shim_switch, . - shim_switch
)");

// Back to the scheduler until the wait is over; for good where the fibre is done.
inline void leave(State state, const char* operation) {
    Fibre& own = fibres[running];
    own.state = state;
    own.operation = operation;
    shim_switch(&own.stack_pointer, scheduler);
}

inline void start_of_fibre() {
    body(arguments);
    leave(DONE, "the end of the kernel");
}

inline void prepare(unsigned thread) {
    unsigned char* top = stacks.data() + (thread + 1) * STACK;
    void** frame = reinterpret_cast<void**>(reinterpret_cast<uintptr_t>(top) & ~uintptr_t(63)) - 8;
    std::memset(frame, 0, 8 * sizeof(void*));  // registers, and a return address of nowhere
    frame[6] = reinterpret_cast<void*>(&start_of_fibre);
    fibres[thread] = {frame, READY, "", 0};
}

inline void run(unsigned thread) {
    running = thread;
    threadIdx.x = thread;
    shim_switch(&scheduler, fibres[thread].stack_pointer);
}

// ---------------------------------------------------------------- the scheduler

inline bool fail(const char* what) {
    failure = what;
    return false;
}

// All lanes of a warp wait in the same collective: let them go on.
inline bool release_warp(unsigned first, unsigned last) {
    for (unsigned thread = first; thread < last; ++thread) {
        if (fibres[thread].state != AT_WARP) return false;
        if (fibres[thread].operation != fibres[first].operation) {
            return fail("lanes of a warp wait in different collectives");
        }
    }
    for (unsigned thread = first; thread < last; ++thread) fibres[thread].state = READY;
    return true;
}

inline void run_warp(unsigned first, unsigned last, bool backwards) {
    do {
        for (unsigned step = 0; step < last - first && !failure; ++step) {
            const unsigned thread = backwards ? last - 1 - step : first + step;
            if (fibres[thread].state == READY) run(thread);
        }
    } while (!failure && release_warp(first, last));
}

// True while there is something left to run.
inline bool release_block(unsigned threads) {
    unsigned done = 0, waiting = 0;
    for (unsigned thread = 0; thread < threads; ++thread) {
        done += fibres[thread].state == DONE;
        waiting += fibres[thread].state == AT_BLOCK;
    }
    if (done == threads) return false;
    if (waiting != threads) return fail("threads wait for others that are elsewhere or done");
    for (unsigned thread = 0; thread < threads; ++thread) fibres[thread].state = READY;
    return true;
}

inline void run_block(unsigned threads, size_t shared, bool backwards) {
    std::memset(shared_memory, RUBBISH, shared + GUARD);
    for (unsigned thread = 0; thread < threads; ++thread) prepare(thread);
    do {
        for (unsigned first = 0; first < threads && !failure; first += LANES) {
            run_warp(first, first + LANES, backwards);
        }
    } while (!failure && release_block(threads));
    for (size_t byte = shared; byte < shared + GUARD && !failure; ++byte) {
        if (shared_memory[byte] != RUBBISH) fail("written beyond the dynamic shared memory");
    }
}

inline const char* run_grid(unsigned blocks, unsigned threads, size_t shared, bool backwards) {
    failure = nullptr;
    if (threads == 0 || threads > MOST_THREADS || threads % LANES) return "odd block size";
    if (shared > MOST_SHARED) return "too much dynamic shared memory";
    stacks.resize((MOST_THREADS + 1) * STACK);
    blockDim = {threads, 1, 1};
    gridDim = {blocks, 1, 1};
    for (unsigned block = 0; block < blocks && !failure; ++block) {
        blockIdx = {backwards ? blocks - 1 - block : block, 0, 0};
        threadIdx = {0, 0, 0};
        run_block(threads, shared, backwards);
    }
    return failure;
}

// ---------------------------------------------------------------- kernels by name

// As cuLaunchKernel: an array of pointers to the arguments.
template <class... A, size_t... I>
const char* launch(void (*)(A...), void (*call)(const void*), const void* const* given,
                   std::index_sequence<I...>, unsigned blocks, unsigned threads, size_t shared,
                   bool backwards) {
    std::tuple<A...> values{*static_cast<const A*>(given[I])...};
    arguments = &values;
    body = call;
    const char* message = run_grid(blocks, threads, shared, backwards);
    arguments = nullptr;
    return message;
}

template <auto KERNEL, class... A>
const char* launch(void (*kernel)(A...), const void* const* given, unsigned blocks,
                   unsigned threads, size_t shared, bool backwards) {
    const auto call = [](const void* values) {
        std::apply(KERNEL, *static_cast<const std::tuple<A...>*>(values));
    };
    return launch(kernel, call, given, std::index_sequence_for<A...>(), blocks, threads, shared,
                  backwards);
}

// ---------------------------------------------------------------- collectives

// What every lane of the warp has handed in, once all have.
inline const uint64_t* exchange(unsigned mask, uint64_t own, const char* operation) {
    if (mask != 0xffffffffu) fail("a collective does not name all lanes");
    const unsigned thread = running;
    uint64_t* board = warps[thread / LANES].board[fibres[thread].collectives++ % 2];
    board[thread % LANES] = own;
    leave(AT_WARP, operation);
    return board;
}

template <class T>
uint64_t word_of(T value) {
    static_assert(sizeof(T) <= sizeof(uint64_t));
    uint64_t word = 0;
    std::memcpy(&word, &value, sizeof(T));
    return word;
}

template <class T>
T value_of(uint64_t word) {
    T value;
    std::memcpy(&value, &word, sizeof(T));
    return value;
}

template <class T>
T from_lane(unsigned mask, T own, int source, int width, bool inside, const char* operation) {
    const uint64_t* board = exchange(mask, word_of(own), operation);
    const int group = int(running % LANES) / width * width;
    return inside ? value_of<T>(board[group + source]) : own;
}

inline int place_of(int width) { return int(running % LANES) % width; }

}  // namespace shim

#define SHIM_ENTRY(kernel)                                                                       \
    extern "C" const char* shim_##kernel(const void* const* given, unsigned blocks,             \
                                         unsigned threads, size_t shared, int backwards) {      \
        return shim::launch<&kernel>(&kernel, given, blocks, threads, shared, backwards);       \
    }

inline void __syncthreads() { shim::leave(shim::AT_BLOCK, "__syncthreads"); }
inline void __syncwarp(unsigned mask = 0xffffffffu) { shim::exchange(mask, 0, "__syncwarp"); }

template <class T>
T __shfl_sync(unsigned mask, T own, int source, int width = 32) {
    return shim::from_lane(mask, own, source & (width - 1), width, true, "__shfl_sync");
}
template <class T>
T __shfl_up_sync(unsigned mask, T own, unsigned step, int width = 32) {
    const int source = shim::place_of(width) - int(step);
    return shim::from_lane(mask, own, source, width, source >= 0, "__shfl_up_sync");
}
template <class T>
T __shfl_down_sync(unsigned mask, T own, unsigned step, int width = 32) {
    const int source = shim::place_of(width) + int(step);
    return shim::from_lane(mask, own, source, width, source < width, "__shfl_down_sync");
}
template <class T>
T __shfl_xor_sync(unsigned mask, T own, int bits, int width = 32) {
    const int source = shim::place_of(width) ^ bits;
    return shim::from_lane(mask, own, source, width, source < width, "__shfl_xor_sync");
}

inline unsigned __ballot_sync(unsigned mask, bool own) {
    const uint64_t* board = shim::exchange(mask, own, "__ballot_sync");
    unsigned bits = 0;
    for (unsigned lane = 0; lane < shim::LANES; ++lane) bits |= unsigned(board[lane]) << lane;
    return bits;
}
inline bool __any_sync(unsigned mask, bool own) { return __ballot_sync(mask, own) != 0; }
inline bool __all_sync(unsigned mask, bool own) { return __ballot_sync(mask, own) == mask; }

inline unsigned __reduce_add_sync(unsigned mask, unsigned own) {
    const uint64_t* board = shim::exchange(mask, own, "__reduce_add_sync");
    unsigned total = 0;
    for (unsigned lane = 0; lane < shim::LANES; ++lane) total += unsigned(board[lane]);
    return total;
}
inline unsigned __reduce_min_sync(unsigned mask, unsigned own) {
    const uint64_t* board = shim::exchange(mask, own, "__reduce_min_sync");
    unsigned least = ~0u;
    for (unsigned lane = 0; lane < shim::LANES; ++lane) {
        least = board[lane] < least ? unsigned(board[lane]) : least;
    }
    return least;
}
inline unsigned __reduce_max_sync(unsigned mask, unsigned own) {
    const uint64_t* board = shim::exchange(mask, own, "__reduce_max_sync");
    unsigned most = 0;
    for (unsigned lane = 0; lane < shim::LANES; ++lane) {
        most = board[lane] > most ? unsigned(board[lane]) : most;
    }
    return most;
}

// ---------------------------------------------------------------- arithmetic
//
// Rounded to nearest after each operation: g++ is told -ffp-contract=off.

inline double __dmul_rn(double a, double b) { return a * b; }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __ddiv_rn(double a, double b) { return a / b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }

template <class To, class From>
To same_bits(From x) {
    return shim::value_of<To>(shim::word_of(x));
}
inline long long __double_as_longlong(double x) { return same_bits<long long>(x); }
inline double __longlong_as_double(long long x) { return same_bits<double>(x); }
inline int __float_as_int(float x) { return same_bits<int>(x); }
inline float __int_as_float(int x) { return same_bits<float>(x); }

inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __popcll(unsigned long long bits) { return __builtin_popcountll(bits); }
inline int __ffs(unsigned bits) { return __builtin_ffs(int(bits)); }
inline int __clz(unsigned bits) { return bits ? __builtin_clz(bits) : 32; }
