/* Loaded into the ranks that tests start: one that waits for a message sleeps, where
 * Open MPI would ask again and again and keep a core from the ranks that work. */
#include <time.h>

int sched_yield(void)
{
    const struct timespec fifty_microseconds = {0, 50000};
    nanosleep(&fifty_microseconds, 0);
    return 0;
}
