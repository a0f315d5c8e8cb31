// A handler that frees, in the middle of whatever the program does with its pool; and threads of
// the library's that take no signal of the program's.

#include "rig.h"

#include <signal.h>
#include <sys/time.h>

enum { HANDED = 64 };
static void *handed[HANDED];
static volatile sig_atomic_t freed;
static pthread_t main_thread;
static volatile sig_atomic_t elsewhere;

static void on_alarm(int signal)
{
    (void)signal;
    int before = errno;
    for (int n = 0; n < HANDED; n++) {
        void *block = __atomic_exchange_n(&handed[n], NULL, __ATOMIC_ACQ_REL);
        if (block != NULL) {
            free(block);
            freed++;
        }
    }
    elsewhere |= !pthread_equal(pthread_self(), main_thread);
    CHECK(errno == before);
}

static void on_stack_of_its_own(int signal)
{
    (void)signal;
    elsewhere |= !pthread_equal(pthread_self(), main_thread);
}

int main(void)
{
    alarm(120);
    CHECK(warm_up());
    main_thread = pthread_self();
    static char stack[64 << 10];
    stack_t other = {.ss_sp = stack, .ss_size = sizeof stack};
    CHECK(sigaltstack(&other, NULL) == 0);
    struct sigaction action = {.sa_handler = on_alarm, .sa_flags = SA_RESTART};
    CHECK(sigaction(SIGPROF, &action, NULL) == 0);
    action = (struct sigaction){.sa_handler = on_stack_of_its_own, .sa_flags = SA_ONSTACK};
    CHECK(sigaction(SIGVTALRM, &action, NULL) == 0);
    struct itimerval often = {{0, 500}, {0, 500}};
    CHECK(setitimer(ITIMER_PROF, &often, NULL) == 0);
    CHECK(setitimer(ITIMER_VIRTUAL, &often, NULL) == 0);
    uint64_t random = 1;
    for (int round = 0; round < 400000 || freed < 200; round++) {
        size_t size = 64 * KIB << next_random(&random) % 6;
        unsigned char *block = malloc(size);
        block[0] = 1;
        block[size - 1] = 2;
        void **place = &handed[next_random(&random) % HANDED];
        block = __atomic_exchange_n(place, block, __ATOMIC_ACQ_REL);
        free(block);
    }
    CHECK(setitimer(ITIMER_PROF, &(struct itimerval){0}, NULL) == 0);
    CHECK(setitimer(ITIMER_VIRTUAL, &(struct itimerval){0}, NULL) == 0);
    CHECK(freed >= 200);

    // What is blocked in every thread of the program waits for sigwait, and kills nobody.
    sigset_t waited;
    sigemptyset(&waited);
    sigaddset(&waited, SIGTERM);
    CHECK(pthread_sigmask(SIG_BLOCK, &waited, NULL) == 0);
    CHECK(number_in("/proc/self/status", "Threads:") > 1);
    CHECK(kill(getpid(), SIGTERM) == 0);
    int got = 0;
    CHECK(sigwait(&waited, &got) == 0 && got == SIGTERM);
    CHECK(!elsewhere);
    puts("done");
    return 0;
}
