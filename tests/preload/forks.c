// fork, vfork and posix_spawn, with threads that allocate and without, and while the pool is being
// made.

#include "rig.h"

#include <spawn.h>
#include <sys/wait.h>

extern char **environ;

static int stop;

static void *work(void *argument)
{
    uint64_t random = (uintptr_t)argument;
    while (!__atomic_load_n(&stop, __ATOMIC_RELAXED)) {
        size_t size = next_random(&random) % (256 * KIB) + 1;
        unsigned char *block = malloc(size);
        block[size - 1] = 1;
        free(block);
    }
    return NULL;
}

static void expect_success(pid_t child)
{
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void *in_childs_thread(void *argument)
{
    unsigned char *block = malloc(3 * MIB);
    memset(block, 1, 3 * MIB);
    free(block);
    free(argument);
    return NULL;
}

static void child(unsigned char *inherited)
{
    alarm(60);
    for (size_t at = 0; at < 4 * MIB; at += 4096) {
        CHECK(inherited[at] == 8);
    }
    memset(inherited, 9, 4 * MIB);
    free(inherited);
    for (int n = 0; n < 50; n++) {
        unsigned char *block = calloc(1, 100 * KIB * (n % 7 + 1));
        CHECK(block[5000] == 0);
        block[5000] = 1;
        free(block);
    }
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, in_childs_thread, malloc(MIB)) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
    _exit(0);
}

int main(int argc, char **argv)
{
    if (argc > 1) {
        // The program that was started by a child of vfork.
        free(used(malloc(MIB)));
        return 0;
    }
    alarm(300);
    // The very first large requests: a fork finds the pool in all states of being made.
    for (int n = 0; n < 60; n++) {
        free(used(malloc(MIB)));
        if (n >= 14) {
            pid_t pid = fork();
            if (pid == 0) {
                alarm(60);
                for (int k = 0; k < 40; k++) {
                    memset(used(malloc(MIB)), 1, MIB);
                }
                _exit(0);
            }
            expect_success(pid);
        }
    }
    CHECK(warm_up());
    unsigned char *inherited = malloc(4 * MIB);
    memset(inherited, 8, 4 * MIB);
    pthread_t threads[3];
    for (uintptr_t n = 0; n < 3; n++) {
        CHECK(pthread_create(&threads[n], NULL, work, (void *)(n + 1)) == 0);
    }
    for (int round = 0; round < 60; round++) {
        pid_t pid = fork();
        if (pid == 0) {
            child(inherited);
        }
        expect_success(pid);
        CHECK(inherited[MIB] == 8);

        // The child of vfork has the parent's memory, and its pool.
        void *volatile block = NULL;
        pid = vfork();
        if (pid == 0) {
            block = malloc(MIB);
            free(malloc(2 * MIB));
            char *arguments[] = {argv[0], "again", NULL};
            execv(argv[0], arguments);
            _exit(1);
        }
        expect_success(pid);
        CHECK(is_pooled(block));
        memset(block, 1, MIB);
        free(block);

        char *arguments[] = {argv[0], "again", NULL};
        CHECK(posix_spawn(&pid, argv[0], NULL, NULL, arguments, environ) == 0);
        expect_success(pid);
    }
    __atomic_store_n(&stop, 1, __ATOMIC_RELAXED);
    for (int n = 0; n < 3; n++) {
        CHECK(pthread_join(threads[n], NULL) == 0);
    }
    free(inherited);
    puts("done");
    return 0;
}
