/* Read the whole memory of an SLE4442 through the pseudo-APDUs of an ACR38 and print it as a dump.
 *
 *     sle4442 READER
 */

#include "pcsc_client.h"

enum { MEMORY = 256, CHUNK = 32 };

static void expect_9000(const char *what, const BYTE *answer, DWORD length, DWORD data)
{
    if (length != data + 2 || answer[data] != 0x90 || answer[data + 1] != 0x00) {
        fprintf(stderr, "%s: %lu bytes, unexpected answer\n", what, (unsigned long)length);
        print_hex("answer", answer, length);
        exit(1);
    }
}

int main(int argc, char **argv)
{
    static const BYTE select_card[] = {0xFF, 0xA4, 0x00, 0x00, 0x01, 0x06};
    SCARDCONTEXT context;
    SCARDHANDLE card;
    DWORD protocol, length;
    BYTE memory[MEMORY], answer[258];

    if (argc != 2)
        return 2;
    check("SCardEstablishContext", SCardEstablishContext(SCARD_SCOPE_SYSTEM, NULL, NULL, &context));
    check("SCardConnect",
          SCardConnect(context, find_reader(context, argv[1], 0), SCARD_SHARE_EXCLUSIVE,
                       SCARD_PROTOCOL_T0 | SCARD_PROTOCOL_T1, &card, &protocol));

    length = exchange(card, protocol, select_card, sizeof select_card, answer);
    expect_9000("select", answer, length, 0);
    for (unsigned address = 0; address < MEMORY; address += CHUNK) {
        const BYTE read[] = {0xFF, 0xB0, 0x00, (BYTE)address, CHUNK};
        length = exchange(card, protocol, read, sizeof read, answer);
        expect_9000("read", answer, length, CHUNK);
        memcpy(memory + address, answer, CHUNK);
    }
    for (unsigned address = 0; address < MEMORY; address += 16) {
        printf("%02X:", address);
        for (unsigned i = 0; i < 16; i++)
            printf(" %02X", memory[address + i]);
        printf("\n");
    }
    check("SCardDisconnect", SCardDisconnect(card, SCARD_RESET_CARD));
    check("SCardReleaseContext", SCardReleaseContext(context));
    return 0;
}
