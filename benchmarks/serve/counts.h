/* What became of the requests, and how it is told. */
#ifndef COUNTS_H
#define COUNTS_H

#include <sys/resource.h>

#include "histogram.h"
#include "requests.h"

enum { MOST_SECONDS = 7200, STATUSES = 600 };
static const uint64_t SECOND = 1000000000ull;

static struct {
    uint64_t status[STATUSES], rate_good, in_time, unsent, dropped, resent, timeouts, refused;
    uint64_t nonsense, pauses, bytes, per_second[MOST_SECONDS + 8];
    struct histogram good, good_sent, shed;
} seen;

static uint64_t begin, measured, end; /* of the run, and from when on it counts */
static int flying;                    /* requests that are to be answered */

static void print_counts(void) {
    double window = 1e-9 * (double)(end > measured ? end - measured : 1);
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    double cpu = (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
                 1e-6 * (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec);
    printf("{\"seconds\": %.4f, \"rate\": %.3f, \"in_time_rate\": %.3f, \"statuses\": {", window,
           (double)seen.rate_good / window, (double)seen.in_time / window);
    const char *between = "";
    for (int status = 0; status < STATUSES; status++)
        if (seen.status[status]) {
            printf("%s\"%d\": %llu", between, status, (unsigned long long)seen.status[status]);
            between = ", ";
        }
    printf("}, \"unsent\": %llu, \"unanswered\": %d, \"dropped\": %llu, \"resent\": %llu, "
           "\"timeouts\": %llu, \"refused\": %llu, \"nonsense\": %llu, \"pauses\": %llu, "
           "\"bytes\": %llu, \"cpu_seconds\": %.4f, ",
           (unsigned long long)seen.unsent, flying, (unsigned long long)seen.dropped,
           (unsigned long long)seen.resent, (unsigned long long)seen.timeouts,
           (unsigned long long)seen.refused, (unsigned long long)seen.nonsense,
           (unsigned long long)seen.pauses, (unsigned long long)seen.bytes, cpu);
    print_times("latency_ms", &seen.good);
    printf(", ");
    print_times("from_sending_ms", &seen.good_sent);
    printf(", ");
    print_times("shed_ms", &seen.shed);
}

/* Those of the run and after it, until the last answer. */
static uint64_t seconds_told(void) {
    uint64_t told = MOST_SECONDS + 8, run = (end - begin + SECOND - 1) / SECOND;
    while (told > run && !seen.per_second[told - 1]) told--;
    return told;
}

static void print_lists(void) {
    printf(", \"acknowledged\": [");
    for (uint32_t number = 0; ordered && number < lane_count; number++)
        printf("%s%u", number ? ", " : "", lanes[number].acknowledged);
    printf("], \"per_second\": [");
    for (uint64_t second = 0, told = seconds_told(); second < told; second++)
        printf("%s%llu", second ? ", " : "", (unsigned long long)seen.per_second[second]);
    printf("]}\n");
}

#endif
