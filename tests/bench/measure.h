/* What the measuring clients share: time, samples, and the conversation with who measures.
 *
 * A client prepares and warms up, prints "ready", and then carries out one order per line of standard
 * input; it answers each with a line of JSON, and cleans up and ends at the end of the input.
 */
#ifndef MEASURE_H
#define MEASURE_H

#include <pthread.h>
#include <stdint.h>
#include <time.h>

#include "../clients/pcsc_client.h"

/* The most samples that one order keeps; further ones are counted only. */
enum { MAX_SAMPLES = 1 << 18 };

struct samples {
    uint32_t *ns;
    size_t kept;
};

static inline int64_t now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static inline void add_sample(struct samples *samples, int64_t ns)
{
    if (samples->kept < MAX_SAMPLES)
        samples->ns[samples->kept++] = ns > UINT32_MAX ? UINT32_MAX : (uint32_t)ns;
}

static inline int by_size(const void *left, const void *right)
{
    uint32_t a = *(const uint32_t *)left, b = *(const uint32_t *)right;

    return (a > b) - (a < b);
}

/* In microseconds; the samples must be sorted. */
static inline double quantile(const uint32_t *sorted, size_t kept, double fraction)
{
    if (kept == 0)
        return 0;
    return sorted[(size_t)(fraction * (double)(kept - 1) + 0.5)] / 1000.0;
}

/* The next order: a number, usually of seconds. 0 at the end of the input. */
static inline int next_order(double *value)
{
    char line[64];

    if (!fgets(line, sizeof line, stdin))
        return 0;
    *value = atof(line);
    return 1;
}

static inline void say_ready(void)
{
    printf("ready\n");
    fflush(stdout);
}

static inline SCARDCONTEXT establish(void)
{
    SCARDCONTEXT context;

    check("SCardEstablishContext", SCardEstablishContext(SCARD_SCOPE_SYSTEM, NULL, NULL, &context));
    return context;
}

static inline SCARDHANDLE connect_to(SCARDCONTEXT context, const char *reader, DWORD *protocol)
{
    SCARDHANDLE card;

    check("SCardConnect", SCardConnect(context, reader, SCARD_SHARE_SHARED,
                                       SCARD_PROTOCOL_T0 | SCARD_PROTOCOL_T1, &card, protocol));
    return card;
}

#endif
