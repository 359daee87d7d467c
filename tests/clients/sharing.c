/* Share a card with other processes: in every transaction write a value that no other process writes,
 * read it back, and fail if it is not the same.
 *
 *     sharing READER MARK ROUNDS
 *
 * MARK is a byte in hexadecimal. It begins when standard input ends. The card is an SLE4442; the code that allows writing is the factory's.
 */

#include "pcsc_client.h"

static void run(SCARDHANDLE card, DWORD protocol, const BYTE *command, DWORD length, BYTE *answer,
                DWORD expected)
{
    DWORD received = exchange(card, protocol, command, length, answer);

    if (received != expected + 2 || answer[expected] != 0x90) {
        print_hex("unexpected answer", answer, received);
        exit(1);
    }
}

int main(int argc, char **argv)
{
    static const BYTE select_card[] = {0xFF, 0xA4, 0x00, 0x00, 0x01, 0x06};
    static const BYTE present_code[] = {0xFF, 0x20, 0x00, 0x00, 0x03, 0xFF, 0xFF, 0xFF};
    static const BYTE read_back[] = {0xFF, 0xB0, 0x00, 0x40, 0x02};
    SCARDCONTEXT context;
    SCARDHANDLE card;
    DWORD protocol;
    BYTE answer[258];

    if (argc != 4)
        return 2;
    BYTE mark = (BYTE)strtoul(argv[2], NULL, 16);
    int rounds = atoi(argv[3]);
    check("SCardEstablishContext", SCardEstablishContext(SCARD_SCOPE_SYSTEM, NULL, NULL, &context));
    check("SCardConnect",
          SCardConnect(context, find_reader(context, argv[1], 0), SCARD_SHARE_SHARED,
                       SCARD_PROTOCOL_T0 | SCARD_PROTOCOL_T1, &card, &protocol));
    while (getchar() != EOF)
        ;
    for (int round = 0; round < rounds; round++) {
        const BYTE write[] = {0xFF, 0xD0, 0x00, 0x40, 0x02, mark, (BYTE)round};

        check("SCardBeginTransaction", SCardBeginTransaction(card));
        run(card, protocol, select_card, sizeof select_card, answer, 0);
        run(card, protocol, present_code, sizeof present_code, answer, 0);
        run(card, protocol, write, sizeof write, answer, 0);
        run(card, protocol, read_back, sizeof read_back, answer, 2);
        if (answer[0] != mark || answer[1] != (BYTE)round) {
            fprintf(stderr, "round %d: somebody else wrote %02X %02X\n", round, answer[0], answer[1]);
            return 1;
        }
        check("SCardEndTransaction", SCardEndTransaction(card, SCARD_LEAVE_CARD));
    }
    printf("%d rounds\n", rounds);
    check("SCardDisconnect", SCardDisconnect(card, SCARD_LEAVE_CARD));
    check("SCardReleaseContext", SCardReleaseContext(context));
    return 0;
}
