/* Many cards that cost as little as possible, for readers that speak the vpcd protocol.
 *
 *     emulator FIRST-PORT COUNT
 *
 * Card number I belongs to the reader that listens on port FIRST-PORT + I of the loopback interface. All
 * cards are out at the beginning. Orders come on standard input, a line each, and each is answered with a
 * line: the time by CLOCK_MONOTONIC, in nanoseconds, just before the order was carried out.
 *
 *     insert I       connect; tried again every 10 ms until somebody listens
 *     remove I       close the connection
 *     latency US     how long each APDU takes from now on, in microseconds; when none is under way
 *     quickack 0|1   acknowledge each segment at once (the default), or as the kernel likes
 *
 * A command APDU of 4 bytes or more is answered with P1 P2 bytes of zeros and 9000, at most 65,535 bytes in
 * all; the others with 9000. Frames: a length of two bytes, big-endian, and that many bytes. The reader's
 * frames of one byte are commands: 0 off, 1 on, 2 reset, 4 "your ATR?"; only the last is answered.
 */

#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MAX_CARDS = 256, MAX_FRAME = 2 + 65535, ASK_ATR = 4, RETRY_NS = 10000000 };

static const uint8_t ATR[] = {2 >> 8, 11, 0x3B, 0x86, 0x80, 0x01, 0x62, 0x65, 0x6E, 0x63, 0x68, 0x21, 0x1D};

struct card {
    int fd;
    size_t kept;
    /* when the answer is due, or 0 */
    int64_t due;
    size_t answer;
    uint8_t frame[MAX_FRAME];
};

static struct card *cards;
static int first_port, count, epoll, quick_ack = 1;
static int64_t latency;
static uint8_t out[MAX_FRAME];

static int64_t now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static void stop(const char *what)
{
    perror(what);
    exit(1);
}

static void acknowledge_at_once(int fd)
{
    setsockopt(fd, IPPROTO_TCP, TCP_QUICKACK, &quick_ack, sizeof quick_ack);
}

static void removed(struct card *card)
{
    if (card->fd < 0)
        return;
    close(card->fd);
    card->fd = -1;
    card->kept = 0;
    card->due = 0;
}

static void inserted(int number)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)(first_port + number))};
    struct timespec pause = {.tv_nsec = RETRY_NS};
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = (uint32_t)number + 1};
    struct card *card = &cards[number];
    int on = 1;

    removed(card);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    for (;;) {
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd < 0)
            stop("socket");
        if (connect(fd, (struct sockaddr *)&address, sizeof address) == 0) {
            card->fd = fd;
            break;
        }
        close(fd);
        nanosleep(&pause, NULL);
    }
    setsockopt(card->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    acknowledge_at_once(card->fd);
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, card->fd, &event))
        stop("epoll_ctl");
}

/* The whole of it in one segment, as far as that is possible; a reader that goes away is noticed later. */
static void send_all(int fd, const uint8_t *data, size_t length)
{
    while (length > 0) {
        ssize_t sent = send(fd, data, length, MSG_NOSIGNAL);
        if (sent < 0) {
            if (errno == EINTR)
                continue;
            return;
        }
        data += sent;
        length -= (size_t)sent;
    }
}

static void answer(struct card *card, size_t length)
{
    out[0] = (uint8_t)(length >> 8);
    out[1] = (uint8_t)length;
    out[length] = 0x90;
    send_all(card->fd, out, 2 + length);
    out[length] = 0;
}

static void obey(struct card *card, const uint8_t *payload, size_t length)
{
    size_t wanted = 2;

    if (length == 1 && (payload[0] <= 2 || payload[0] == ASK_ATR)) {
        if (payload[0] == ASK_ATR)
            send_all(card->fd, ATR, sizeof ATR);
        return;
    }
    if (length >= 4)
        wanted += (size_t)payload[2] << 8 | payload[3];
    if (wanted > MAX_FRAME - 2)
        wanted = MAX_FRAME - 2;
    if (latency == 0) {
        answer(card, wanted);
    } else {
        card->due = now() + latency;
        card->answer = wanted;
    }
}

static void readable(struct card *card)
{
    ssize_t got = recv(card->fd, card->frame + card->kept, MAX_FRAME - card->kept, MSG_DONTWAIT);
    size_t begin = 0;

    if (got <= 0) {
        if (got == 0 || (errno != EAGAIN && errno != EINTR))
            removed(card);
        return;
    }
    if (quick_ack)
        acknowledge_at_once(card->fd);
    card->kept += (size_t)got;
    while (card->kept - begin >= 2) {
        const uint8_t *frame = card->frame + begin;
        size_t length = (size_t)frame[0] << 8 | frame[1];
        if (card->kept - begin < 2 + length)
            break;
        obey(card, frame + 2, length);
        begin += 2 + length;
    }
    card->kept -= begin;
    if (card->kept > 0 && begin > 0)
        memmove(card->frame, card->frame + begin, card->kept);
}

/* Send the answers that are due; how long until the next one, in nanoseconds, or -1. */
static int64_t answer_due(void)
{
    int64_t next = -1, time = now();

    for (int i = 0; i < count; i++) {
        struct card *card = &cards[i];
        if (card->due == 0)
            continue;
        if (card->due <= time) {
            card->due = 0;
            answer(card, card->answer);
        } else if (next < 0 || card->due - time < next) {
            next = card->due - time;
        }
    }
    return next;
}

/* Carry out one line of orders; 0 at the end of the input. */
static int ordered(void)
{
    char line[64], what[16];
    long value;
    int64_t begin;

    if (!fgets(line, sizeof line, stdin))
        return 0;
    if (sscanf(line, "%15s %ld", what, &value) != 2) {
        fprintf(stderr, "emulator: what is %s", line);
        exit(2);
    }
    begin = now();
    if (!strcmp(what, "latency"))
        latency = value * 1000;
    else if (!strcmp(what, "quickack"))
        quick_ack = (int)value;
    else if (value < 0 || value >= count)
        exit(2);
    else if (!strcmp(what, "insert"))
        inserted((int)value);
    else if (!strcmp(what, "remove"))
        removed(&cards[value]);
    else
        exit(2);
    printf("%lld\n", (long long)begin);
    fflush(stdout);
    return 1;
}

int main(int argc, char **argv)
{
    struct epoll_event events[64], input = {.events = EPOLLIN, .data.u32 = 0};

    if (argc != 3)
        return 2;
    first_port = atoi(argv[1]);
    count = atoi(argv[2]);
    if (count < 1 || count > MAX_CARDS)
        return 2;
    cards = calloc((size_t)count, sizeof *cards);
    epoll = epoll_create1(EPOLL_CLOEXEC);
    if (!cards || epoll < 0)
        stop("emulator");
    for (int i = 0; i < count; i++)
        cards[i].fd = -1;
    /* one order per line and no more than one at a time, or lines would wait in stdio's buffer */
    setvbuf(stdin, NULL, _IONBF, 0);
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, 0, &input))
        stop("epoll_ctl");
    for (;;) {
        int64_t next = latency ? answer_due() : -1;
        struct timespec timeout = {.tv_sec = next / 1000000000, .tv_nsec = next % 1000000000};
        int ready = epoll_pwait2(epoll, events, 64, next < 0 ? NULL : &timeout, NULL);
        if (ready < 0 && errno != EINTR)
            stop("epoll_pwait2");
        for (int i = 0; i < ready; i++) {
            uint32_t number = events[i].data.u32;
            if (number == 0) {
                if (!ordered())
                    return 0;
            } else if (cards[number - 1].fd >= 0) {
                readable(&cards[number - 1]);
            }
        }
    }
}
