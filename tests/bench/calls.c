/* One client that makes one call again and again.
 *
 *     calls apdu READER SEND RECEIVE       SCardTransmit of so many bytes, answered with so many
 *     calls status READER                  SCardStatus
 *     calls list                           SCardListReaders
 *     calls changes READER                 SCardGetStatusChange with a time-out of 0
 *     calls connect READER leave|reset     SCardConnect and SCardDisconnect
 *
 * Each order is a number of seconds, or below 0 a number of calls; see measure.h.
 */

#include "measure.h"

static SCARDCONTEXT context;
static SCARDHANDLE card;
static DWORD protocol, disposition;
static const char *reader;
static BYTE command[65536], answer[65548];
static DWORD send_length, receive_length;

static void transmit(void)
{
    const SCARD_IO_REQUEST *pci = protocol == SCARD_PROTOCOL_T1 ? SCARD_PCI_T1 : SCARD_PCI_T0;
    DWORD length = sizeof answer;

    check("SCardTransmit", SCardTransmit(card, pci, command, send_length, NULL, answer, &length));
    if (length != receive_length || answer[length - 2] != 0x90) {
        fprintf(stderr, "an answer of %lu bytes instead of %lu\n", length, receive_length);
        exit(1);
    }
}

static void status(void)
{
    char name[MAX_READERNAME];
    BYTE atr[MAX_ATR_SIZE];
    DWORD name_length = sizeof name, atr_length = sizeof atr, state, used;

    check("SCardStatus", SCardStatus(card, name, &name_length, &state, &used, atr, &atr_length));
}

static void list(void)
{
    char names[16 * MAX_READERNAME];
    DWORD length = sizeof names;

    check("SCardListReaders", SCardListReaders(context, NULL, names, &length));
}

static void changes(void)
{
    SCARD_READERSTATE state = {.szReader = reader, .dwCurrentState = SCARD_STATE_UNAWARE};

    check("SCardGetStatusChange", SCardGetStatusChange(context, 0, &state, 1));
}

static void connect_disconnect(void)
{
    card = connect_to(context, reader, &protocol);
    check("SCardDisconnect", SCardDisconnect(card, disposition));
}

static void prepare_apdu(int argc, char **argv)
{
    if (argc != 5)
        exit(2);
    send_length = (DWORD)atol(argv[3]);
    receive_length = (DWORD)atol(argv[4]);
    if (send_length < 5 || send_length > 65535 || receive_length < 2 || receive_length > 65535)
        exit(2);
    command[1] = 0xB0;
    command[2] = (BYTE)((receive_length - 2) >> 8);
    command[3] = (BYTE)(receive_length - 2);
}

int main(int argc, char **argv)
{
    void (*call)(void) = NULL;
    struct samples samples = {.ns = malloc(MAX_SAMPLES * sizeof(uint32_t))};
    const char *what = argc > 1 ? argv[1] : "";
    int connected;
    double order;

    if (!samples.ns)
        return 1;
    reader = argc > 2 ? argv[2] : NULL;
    if (!strcmp(what, "apdu")) {
        prepare_apdu(argc, argv);
        call = transmit;
    } else if (!strcmp(what, "status")) {
        call = status;
    } else if (!strcmp(what, "list")) {
        call = list;
    } else if (!strcmp(what, "changes")) {
        call = changes;
    } else if (!strcmp(what, "connect") && argc == 4) {
        disposition = strcmp(argv[3], "reset") ? SCARD_LEAVE_CARD : SCARD_RESET_CARD;
        call = connect_disconnect;
    }
    if (!call || (!reader && call != list))
        return 2;
    context = establish();
    connected = call == transmit || call == status;
    if (connected)
        card = connect_to(context, reader, &protocol);
    for (int i = 0; i < 20; i++)
        call();
    say_ready();
    while (next_order(&order)) {
        int64_t begin = now(), before = begin, after;
        long count = 0;
        samples.kept = 0;
        do {
            call();
            after = now();
            add_sample(&samples, after - before);
            before = after;
            count++;
        } while (order < 0 ? count < -order : (double)(after - begin) < order * 1e9);
        qsort(samples.ns, samples.kept, sizeof *samples.ns, by_size);
        printf("{\"count\": %ld, \"seconds\": %.9f, \"p50\": %.3f, \"p99\": %.3f}\n", count,
               (double)(after - begin) / 1e9, quantile(samples.ns, samples.kept, 0.5),
               quantile(samples.ns, samples.kept, 0.99));
        fflush(stdout);
    }
    if (connected)
        SCardDisconnect(card, SCARD_LEAVE_CARD);
    SCardReleaseContext(context);
    return 0;
}
