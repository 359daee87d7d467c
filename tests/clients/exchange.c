/* Exchange APDUs through libpcsclite. See README.md for the command line. */

#include "pcsc_client.h"

static DWORD parse_hex(const char *text, BYTE *out, DWORD room)
{
    DWORD length = 0;
    unsigned value;

    for (; length < room && sscanf(text, "%2x", &value) == 1; text += 2)
        out[length++] = (BYTE)value;
    return length;
}

int main(int argc, char **argv)
{
    SCARDCONTEXT context;
    SCARDHANDLE card;
    DWORD protocol, state, atr_length = MAX_ATR_SIZE, name_length = MAX_READERNAME;
    BYTE atr[MAX_ATR_SIZE], command[261], answer[258];
    char name[MAX_READERNAME];

    if (argc < 2)
        return 2;
    check("SCardEstablishContext", SCardEstablishContext(SCARD_SCOPE_SYSTEM, NULL, NULL, &context));
    check("SCardConnect",
          SCardConnect(context, find_reader(context, argv[1], 1), SCARD_SHARE_SHARED,
                       SCARD_PROTOCOL_T0 | SCARD_PROTOCOL_T1, &card, &protocol));
    check("SCardStatus",
          SCardStatus(card, name, &name_length, &state, &protocol, atr, &atr_length));
    print_hex("atr", atr, atr_length);
    for (int i = 2; i < argc; i++) {
        DWORD length = parse_hex(argv[i], command, sizeof command);
        print_hex("answer", answer, exchange(card, protocol, command, length, answer));
    }
    check("SCardDisconnect", SCardDisconnect(card, SCARD_LEAVE_CARD));
    check("SCardReleaseContext", SCardReleaseContext(context));
    return 0;
}
