// Planned pools: a step served from its plan, one that goes otherwise, and bad input.

#include "check.h"

static const forebay_status invalid = FOREBAY_ERROR_INVALID_ARGUMENT;
static const forebay_status wrong_state = FOREBAY_ERROR_INVALID_STATE;

enum { KIB = 1024, MIB = 1024 * 1024 };

// Three tensors, of which the third may have the place of the first.
static const size_t sizes[] = {3 * MIB, 2 * MIB, 3 * MIB};

static forebay_plan *plan_with_alignment(uint64_t alignment)
{
    forebay_lifetime *lifetime = NULL;
    forebay_plan *plan = NULL;
    CHECK_OK(forebay_lifetime_create(&lifetime));
    CHECK_OK(forebay_lifetime_record_alloc(lifetime, 0, 0, sizes[0] + (alignment > 1 ? 0 : 1)));
    CHECK_OK(forebay_lifetime_record_alloc(lifetime, 1, 1, sizes[1]));
    CHECK_OK(forebay_lifetime_record_free(lifetime, 2, 0));
    CHECK_OK(forebay_lifetime_record_alloc(lifetime, 3, 2, sizes[2]));
    for (uint64_t id = 0; id < 3; id++) {
        CHECK_OK(forebay_lifetime_align(lifetime, id, alignment));
    }
    CHECK_OK(forebay_lifetime_plan(lifetime, NULL, &plan));
    CHECK_OK(forebay_lifetime_destroy(lifetime));
    return plan;
}

static forebay_pool *limited(uint64_t max_bytes, uint32_t flags)
{
    forebay_pool_config config = FOREBAY_POOL_CONFIG_INIT;
    config.max_bytes = max_bytes;
    config.flags = flags;
    forebay_pool *pool = NULL;
    CHECK_OK(forebay_pool_create(&config, &pool));
    return pool;
}

static forebay_plan_usage usage_of(forebay_pool *pool)
{
    forebay_plan_usage usage = FOREBAY_PLAN_USAGE_INIT;
    CHECK_OK(forebay_pool_plan_usage(pool, &usage));
    return usage;
}

static void steps(void)
{
    forebay_plan *plan = plan_with_alignment(512);
    forebay_pool *pool = limited(64 * MIB, 0);
    CHECK_OK(forebay_pool_apply_plan(pool, plan, NULL));
    CHECK_OK(forebay_plan_destroy(plan));
    for (int step = 0; step < 10; step++) {
        void *first = NULL, *second = NULL, *third = NULL, *extra = NULL;
        CHECK_OK(forebay_alloc(pool, sizes[0], NULL, &first));
        CHECK_OK(forebay_alloc(pool, sizes[1], NULL, &second));
        memset(first, 1, sizes[0]);
        memset(second, 2, sizes[1]);
        CHECK_OK(forebay_free(pool, first, NULL));
        // One more than planned.
        CHECK_OK(forebay_alloc(pool, 100 * KIB, NULL, &extra));
        CHECK_OK(forebay_alloc(pool, sizes[2], NULL, &third));
        CHECK(third == first);
        memset(third, 3, sizes[2]);
        CHECK(((char *)second)[0] == 2 && ((char *)second)[sizes[1] - 1] == 2);
        CHECK_OK(forebay_free(pool, second, NULL));
        CHECK_OK(forebay_free(pool, third, NULL));
        CHECK_OK(forebay_free(pool, extra, NULL));
        if (step % 2) {
            CHECK_OK(forebay_pool_begin_step(pool));
        }
    }
    forebay_plan_usage usage = usage_of(pool);
    CHECK_EQ(usage.arena_bytes, 6 * MIB);
    CHECK_EQ(usage.tensors, 3);
    CHECK_EQ(usage.steps, 10);
    CHECK_EQ(usage.served, 30);
    CHECK_EQ(usage.diverged, 10);
    CHECK_EQ(usage.diverged_bytes, 10 * 100 * KIB);
    CHECK_EQ(usage.live, 0);
    CHECK_OK(forebay_pool_remove_plan(pool));
    CHECK_OK(forebay_pool_destroy(pool));
}

static void bad_input(void)
{
    forebay_plan *plan = plan_with_alignment(512);
    forebay_plan *odd = plan_with_alignment(1);
    forebay_pool *pool = limited(64 * MIB, 0);
    forebay_plan_usage usage = FOREBAY_PLAN_USAGE_INIT;
    CHECK_ERROR(forebay_pool_apply_plan(NULL, plan, NULL), invalid, "pool");
    CHECK_ERROR(forebay_pool_apply_plan(pool, NULL, NULL), invalid, "plan is NULL");
    CHECK_ERROR(forebay_pool_apply_plan(pool, odd, NULL), invalid, "multiples of 512");
    CHECK_ERROR(forebay_pool_begin_step(pool), wrong_state, "no plan");
    CHECK_ERROR(forebay_pool_remove_plan(pool), wrong_state, "no plan");
    CHECK_ERROR(forebay_pool_plan_usage(pool, &usage), wrong_state, "no plan");
    CHECK_ERROR(forebay_pool_plan_usage(pool, NULL), invalid, "out");
    CHECK_ERROR(forebay_pool_begin_step(NULL), invalid, "pool");
    CHECK_ERROR(forebay_pool_remove_plan(NULL), invalid, "pool");

    CHECK_OK(forebay_pool_apply_plan(pool, plan, NULL));
    CHECK_ERROR(forebay_pool_apply_plan(pool, plan, NULL), wrong_state, "remove it first");
    usage.struct_size = 0;
    CHECK_ERROR(forebay_pool_plan_usage(pool, &usage), invalid, "struct_size");
    void *block = NULL;
    CHECK_OK(forebay_alloc(pool, sizes[0], NULL, &block));
    CHECK_ERROR(forebay_pool_remove_plan(pool), wrong_state, "1 blocks");
    CHECK_ERROR(forebay_free(pool, (char *)block + 512, NULL), FOREBAY_ERROR_INVALID_POINTER,
                "plan");
    CHECK_OK(forebay_free(pool, block, NULL));
    CHECK_ERROR(forebay_free(pool, block, NULL), FOREBAY_ERROR_INVALID_POINTER, "plan");
    CHECK_OK(forebay_pool_destroy(pool));

    forebay_pool *small = limited(4 * MIB, 0);
    CHECK_ERROR(forebay_pool_apply_plan(small, plan, NULL), FOREBAY_ERROR_OUT_OF_MEMORY, "");
    CHECK_OK(forebay_pool_destroy(small));
    forebay_pool *guarded = limited(64 * MIB, FOREBAY_POOL_GUARD_BYTES);
    CHECK_ERROR(forebay_pool_apply_plan(guarded, plan, NULL), wrong_state, "guard");
    CHECK_OK(forebay_pool_destroy(guarded));

    CHECK_OK(forebay_plan_destroy(plan));
    pool = limited(64 * MIB, 0);
    CHECK_ERROR(forebay_pool_apply_plan(pool, plan, NULL), invalid, "destroyed");
    CHECK_OK(forebay_pool_destroy(pool));
    CHECK_OK(forebay_plan_destroy(odd));
}

int main(void)
{
    time_limit(300);
    steps();
    bad_input();
    return check_end("planned");
}
