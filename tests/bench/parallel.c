/* Readers at work at the same time: a thread with a context and a connection for each reader named.
 *
 *     parallel READER...
 *
 * Each order is a number of seconds; see measure.h. Readers that are not listed to this client are named
 * nevertheless: the daemon may know more of them than the library.
 */

#include "measure.h"

struct worker {
    pthread_t thread;
    const char *reader;
    long count;
};

static pthread_barrier_t barrier;
static int64_t until;
static int ending;

static void *work(void *argument)
{
    struct worker *worker = argument;
    static const BYTE command[] = {0x00, 0xB0, 0x00, 0x00, 0x00};
    BYTE answer[258];
    DWORD protocol;
    SCARDCONTEXT context = establish();
    SCARDHANDLE card = connect_to(context, worker->reader, &protocol);

    for (int i = 0; i < 5; i++)
        exchange(card, protocol, command, sizeof command, answer);
    for (;;) {
        pthread_barrier_wait(&barrier);
        pthread_barrier_wait(&barrier);
        if (ending)
            break;
        worker->count = 0;
        do {
            exchange(card, protocol, command, sizeof command, answer);
            worker->count++;
        } while (now() < until);
    }
    SCardDisconnect(card, SCARD_LEAVE_CARD);
    SCardReleaseContext(context);
    return NULL;
}

int main(int argc, char **argv)
{
    int readers = argc - 1;
    struct worker *workers = calloc((size_t)argc, sizeof *workers);
    double order;

    if (readers < 1 || !workers)
        return 2;
    pthread_barrier_init(&barrier, NULL, (unsigned)readers + 1);
    for (int i = 0; i < readers; i++) {
        workers[i].reader = argv[1 + i];
        if (pthread_create(&workers[i].thread, NULL, work, &workers[i]))
            return 1;
    }
    pthread_barrier_wait(&barrier);
    say_ready();
    while (next_order(&order)) {
        int64_t begin = now();
        long count = 0, least = 0;

        until = begin + (int64_t)(order * 1e9);
        pthread_barrier_wait(&barrier);
        pthread_barrier_wait(&barrier);
        for (int i = 0; i < readers; i++) {
            count += workers[i].count;
            if (i == 0 || workers[i].count < least)
                least = workers[i].count;
        }
        printf("{\"count\": %ld, \"least\": %ld, \"seconds\": %.9f}\n", count, least,
               (double)(now() - begin) / 1e9);
        fflush(stdout);
    }
    ending = 1;
    pthread_barrier_wait(&barrier);
    for (int i = 0; i < readers; i++)
        pthread_join(workers[i].thread, NULL);
    return 0;
}
