#include <stddef.h>
#include <stdint.h>

#pragma GCC visibility push(hidden)

/* build_carrier.py gives this to cffi, without the lines that are for the C compiler only. */

/* Transfers of one libusb context, and which of them have ended and were not told yet. */
typedef struct carrier carrier;
/* One transfer. */
typedef struct port port;

/* Results of port_send() and port_submit() are those of libusb_submit_transfer(), or one of these. */
#define PORT_BUSY 1
#define PORT_TOO_LONG 2

/* Addresses: libusb_submit_transfer(), libusb_handle_events_timeout_completed(), the libusb_context.
   NULL: there is no memory. */
carrier *carrier_new(uintptr_t submit, uintptr_t handle_events, uintptr_t context);
/* Not while it has ports. */
void carrier_free(carrier *carrier);

/* Let libusb do what is to be done, without waiting. Both return a transfer that has ended, or 0:
   bits 0..26 bytes, 27..29 status, 30 set if there are more, and from bit 32 on its number. */
int64_t carrier_turn(carrier *carrier);
int64_t carrier_next(carrier *carrier);

/* The port of a libusb_transfer that is filled in but for its callback. number is not 0. A quiet one
   is told only if it failed, or if port_send() or port_listen() was called while it was busy.
   NULL: there is no memory, and for the others: it was freed. */
port *port_new(carrier *carrier, uintptr_t transfer, uint32_t number, int is_quiet);
/* Not while it is busy. */
void port_free(port *port);
int port_submit(port *port);
/* Copy the data into the transfer's buffer and submit it. */
int port_send(port *port, const char *data, size_t length);
/* Under way, or to be told. */
int port_is_busy(const port *port);
/* Have its end told. */
void port_listen(port *port);

#pragma GCC visibility pop
