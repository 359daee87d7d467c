/* The hot part of USB transfers: it submits them, and collects those that have ended, so that Python
 * is called for none, but asks once for all. It knows neither what they carry nor libusb's headers:
 * libusb is the one that Python has loaded, by the addresses of its functions.
 *
 * Everything is called in one thread, callbacks within carrier_turn(). */

#include "carrier.h"

#include <stdlib.h>
#include <string.h>
#include <sys/time.h>

/* struct libusb_transfer without isochronous packets. */
struct transfer {
    void *handle;
    uint8_t flags, endpoint, type;
    unsigned int timeout;
    int status, length, actual_length;
    void (*callback)(struct transfer *);
    void *user_data;
    unsigned char *buffer;
};

struct carrier {
    int (*submit)(struct transfer *);
    int (*handle_events)(void *, struct timeval *, int *);
    void *context;
    port *first, *last;
};

struct port {
    carrier *carrier;
    struct transfer *transfer;
    /* the next one that has ended */
    port *next;
    int size;
    uint32_t number;
    uint8_t is_busy, is_quiet, tells;
};

/* LIBUSB_ERROR_NO_DEVICE */
enum { NO_DEVICE = -4 };
enum { STATUS_SHIFT = 27, MORE_SHIFT = 30, NUMBER_SHIFT = 32 };

carrier *carrier_new(uintptr_t submit, uintptr_t handle_events, uintptr_t context)
{
    carrier *new = calloc(1, sizeof *new);

    if (new) {
        new->submit = (int (*)(struct transfer *))submit;
        new->handle_events = (int (*)(void *, struct timeval *, int *))handle_events;
        new->context = (void *)context;
    }
    return new;
}

void carrier_free(carrier *carrier)
{
    free(carrier);
}

static void ended(struct transfer *transfer)
{
    port *port = transfer->user_data;
    carrier *carrier = port->carrier;

    if (!port->tells && transfer->status == 0) {
        port->is_busy = 0;
        return;
    }
    port->next = NULL;
    if (carrier->last)
        carrier->last->next = port;
    else
        carrier->first = port;
    carrier->last = port;
}

int64_t carrier_next(carrier *carrier)
{
    port *port = carrier->first;
    struct transfer *transfer;

    if (!port)
        return 0;
    carrier->first = port->next;
    if (!carrier->first)
        carrier->last = NULL;
    port->is_busy = 0;
    port->tells = !port->is_quiet;
    transfer = port->transfer;
    return (int64_t)port->number << NUMBER_SHIFT | (int64_t)(carrier->first != NULL) << MORE_SHIFT |
           (int64_t)transfer->status << STATUS_SHIFT | transfer->actual_length;
}

int64_t carrier_turn(carrier *carrier)
{
    struct timeval no_time = {0, 0};

    carrier->handle_events(carrier->context, &no_time, NULL);
    return carrier_next(carrier);
}

port *port_new(carrier *carrier, uintptr_t transfer, uint32_t number, int is_quiet)
{
    port *new = calloc(1, sizeof *new);

    if (new) {
        new->carrier = carrier;
        new->transfer = (struct transfer *)transfer;
        new->size = new->transfer->length;
        new->number = number;
        new->is_quiet = is_quiet != 0;
        new->tells = !is_quiet;
        new->transfer->callback = ended;
        new->transfer->user_data = new;
    }
    return new;
}

void port_free(port *port)
{
    free(port);
}

int port_submit(port *port)
{
    int result;

    if (!port)
        return NO_DEVICE;
    if (port->is_busy)
        return PORT_BUSY;
    result = port->carrier->submit(port->transfer);
    port->is_busy = result == 0;
    return result;
}

int port_send(port *port, const char *data, size_t length)
{
    if (!port)
        return NO_DEVICE;
    if (port->is_busy) {
        port->tells = 1;
        return PORT_BUSY;
    }
    if (length > (size_t)port->size)
        return PORT_TOO_LONG;
    memcpy(port->transfer->buffer, data, length);
    port->transfer->length = (int)length;
    return port_submit(port);
}

int port_is_busy(const port *port)
{
    return port && port->is_busy;
}

void port_listen(port *port)
{
    port->tells = 1;
}
