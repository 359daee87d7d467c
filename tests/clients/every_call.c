/* Every call of the PC/SC interface that reaches the daemon, once or more. Argument: a reader. */

#include "pcsc_client.h"
#include <reader.h>

static void show(const char *call, LONG rv)
{
    printf("%s %08lX\n", call, (unsigned long)(rv & 0xFFFFFFFFL));
}

int main(int argc, char **argv)
{
    static const BYTE select[] = {0x00, 0xA4, 0x04, 0x00, 0x0A, 0xA0, 0x00, 0x00,
                                  0x00, 0x62, 0x03, 0x01, 0x0C, 0x06, 0x01};
    static const BYTE four[] = {0, 0, 0, 0};
    SCARDCONTEXT context;
    SCARDHANDLE card, none;
    SCARD_IO_REQUEST answer_pci;
    SCARD_READERSTATE state;
    DWORD protocol, word, length, atr_length = MAX_ATR_SIZE, name_length = MAX_READERNAME;
    BYTE atr[MAX_ATR_SIZE], buffer[264];
    char name[MAX_READERNAME];
    const char *reader;

    if (argc < 2)
        return 2;
    check("SCardEstablishContext", SCardEstablishContext(SCARD_SCOPE_SYSTEM, NULL, NULL, &context));
    reader = find_reader(context, argv[1], 1);
    check("SCardConnect", SCardConnect(context, reader, SCARD_SHARE_SHARED,
                                       SCARD_PROTOCOL_T0 | SCARD_PROTOCOL_T1, &card, &protocol));
    check("SCardStatus", SCardStatus(card, name, &name_length, &word, &protocol, atr, &atr_length));
    check("SCardBeginTransaction", SCardBeginTransaction(card));
    answer_pci = protocol == SCARD_PROTOCOL_T1 ? *SCARD_PCI_T1 : *SCARD_PCI_T0;
    length = sizeof buffer;
    show("SCardTransmit", SCardTransmit(card, &answer_pci, select, sizeof select, &answer_pci, buffer, &length));
    length = sizeof buffer;
    show("SCardTransmit", SCardTransmit(card, &answer_pci, four, sizeof four, &answer_pci, buffer, &length));
    length = 1;
    show("SCardTransmit", SCardTransmit(card, &answer_pci, four, sizeof four, &answer_pci, buffer, &length));
    length = sizeof buffer;
    show("SCardGetAttrib", SCardGetAttrib(card, SCARD_ATTR_ATR_STRING, buffer, &length));
    length = sizeof buffer;
    show("SCardGetAttrib", SCardGetAttrib(card, SCARD_ATTR_DEVICE_SYSTEM_NAME_A, buffer, &length));
    show("SCardSetAttrib", SCardSetAttrib(card, SCARD_ATTR_MAXINPUT, four, sizeof four));
    length = 0;
    show("SCardControl", SCardControl(card, SCARD_CTL_CODE(77), four, sizeof four, buffer, sizeof buffer, &length));
    check("SCardEndTransaction", SCardEndTransaction(card, SCARD_LEAVE_CARD));
    check("SCardReconnect", SCardReconnect(card, SCARD_SHARE_SHARED, SCARD_PROTOCOL_T0 | SCARD_PROTOCOL_T1,
                                           SCARD_RESET_CARD, &protocol));
    memset(&state, 0, sizeof state);
    state.szReader = reader;
    show("SCardGetStatusChange", SCardGetStatusChange(context, 100, &state, 1));
    state.dwCurrentState = state.dwEventState;
    show("SCardGetStatusChange", SCardGetStatusChange(context, 150, &state, 1));
    show("SCardGetStatusChange", SCardGetStatusChange(context, 0, &state, 1));
    check("SCardDisconnect", SCardDisconnect(card, SCARD_UNPOWER_CARD));
    show("SCardConnect", SCardConnect(context, "no such reader", SCARD_SHARE_SHARED, SCARD_PROTOCOL_T0,
                                      &none, &protocol));
    check("SCardReleaseContext", SCardReleaseContext(context));
    return 0;
}
