/* What the C clients share: stop at the first failed call, and an exchange that returns a length. */
#ifndef PCSC_CLIENT_H
#define PCSC_CLIENT_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <winscard.h>

static void check(const char *call, LONG rv)
{
    if (rv != SCARD_S_SUCCESS) {
        fprintf(stderr, "%s: %s\n", call, pcsc_stringify_error(rv));
        exit(1);
    }
}

/* The first reader whose name contains WANTED, in static storage; prints all names if SHOW. */
static inline const char *find_reader(SCARDCONTEXT context, const char *wanted, int show)
{
    static char names[16 * MAX_READERNAME];
    DWORD length = sizeof names;
    const char *found = NULL;

    check("SCardListReaders", SCardListReaders(context, NULL, names, &length));
    for (const char *name = names; *name; name += strlen(name) + 1) {
        if (show)
            printf("reader %s\n", name);
        if (!found && strstr(name, wanted))
            found = name;
    }
    if (!found) {
        fprintf(stderr, "no reader %s\n", wanted);
        exit(1);
    }
    return found;
}

/* Send COMMAND and return the length of ANSWER, which has room for 258 bytes. */
static inline DWORD exchange(SCARDHANDLE card, DWORD protocol, const BYTE *command, DWORD length,
                             BYTE *answer)
{
    const SCARD_IO_REQUEST *pci = protocol == SCARD_PROTOCOL_T1 ? SCARD_PCI_T1 : SCARD_PCI_T0;
    DWORD received = 258;

    check("SCardTransmit", SCardTransmit(card, pci, command, length, NULL, answer, &received));
    return received;
}

static inline void print_hex(const char *label, const BYTE *data, DWORD length)
{
    printf("%s ", label);
    for (DWORD i = 0; i < length; i++)
        printf("%02X", data[i]);
    printf("\n");
}

#endif
