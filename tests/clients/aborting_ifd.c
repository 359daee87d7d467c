/* A driver for one reader with a card that answers everything with 90 00, except the APDU DE AD 00 00,
 * which kills the process. NO_POWER and NEEDS_NOBODY make drivers that cannot be loaded.
 */

#include <ifdhandler.h>
#include <stdlib.h>
#include <string.h>

#ifdef NEEDS_NOBODY
extern void a_function_that_nobody_has(void);
#endif

RESPONSECODE IFDHCreateChannelByName(DWORD Lun, LPSTR DeviceName)
{
    (void)Lun;
    (void)DeviceName;
#ifdef NEEDS_NOBODY
    a_function_that_nobody_has();
#endif
    return IFD_SUCCESS;
}

RESPONSECODE IFDHCreateChannel(DWORD Lun, DWORD Channel)
{
    (void)Lun;
    (void)Channel;
    return IFD_SUCCESS;
}

RESPONSECODE IFDHCloseChannel(DWORD Lun)
{
    (void)Lun;
    return IFD_SUCCESS;
}

RESPONSECODE IFDHGetCapabilities(DWORD Lun, DWORD Tag, PDWORD Length, PUCHAR Value)
{
    (void)Lun;
    (void)Tag;
    (void)Length;
    (void)Value;
    return IFD_ERROR_TAG;
}

RESPONSECODE IFDHSetCapabilities(DWORD Lun, DWORD Tag, DWORD Length, PUCHAR Value)
{
    (void)Lun;
    (void)Tag;
    (void)Length;
    (void)Value;
    return IFD_ERROR_TAG;
}

RESPONSECODE IFDHSetProtocolParameters(DWORD Lun, DWORD Protocol, UCHAR Flags, UCHAR PTS1, UCHAR PTS2,
                                       UCHAR PTS3)
{
    (void)Lun;
    (void)Protocol;
    (void)Flags;
    (void)PTS1;
    (void)PTS2;
    (void)PTS3;
    return IFD_SUCCESS;
}

#ifndef NO_POWER
RESPONSECODE IFDHPowerICC(DWORD Lun, DWORD Action, PUCHAR Atr, PDWORD AtrLength)
{
    static const UCHAR card_atr[] = {0x3B, 0x80, 0x01, 0x81};

    (void)Lun;
    if (Action == IFD_POWER_DOWN) {
        *AtrLength = 0;
    } else {
        memcpy(Atr, card_atr, sizeof card_atr);
        *AtrLength = sizeof card_atr;
    }
    return IFD_SUCCESS;
}
#endif

RESPONSECODE IFDHTransmitToICC(DWORD Lun, SCARD_IO_HEADER SendPci, PUCHAR TxBuffer, DWORD TxLength,
                               PUCHAR RxBuffer, PDWORD RxLength, PSCARD_IO_HEADER RecvPci)
{
    static const UCHAR deadly[] = {0xDE, 0xAD, 0x00, 0x00};

    (void)Lun;
    (void)SendPci;
    (void)RecvPci;
    if (TxLength == sizeof deadly && !memcmp(TxBuffer, deadly, sizeof deadly))
        abort();
    memcpy(RxBuffer, "\x90\x00", 2);
    *RxLength = 2;
    return IFD_SUCCESS;
}

RESPONSECODE IFDHControl(DWORD Lun, DWORD dwControlCode, PUCHAR TxBuffer, DWORD TxLength, PUCHAR RxBuffer,
                         DWORD RxLength, LPDWORD pdwBytesReturned)
{
    (void)Lun;
    (void)dwControlCode;
    (void)TxBuffer;
    (void)TxLength;
    (void)RxBuffer;
    (void)RxLength;
    *pdwBytesReturned = 0;
    return IFD_ERROR_NOT_SUPPORTED;
}

RESPONSECODE IFDHICCPresence(DWORD Lun)
{
    (void)Lun;
    return IFD_ICC_PRESENT;
}
