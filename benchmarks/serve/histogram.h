/* Times in nanoseconds, counted in buckets that are at most 1/128 wide: 8,192 of them for all. */
#ifndef HISTOGRAM_H
#define HISTOGRAM_H

#include <stdint.h>
#include <stdio.h>

enum { PARTS = 128, BUCKETS = 58 * PARTS };

struct histogram {
    uint64_t bucket[BUCKETS], count, largest;
    double sum;
};

/* Values below PARTS have a bucket each; above, each power of two has PARTS buckets. */
static int bucket_of(uint64_t value) {
    if (value < PARTS) return (int)value;
    int shift = 63 - __builtin_clzll(value) - 7;
    return (shift + 1) * PARTS + (int)((value >> shift) - PARTS);
}

static uint64_t upper_edge(int bucket) {
    if (bucket < PARTS) return (uint64_t)bucket;
    int shift = bucket / PARTS - 1;
    return (((uint64_t)(bucket % PARTS + PARTS + 1)) << shift) - 1;
}

static void add(struct histogram *times, uint64_t value) {
    times->bucket[bucket_of(value)]++;
    times->count++;
    times->sum += (double)value;
    if (value > times->largest) times->largest = value;
}

/* Milliseconds that a share of the times does not exceed: the upper edge of its bucket. */
static double quantile(const struct histogram *times, double share) {
    uint64_t wanted = (uint64_t)(share * (double)times->count), seen = 0;
    if (wanted >= times->count) return 1e-6 * (double)times->largest;
    for (int place = 0; place < BUCKETS; place++) {
        seen += times->bucket[place];
        if (seen > wanted) {
            uint64_t edge = upper_edge(place);
            return 1e-6 * (double)(edge < times->largest ? edge : times->largest);
        }
    }
    return 1e-6 * (double)times->largest;
}

static void print_times(const char *name, const struct histogram *times) {
    double mean = times->count ? 1e-6 * times->sum / (double)times->count : 0.0;
    printf("\"%s\": {\"count\": %llu, \"mean\": %.4f, \"p50\": %.4f, \"p90\": %.4f, "
           "\"p99\": %.4f, \"p999\": %.4f, \"max\": %.4f}",
           name, (unsigned long long)times->count, mean, quantile(times, 0.5),
           quantile(times, 0.9), quantile(times, 0.99), quantile(times, 0.999),
           1e-6 * (double)times->largest);
}

#endif
