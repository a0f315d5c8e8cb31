// Lifetimes: what is recorded, what is suggested, and every bad input.

#include "check.h"

static forebay_lifetime *record_of(void)
{
    forebay_lifetime *lifetime = NULL;
    if (!CHECK_OK(forebay_lifetime_create(&lifetime))) {
        exit(1);
    }
    return lifetime;
}

static forebay_plan *plan_of(forebay_lifetime *lifetime)
{
    forebay_plan *plan = NULL;
    if (!CHECK_OK(forebay_lifetime_plan(lifetime, NULL, &plan))) {
        exit(1);
    }
    return plan;
}

static void steps_and_suggestions(void)
{
    forebay_lifetime *lifetime = record_of();
    CHECK_OK(forebay_lifetime_record_alloc(lifetime, 0, 1, 1000));
    CHECK_OK(forebay_lifetime_record_alloc(lifetime, 0, 2, 500));
    CHECK_OK(forebay_lifetime_record(lifetime, 1, 1, 1000));
    CHECK_OK(forebay_lifetime_record_alloc(lifetime, 5, 3, 1000));
    CHECK_OK(forebay_lifetime_record(lifetime, 6, 3, 1000));
    CHECK_OK(forebay_lifetime_record_free(lifetime, 90, 1));
    CHECK_OK(forebay_lifetime_record_free(lifetime, 95, 3));
    CHECK_OK(forebay_lifetime_record(lifetime, 99, 4, 10));

    forebay_plan *plan = plan_of(lifetime);
    forebay_lifetime_suggestions found = FOREBAY_LIFETIME_SUGGESTIONS_INIT;
    CHECK_OK(forebay_lifetime_suggest(lifetime, plan, &found));
    CHECK_EQ(found.struct_size, sizeof found);
    CHECK_EQ(found.tensors, 4);
    CHECK_EQ(found.steps, 100);
    CHECK_EQ(found.total_bytes, 2510);
    CHECK_EQ(found.peak_bytes, 2500);
    CHECK_EQ(found.planned_bytes, 2500);
    CHECK_EQ(found.reusable_bytes, 10);
    CHECK_EQ(found.temporary_tensors, 1);
    CHECK_EQ(found.temporary_bytes, 10);
    CHECK_EQ(found.long_lived_tensors, 3);
    CHECK_EQ(found.never_read_tensors, 1);
    CHECK_EQ(found.never_read_bytes, 500);
    CHECK_EQ(found.free_earlier_tensors, 2);
    CHECK_EQ(found.free_earlier_bytes, 2000);
    CHECK_EQ(found.free_earlier_peak_bytes, 1000);

    found.struct_size = 3;
    CHECK_ERROR(forebay_lifetime_suggest(lifetime, plan, &found), FOREBAY_ERROR_INVALID_ARGUMENT,
                "struct_size is 3");
    CHECK_ERROR(forebay_lifetime_suggest(lifetime, plan, NULL), FOREBAY_ERROR_INVALID_ARGUMENT,
                "out is NULL");
    found.struct_size = sizeof found;
    CHECK_ERROR(forebay_lifetime_suggest(lifetime, NULL, &found), FOREBAY_ERROR_INVALID_ARGUMENT,
                "plan is NULL");
    CHECK_OK(forebay_lifetime_record(lifetime, 100, 5, 1));
    CHECK_ERROR(forebay_lifetime_suggest(lifetime, plan, &found), FOREBAY_ERROR_INVALID_ARGUMENT,
                "4 tensors", "5");
    CHECK_OK(forebay_plan_destroy(plan));
    CHECK_OK(forebay_lifetime_destroy(lifetime));
}

static void bad_records(void)
{
    const forebay_status invalid = FOREBAY_ERROR_INVALID_ARGUMENT;
    forebay_lifetime *lifetime = record_of();
    CHECK_OK(forebay_lifetime_record(lifetime, 5, 1, 100));
    CHECK_ERROR(forebay_lifetime_record(lifetime, 4, 1, 100), invalid, "time is 4", "5");
    CHECK_ERROR(forebay_lifetime_record(lifetime, UINT64_MAX, 1, 100), invalid, "time is");
    CHECK_ERROR(forebay_lifetime_record(lifetime, 5, 1, 101), invalid, "bytes is 101", "100");
    CHECK_ERROR(forebay_lifetime_record(lifetime, 5, 2, 0), invalid, "tensor 2", "bytes is 0");
    CHECK_ERROR(forebay_lifetime_record_alloc(lifetime, 4, 2, 8), invalid, "time is 4");
    CHECK_ERROR(forebay_lifetime_record_alloc(lifetime, 5, 2, 0), invalid, "bytes is 0");
    CHECK_ERROR(forebay_lifetime_record_alloc(lifetime, 5, 1, 8), invalid, "tensor 1");
    CHECK_ERROR(forebay_lifetime_record_free(lifetime, 5, 9), invalid, "tensor 9");
    CHECK_ERROR(forebay_lifetime_record_free(lifetime, 5, 1), invalid, "a free comes after");
    CHECK_ERROR(forebay_lifetime_record_free(lifetime, 4, 1), invalid, "time is 4");
    CHECK_OK(forebay_lifetime_record_free(lifetime, 6, 1));
    CHECK_ERROR(forebay_lifetime_record_free(lifetime, 7, 1), FOREBAY_ERROR_INVALID_STATE,
                "tensor 1", "6");
    CHECK_ERROR(forebay_lifetime_record(lifetime, 7, 1, 100), FOREBAY_ERROR_INVALID_STATE,
                "freed at 6");
    CHECK_ERROR(forebay_lifetime_align(lifetime, 1, 24), invalid, "alignment is 24");
    CHECK_ERROR(forebay_lifetime_align(lifetime, 9, 8), invalid, "tensor 9");
    CHECK_ERROR(forebay_lifetime_fix(lifetime, 9, 8), invalid, "tensor 9");
    CHECK_ERROR(forebay_lifetime_alias(lifetime, 1, 9), invalid, "tensor 9");
    CHECK_ERROR(forebay_lifetime_alias(lifetime, 1, 1), invalid, "alias 1");
    CHECK_ERROR(forebay_lifetime_add_trace(lifetime, NULL, 0, 1), invalid, "path is NULL");
    CHECK_ERROR(forebay_lifetime_add_trace(lifetime, "none", 0, 3), invalid, "alignment is 3");
    CHECK_ERROR(forebay_lifetime_add_trace(lifetime, "none", 0, 1), FOREBAY_ERROR_IO, "none");
    CHECK_ERROR(forebay_lifetime_add_instance(lifetime, NULL), invalid, "path is NULL");
    CHECK_ERROR(forebay_lifetime_add_instance(lifetime, "none"), FOREBAY_ERROR_IO, "none");
    // Nothing of all that was recorded.
    forebay_plan *plan = plan_of(lifetime);
    forebay_plan_summary summary = FOREBAY_PLAN_SUMMARY_INIT;
    CHECK_OK(forebay_plan_summarize(plan, &summary));
    CHECK_EQ(summary.tensors, 1);
    CHECK_EQ(summary.arena_bytes, 100);
    CHECK_OK(forebay_plan_destroy(plan));

    CHECK_ERROR(forebay_lifetime_create(NULL), invalid, "out is NULL");
    CHECK_OK(forebay_lifetime_destroy(NULL));
    CHECK_OK(forebay_lifetime_destroy(lifetime));
    CHECK_ERROR(forebay_lifetime_destroy(lifetime), invalid, "destroyed before");
    CHECK_ERROR(forebay_lifetime_record(lifetime, 9, 9, 9), invalid, "destroyed before");
    CHECK_ERROR(forebay_lifetime_record(NULL, 9, 9, 9), invalid, "lifetime is NULL");
    CHECK_ERROR(forebay_lifetime_plan(lifetime, NULL, &plan), invalid, "destroyed before");
}

static void traces(void)
{
    const char *path = "lifetime-trace.csv";
    FILE *file = fopen(path, "wb");
    CHECK(file != NULL
          && fputs("Thread,Time,Action,Pointer,Size,Stream\n"
                   "1,00:00:00.000000,allocate,0x1000,700,0x0\n"
                   "1,00:00:00.000001,allocate,0x2000,100,0x0\n"
                   "1,00:00:00.000002,free,0x1000,700,0x0\n"
                   "1,00:00:00.000003,allocate,0x1000,1024,0x0\n",
                   file) >= 0
          && fclose(file) == 0);
    forebay_lifetime *lifetime = record_of();
    CHECK_OK(forebay_lifetime_add_trace(lifetime, path, 10, 512));
    forebay_plan *plan = plan_of(lifetime);
    forebay_plan_summary summary = FOREBAY_PLAN_SUMMARY_INIT;
    CHECK_OK(forebay_plan_summarize(plan, &summary));
    CHECK_EQ(summary.tensors, 3);
    CHECK_EQ(summary.total_bytes, 1024 + 512 + 1024);
    CHECK_EQ(summary.arena_bytes, 1024 + 512);
    uint64_t offset = 0, other = 1;
    CHECK_OK(forebay_plan_offset(plan, 10, &offset));
    CHECK_OK(forebay_plan_offset(plan, 12, &other));
    CHECK_EQ(offset, other);
    CHECK_ERROR(forebay_lifetime_add_trace(lifetime, path, 10, 512),
                FOREBAY_ERROR_INVALID_ARGUMENT, "tensor 10");
    CHECK_OK(forebay_plan_destroy(plan));
    CHECK_OK(forebay_lifetime_destroy(lifetime));
    CHECK(remove(path) == 0);
}

int main(void)
{
    time_limit(300);
    steps_and_suggestions();
    bad_records();
    traces();
    return check_end("lifetime");
}
