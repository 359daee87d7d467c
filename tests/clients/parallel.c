/* Cards at work at the same time: a thread, a context and a connection for each reader named.
 *
 *     parallel COUNT APDU READER...
 *
 * Connects them all, prints "ready", waits for a line on standard input, sends APDU to each card COUNT
 * times, and prints the begin and the end by CLOCK_MONOTONIC and the number of answers that ended in 9000.
 * Readers that are not listed to this client are named nevertheless: the daemon may know more.
 */

#include <pthread.h>
#include <time.h>

#include "pcsc_client.h"

static long count;
static BYTE command[261];
static DWORD command_length;
static pthread_barrier_t connected, started;

struct worker {
    pthread_t thread;
    const char *reader;
    long good;
};

static double now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

static void *work(void *argument)
{
    struct worker *worker = argument;
    SCARDCONTEXT context;
    SCARDHANDLE card;
    DWORD protocol;
    BYTE answer[258];

    check("SCardEstablishContext", SCardEstablishContext(SCARD_SCOPE_SYSTEM, NULL, NULL, &context));
    check("SCardConnect", SCardConnect(context, worker->reader, SCARD_SHARE_SHARED,
                                       SCARD_PROTOCOL_T0 | SCARD_PROTOCOL_T1, &card, &protocol));
    pthread_barrier_wait(&connected);
    pthread_barrier_wait(&started);
    for (long i = 0; i < count; i++) {
        DWORD length = exchange(card, protocol, command, command_length, answer);
        worker->good += length >= 2 && answer[length - 2] == 0x90 && answer[length - 1] == 0;
    }
    pthread_barrier_wait(&connected);
    check("SCardDisconnect", SCardDisconnect(card, SCARD_LEAVE_CARD));
    check("SCardReleaseContext", SCardReleaseContext(context));
    return NULL;
}

int main(int argc, char **argv)
{
    int readers = argc - 3;
    long good = 0;
    unsigned value;
    double begin, end;
    char line[16];

    if (readers < 1)
        return 2;
    count = atol(argv[1]);
    for (const char *hex = argv[2]; sscanf(hex, "%2x", &value) == 1; hex += 2)
        command[command_length++] = (BYTE)value;

    struct worker *workers = calloc((size_t)readers, sizeof *workers);
    if (!workers)
        return 1;
    pthread_barrier_init(&connected, NULL, (unsigned)readers + 1);
    pthread_barrier_init(&started, NULL, (unsigned)readers + 1);
    for (int i = 0; i < readers; i++) {
        workers[i].reader = argv[3 + i];
        if (pthread_create(&workers[i].thread, NULL, work, &workers[i]))
            return 1;
    }
    pthread_barrier_wait(&connected);
    printf("ready\n");
    fflush(stdout);
    if (!fgets(line, sizeof line, stdin))
        return 1;
    begin = now();
    pthread_barrier_wait(&started);
    pthread_barrier_wait(&connected);
    end = now();
    for (int i = 0; i < readers; i++) {
        pthread_join(workers[i].thread, NULL);
        good += workers[i].good;
    }
    printf("%.6f %.6f %ld\n", begin, end, good);
    return 0;
}
