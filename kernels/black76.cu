// Black-76 values of instruments x scenarios: a thread per value.
//
// Twin: array_ops.black76 (gpu_margin/array_ops.py), its formula and its limits. exp, log and erfc
// differ between libraries in their last bits, so this one is held to 1e-13 max(forward, strike)
// and never runs for official numbers unless asked for.
//
// Entry black76_f64(
//     forward, strike, volatility, time, rate, call, strides [6, 2], instruments, scenarios,
//     result [instrument, scenario])
// strides: elements from one instrument, and one scenario, to the next, for each argument in this
//     order; 0 where it is the same for all of them. call is one byte each, the others float64.
// Launch: any block, any grid. No shared memory.

#include "common.cuh"

// Below it an option's value is its intrinsic value to the last bit, and d1 could overflow.
constexpr double NO_DEVIATION = 1e-100;
constexpr double SQRT_HALF = 0.70710678118654752440;

__device__ __forceinline__ double ndtr(double x) { return 0.5 * erfc(-x * SQRT_HALF); }

__device__ __forceinline__ double black76(
    double forward, double strike, double volatility, double time, double rate, bool call) {
    const double sign = call ? 1.0 : -1.0;
    const double deviation = volatility * sqrt(time);
    const double exercised = sign * (forward - strike);
    double value = exercised > 0.0 ? exercised : 0.0;
    if (deviation > NO_DEVIATION && forward > 0.0) {
        const double d1 = log(forward / strike) / deviation + deviation / 2.0;
        const double d2 = d1 - deviation;
        value = sign * (forward * ndtr(sign * d1) - strike * ndtr(sign * d2));
    }
    return exp(-rate * time) * value;
}

extern "C" __global__ void black76_f64(
    const double* forward, const double* strike, const double* volatility, const double* time,
    const double* rate, const unsigned char* call, const Int* strides, Int instruments,
    Int scenarios, double* result) {
    for (Int task = thread_of_grid(); task < instruments * scenarios; task += threads_of_grid()) {
        const Int instrument = task / scenarios, scenario = task % scenarios;
        const auto place = [&](int argument) {
            return instrument * strides[2 * argument] + scenario * strides[2 * argument + 1];
        };
        result[task] = black76(
            forward[place(0)], strike[place(1)], volatility[place(2)], time[place(3)],
            rate[place(4)], call[place(5)] != 0);
    }
}
