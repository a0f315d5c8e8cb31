// Blocks for other processes and devices: exported, imported by a process of its own, refused.

#include "check.h"

#include "driver.h"

#include <fcntl.h>
#include <sys/wait.h>

// The process that imports: started anew, with the descriptors and where the block lies in them.
static int importer(char **arguments)
{
    forebay_shared_block shared;
    memset(&shared, 0, sizeof shared);
    shared.struct_size = sizeof shared;
    shared.pages = strtoull(arguments[2], NULL, 10);
    shared.offset = strtoull(arguments[3], NULL, 10);
    shared.size = strtoull(arguments[4], NULL, 10);
    int32_t fds[16];
    for (uint64_t page = 0; page < shared.pages; page++) {
        fds[page] = (int32_t)strtol(arguments[5 + page], NULL, 10);
    }
    CHECK(driver_is_there());
    void *block = NULL;
    if (CHECK_OK(forebay_block_import(0, fds, &shared, &block))) {
        char *last = (char *)block + shared.size - 1;
        CHECK_EQ(driver_byte(block), 7);
        CHECK_EQ(driver_byte(last), 7);
        driver_set(block, 8, shared.size, NULL);
        CHECK_EQ(driver_byte(last), 8);
        CHECK_OK(forebay_block_close(block));
        CHECK_ERROR(forebay_block_close(block), FOREBAY_ERROR_INVALID_POINTER, "no imported");
    }
    return check_end("share, the other process");
}

static void processes(const char *program)
{
    forebay_pool *pool = driver_pool(64 * MIB);
    void *block = NULL;
    CHECK_OK(forebay_alloc(pool, 5 * MIB + 1, NULL, &block));
    driver_set(block, 7, 5 * MIB + 1, NULL);
    CHECK_EQ(driver_byte(block), 7);
    forebay_shared_block shared;
    memset(&shared, 0, sizeof shared);
    shared.struct_size = sizeof shared;
    CHECK_OK(forebay_block_export(pool, block, NULL, 0, &shared));
    CHECK_EQ(shared.size, 5 * MIB + 1);
    CHECK(shared.pages >= 3 && shared.pages <= 4);
    int32_t fds[16] = {0};
    CHECK_ERROR(forebay_block_export(pool, block, fds, 2, &shared), FOREBAY_ERROR_INVALID_ARGUMENT,
                "capacity is 2");
    CHECK_OK(forebay_block_export(pool, block, fds, 16, &shared));

    char text[20][24];
    char *arguments[24] = {(char *)program, "import"};
    uint64_t numbers[20] = {shared.pages, shared.offset, shared.size};
    for (uint64_t page = 0; page < shared.pages; page++) {
        numbers[3 + page] = (uint64_t)fds[page];
        // The other process has it too.
        CHECK_EQ(fcntl(fds[page], F_SETFD, 0), 0);
    }
    for (uint64_t at = 0; at < 3 + shared.pages; at++) {
        snprintf(text[at], sizeof text[at], "%" PRIu64, numbers[at]);
        arguments[2 + at] = text[at];
    }
    pid_t child = fork();
    if (child == 0) {
        execv(program, arguments);
        _exit(1);
    }
    int status = -1;
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(status, 0);
    CHECK_EQ(driver_byte((char *)block + 5 * MIB), 8);

    // In this process it can be imported as well.
    void *here = NULL;
    CHECK_OK(forebay_block_import(0, fds, &shared, &here));
    CHECK_EQ(driver_byte(here), 8);
    CHECK_OK(forebay_block_close(here));
    for (uint64_t page = 0; page < shared.pages; page++) {
        close(fds[page]);
    }
    CHECK_OK(forebay_free(pool, block, NULL));
    CHECK_OK(forebay_pool_check(pool));
    CHECK_OK(forebay_pool_destroy(pool));
}

static void refusals(void)
{
    const forebay_status invalid = FOREBAY_ERROR_INVALID_ARGUMENT;
    forebay_pool *pool = driver_pool(64 * MIB);
    void *small = NULL, *block = NULL, *out = NULL;
    CHECK_OK(forebay_alloc(pool, 1000, NULL, &small));
    CHECK_OK(forebay_alloc(pool, MIB, NULL, &block));
    forebay_shared_block shared;
    memset(&shared, 0, sizeof shared);
    shared.struct_size = sizeof shared;
    int32_t fds[4] = {-1, -1, -1, -1};
    CHECK_ERROR(forebay_block_export(NULL, block, fds, 4, &shared), invalid, "pool is NULL");
    CHECK_ERROR(forebay_block_export(pool, block, fds, 4, NULL), invalid, "shared is NULL");
    CHECK_ERROR(forebay_block_export(pool, small, fds, 4, &shared), invalid, "33 KiB");
    CHECK_ERROR(forebay_block_export(pool, (char *)block + 1, fds, 4, &shared),
                FOREBAY_ERROR_INVALID_POINTER, "inside the block");
    CHECK_EQ(shared.pages, 0);
    CHECK_ERROR(forebay_block_import(0, fds, &shared, NULL), invalid, "out is NULL");
    CHECK_ERROR(forebay_block_import(0, NULL, &shared, &out), invalid, "fds is NULL");
    CHECK_ERROR(forebay_block_import(0, fds, NULL, &out), invalid, "shared is NULL");
    CHECK_ERROR(forebay_block_import(0, fds, &shared, &out), invalid, "0 bytes");
    shared.pages = 1;
    shared.size = 2 * MIB + 1;
    CHECK_ERROR(forebay_block_import(0, fds, &shared, &out), invalid, "2097153 bytes");
    shared.size = 1000;
    CHECK_ERROR(forebay_block_import(0, fds, &shared, &out), invalid, "fds[0] is -1");
    CHECK_ERROR(forebay_block_import(-1, fds, &shared, &out), invalid, "device_index is -1");
    fds[0] = 0;
    CHECK_ERROR(forebay_block_import(99, fds, &shared, &out), invalid, "device_index is 99");
    CHECK_ERROR(forebay_block_import(0, fds, &shared, &out), invalid, "fds[0]");
    CHECK(out == NULL);
    CHECK_OK(forebay_block_close(NULL));
    CHECK_ERROR(forebay_block_close(block), FOREBAY_ERROR_INVALID_POINTER, "no imported block");
    CHECK_ERROR(forebay_pool_allow_peer(NULL, 1), invalid, "pool is NULL");
    CHECK_ERROR(forebay_pool_allow_peer(pool, -3), invalid, "device_index is -3");
    CHECK_ERROR(forebay_pool_allow_peer(pool, 99), invalid, "device_index is 99");
    CHECK_ERROR(forebay_pool_allow_peer(pool, 0), FOREBAY_ERROR_UNSUPPORTED, "device 0");

    forebay_pool *host = NULL;
    CHECK_OK(forebay_pool_create(NULL, &host));
    CHECK_OK(forebay_alloc(host, MIB, NULL, &out));
    CHECK_ERROR(forebay_block_export(host, out, fds, 4, &shared), FOREBAY_ERROR_UNSUPPORTED,
                "cannot be shared");
    CHECK_ERROR(forebay_pool_allow_peer(host, 0), FOREBAY_ERROR_UNSUPPORTED, "host");
    CHECK_OK(forebay_free(host, out, NULL));
    CHECK_OK(forebay_pool_destroy(host));
    CHECK_OK(forebay_free(pool, small, NULL));
    CHECK_OK(forebay_free(pool, block, NULL));
    CHECK_OK(forebay_pool_destroy(pool));
}

int main(int count, char **arguments)
{
    if (count > 4) {
        return importer(arguments);
    }
    if (!driver_is_there()) {
        puts("share: there is no CUDA driver");
        return 77;
    }
    refusals();
    processes(arguments[0]);
    return check_end("share");
}
