/* Programs that want the same card: so many processes, each with a context and a connection of its own,
 * loop over begin a transaction, one APDU, end it, and then think for so many microseconds.
 *
 *     contend READER PROCESSES THINK
 *
 * Each order is a number of seconds; see measure.h. A wait is the time that SCardBeginTransaction took.
 * "worst_p99" is that of the process that fared worst: one that gets a single transaction in all that time
 * hardly shows among the thousands of the one that keeps the card.
 */

#include "measure.h"

#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <signal.h>
#include <unistd.h>

enum { MAX_PROCESSES = 64 };

struct shared {
    pthread_barrier_t barrier;
    int64_t until;
    int ending;
    struct samples waits[MAX_PROCESSES];
    long count[MAX_PROCESSES];
    uint32_t samples[];
};

static struct shared *shared;

static void contend(int number, const char *reader, long think)
{
    static const BYTE command[] = {0x00, 0xB0, 0x00, 0x00, 0x00};
    struct timespec thinking = {.tv_sec = think / 1000000, .tv_nsec = think % 1000000 * 1000};
    struct samples *waits = &shared->waits[number];
    BYTE answer[258];
    DWORD protocol;
    SCARDCONTEXT context = establish();
    SCARDHANDLE card = connect_to(context, reader, &protocol);

    for (int i = 0; i < 5; i++)
        exchange(card, protocol, command, sizeof command, answer);
    for (;;) {
        pthread_barrier_wait(&shared->barrier);
        pthread_barrier_wait(&shared->barrier);
        if (shared->ending)
            break;
        shared->count[number] = 0;
        waits->kept = 0;
        do {
            int64_t begin = now();
            check("SCardBeginTransaction", SCardBeginTransaction(card));
            add_sample(waits, now() - begin);
            exchange(card, protocol, command, sizeof command, answer);
            check("SCardEndTransaction", SCardEndTransaction(card, SCARD_LEAVE_CARD));
            shared->count[number]++;
            if (think)
                nanosleep(&thinking, NULL);
        } while (now() < shared->until);
        qsort(waits->ns, waits->kept, sizeof *waits->ns, by_size);
    }
    SCardDisconnect(card, SCARD_LEAVE_CARD);
    SCardReleaseContext(context);
}

static void report(int processes, int64_t begin, uint32_t *all)
{
    long total = 0, least = shared->count[0], most = 0;
    double worst = 0;
    size_t kept = 0;

    for (int i = 0; i < processes; i++) {
        const struct samples *waits = &shared->waits[i];
        double p99 = quantile(waits->ns, waits->kept, 0.99);
        total += shared->count[i];
        least = shared->count[i] < least ? shared->count[i] : least;
        most = shared->count[i] > most ? shared->count[i] : most;
        worst = p99 > worst ? p99 : worst;
        memcpy(all + kept, waits->ns, waits->kept * sizeof *all);
        kept += waits->kept;
    }
    qsort(all, kept, sizeof *all, by_size);
    printf("{\"count\": %ld, \"seconds\": %.9f, \"least\": %ld, \"most\": %ld, \"p50\": %.3f, \"p99\": %.3f, "
           "\"max\": %.3f, \"worst_p99\": %.3f}\n",
           total, (double)(now() - begin) / 1e9, least, most, quantile(all, kept, 0.5),
           quantile(all, kept, 0.99), quantile(all, kept, 1), worst);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    int processes = argc == 4 ? atoi(argv[2]) : 0, failed = 0;
    size_t size = sizeof *shared + (size_t)processes * MAX_SAMPLES * sizeof(uint32_t);
    uint32_t *all = malloc((size_t)processes * MAX_SAMPLES * sizeof *all);
    pthread_barrierattr_t attributes;
    double order;

    if (processes < 1 || processes > MAX_PROCESSES || !all)
        return 2;
    shared = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED)
        return 1;
    pthread_barrierattr_init(&attributes);
    pthread_barrierattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    pthread_barrier_init(&shared->barrier, &attributes, (unsigned)processes + 1);
    for (int i = 0; i < processes; i++) {
        shared->waits[i].ns = shared->samples + (size_t)i * MAX_SAMPLES;
        if (fork() == 0) {
            /* so that nobody waits for ever at the barrier when the measuring is broken off */
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            contend(i, argv[1], atol(argv[3]));
            return 0;
        }
    }
    pthread_barrier_wait(&shared->barrier);
    say_ready();
    while (next_order(&order)) {
        int64_t begin = now();
        shared->until = begin + (int64_t)(order * 1e9);
        pthread_barrier_wait(&shared->barrier);
        pthread_barrier_wait(&shared->barrier);
        report(processes, begin, all);
    }
    shared->ending = 1;
    pthread_barrier_wait(&shared->barrier);
    for (int i = 0; i < processes; i++) {
        int status;
        failed |= wait(&status) < 0 || status;
    }
    return failed;
}
