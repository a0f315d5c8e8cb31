// Prints the report twice, once more after a second, and once in a forked child, a line each.

#define _XOPEN_SOURCE 700

#include <forebay.h>
#include <stdio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int print_report(void)
{
    static char text[65536];
    if (forebay_memory_info_json(text, sizeof text, NULL) != FOREBAY_OK) {
        fprintf(stderr, "%s\n", forebay_last_error());
        return 1;
    }
    puts(text);
    fflush(stdout);
    return 0;
}

int main(int count, char **arguments)
{
    (void)arguments;
    int failed = print_report();
    if (count > 1) {
        return failed;
    }
    failed |= print_report();
    struct timespec time = {1, 50000000};
    nanosleep(&time, NULL);
    failed |= print_report();
    pid_t child = fork();
    if (child == 0) {
        _exit(print_report());
    }
    int status = 1;
    return waitpid(child, &status, 0) != child || status != 0 || failed;
}
