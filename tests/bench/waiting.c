/* Clients that wait for a card event, each with a thread and a context of its own.
 *
 *     waiting READER CLIENTS
 *
 * Prints "ready" when all are waiting. After each insertion and each removal it prints, as a line of JSON,
 * whether the card is there and when each client's SCardGetStatusChange came back, by CLOCK_MONOTONIC in
 * nanoseconds; then they wait again.
 *
 *     waiting - CLIENTS
 *
 * Such clients have a context and do nothing; they go at the end of the input.
 */

#include "measure.h"

static const char *reader;
static pthread_barrier_t barrier;
static int64_t *woken;
static int clients, present;

static void *wait_for_events(void *argument)
{
    int number = (int)(intptr_t)argument;
    SCARD_READERSTATE state = {.szReader = reader, .dwCurrentState = SCARD_STATE_UNAWARE};
    SCARDCONTEXT context = establish();

    check("SCardGetStatusChange", SCardGetStatusChange(context, 0, &state, 1));
    pthread_barrier_wait(&barrier);
    for (;;) {
        DWORD before = state.dwEventState & SCARD_STATE_PRESENT;
        if (number == 0)
            say_ready();
        do {
            state.dwCurrentState = state.dwEventState;
            check("SCardGetStatusChange", SCardGetStatusChange(context, INFINITE, &state, 1));
        } while ((state.dwEventState & SCARD_STATE_PRESENT) == before);
        woken[number] = now();
        if (number == 0)
            present = (state.dwEventState & SCARD_STATE_PRESENT) != 0;
        pthread_barrier_wait(&barrier);
        if (number == 0) {
            printf("{\"present\": %s, \"woken\": [", present ? "true" : "false");
            for (int i = 0; i < clients; i++)
                printf("%s%lld", i ? ", " : "", (long long)woken[i]);
            printf("]}\n");
        }
        pthread_barrier_wait(&barrier);
    }
    return NULL;
}

int main(int argc, char **argv)
{
    double order;

    clients = argc == 3 ? atoi(argv[2]) : 0;
    if (clients < 1)
        return 2;
    reader = argv[1];
    if (!strcmp(reader, "-")) {
        for (int i = 0; i < clients; i++)
            establish();
        say_ready();
    } else {
        woken = calloc((size_t)clients, sizeof *woken);
        if (!woken || pthread_barrier_init(&barrier, NULL, (unsigned)clients))
            return 1;
        for (int i = 0; i < clients; i++) {
            pthread_t thread;
            if (pthread_create(&thread, NULL, wait_for_events, (void *)(intptr_t)i))
                return 1;
        }
    }
    while (next_order(&order))
        ;
    return 0;
}
