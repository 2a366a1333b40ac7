// A wall clock that can be set, for a process that is started with this library in LD_PRELOAD.
//
// The file that WALL_CLOCK names holds by how many seconds the clock is ahead of the true one, as a 64-bit integer. Whoever
// asks for the wall time is told so. librdkafka's waits, which end at a point of the wall clock, end when this clock comes
// there, as they do on a machine whose clock is set: set back, they last so much longer unless something wakes them. Rust's
// own waits go by the monotonic clock, which nobody sets.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <threads.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t *ahead;

__attribute__((constructor)) static void open_clock(void) {
    const char *path = getenv("WALL_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    void *page = file < 0 ? MAP_FAILED : mmap(NULL, sizeof *ahead, PROT_READ, MAP_SHARED, file, 0);
    if (page == MAP_FAILED) abort();
    close(file);
    ahead = page;
}

static int true_time(clockid_t clock, struct timespec *time) { return (int)syscall(SYS_clock_gettime, clock, time); }

int clock_gettime(clockid_t clock, struct timespec *time) {
    int error = true_time(clock, time);
    if (!error && ahead && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) time->tv_sec += *ahead;
    return error;
}

int gettimeofday(struct timeval *restrict time, void *restrict zone) {
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    time->tv_sec = now.tv_sec;
    time->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *place) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (place) *place = now.tv_sec;
    return now.tv_sec;
}

int timespec_get(struct timespec *time, int base) { return clock_gettime(CLOCK_REALTIME, time) ? 0 : base; }

static int64_t nanos(const struct timespec *time) { return time->tv_sec * 1000000000LL + time->tv_nsec; }

// In slices, between which the clock may have been set.
int cnd_timedwait(cnd_t *condition, mtx_t *mutex, const struct timespec *until) {
    static int (*wait)(cnd_t *, mtx_t *, const struct timespec *);
    if (!wait) wait = (int (*)(cnd_t *, mtx_t *, const struct timespec *))dlsym(RTLD_NEXT, "cnd_timedwait");
    for (;;) {
        struct timespec now;
        clock_gettime(CLOCK_REALTIME, &now);
        int64_t left = nanos(until) - nanos(&now);
        if (left <= 0) return thrd_timedout;
        if (left > 10000000) left = 10000000;
        true_time(CLOCK_REALTIME, &now);
        int64_t end = nanos(&now) + left;
        struct timespec slice = {.tv_sec = end / 1000000000LL, .tv_nsec = end % 1000000000LL};
        int result = wait(condition, mutex, &slice);
        if (result != thrd_timedout) return result;
    }
}
