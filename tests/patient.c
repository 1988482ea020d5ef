/* Loaded into the ranks that tests start: one that waits for a message sleeps, where
 * Open MPI would ask again and again and keep a core from the ranks that work. */
#include <stdlib.h>
#include <time.h>

/* PATIENT_MICROSECONDS says how long, below a million; many ranks on few cores need
 * more than 50, or their asking alone keeps the cores busy. */
int sched_yield(void)
{
    static long microseconds;
    if (!microseconds) {
        const char *told = getenv("PATIENT_MICROSECONDS");
        microseconds = told ? atol(told) : 50;
    }
    const struct timespec pause = {0, microseconds * 1000};
    nanosleep(&pause, 0);
    return 0;
}
