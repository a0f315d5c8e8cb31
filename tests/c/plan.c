// Plans: made, looked at, saved, loaded, checked; aliases, alignment, fixed offsets; bad input.

#include "check.h"

static const forebay_status invalid = FOREBAY_ERROR_INVALID_ARGUMENT;

// Four quarters of a square, in a pinwheel around a fifth: no order of first fits finds it.
static forebay_lifetime *pinwheel(void)
{
    static const uint64_t tensors[][3] = {{0, 6, 30}, {6, 9, 60}, {3, 9, 30}, {0, 3, 60}, {3, 6, 30}};
    const char *path = "plan-pinwheel.csv";
    FILE *file = fopen(path, "wb");
    CHECK(file != NULL && fputs("id,lower,upper,size\n", file) >= 0);
    for (unsigned i = 0; i < 5; i++) {
        fprintf(file, "%u,%" PRIu64 ",%" PRIu64 ",%" PRIu64 "\n", i, tensors[i][0], tensors[i][1],
                tensors[i][2]);
    }
    CHECK(fclose(file) == 0);
    forebay_lifetime *lifetime = NULL;
    CHECK_OK(forebay_lifetime_create(&lifetime));
    CHECK_OK(forebay_lifetime_add_instance(lifetime, path));
    CHECK_ERROR(forebay_lifetime_add_instance(lifetime, path), invalid, "tensor 0");
    CHECK(remove(path) == 0);
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

static forebay_plan_summary summary_of(forebay_plan *plan)
{
    forebay_plan_summary summary = FOREBAY_PLAN_SUMMARY_INIT;
    CHECK_OK(forebay_plan_summarize(plan, &summary));
    return summary;
}

static int stop(const forebay_plan_progress *progress, void *user)
{
    CHECK(progress->arena_bytes >= progress->lower_bound);
    ++*(unsigned *)user;
    return 1;
}

static void made_and_looked_at(void)
{
    forebay_lifetime *lifetime = pinwheel();
    forebay_plan *plan = plan_of(lifetime);
    forebay_plan_summary summary = summary_of(plan);
    CHECK_EQ(summary.tensors, 5);
    CHECK_EQ(summary.arena_bytes, 90);
    CHECK_EQ(summary.lower_bound, 90);
    CHECK_EQ(summary.total_bytes, 210);
    CHECK_EQ(summary.optimal, 1);
    CHECK_OK(forebay_plan_validate(plan, lifetime));

    forebay_plan_tensor tensor;
    for (size_t i = 0; i < 5; i++) {
        uint64_t offset = UINT64_MAX;
        CHECK_OK(forebay_plan_tensor_at(plan, i, &tensor));
        CHECK_EQ(tensor.id, i);
        CHECK_OK(forebay_plan_offset(plan, i, &offset));
        CHECK_EQ(offset, tensor.offset);
        CHECK(offset + tensor.size <= 90);
    }
    uint64_t ids[5] = {9, 9, 9, 9, 9};
    size_t count = 9;
    // The long ones at the bottom and on top are not at one height.
    CHECK_OK(forebay_plan_sharers(plan, 0, NULL, 0, &count));
    CHECK(count >= 1 && count <= 3);
    size_t again = 0;
    CHECK_OK(forebay_plan_sharers(plan, 0, ids, 1, &again));
    CHECK_EQ(again, count);
    CHECK(ids[0] != 9 && ids[0] != 0 && ids[1] == 9);

    CHECK_ERROR(forebay_plan_sharers(plan, 9, ids, 5, &count), invalid, "tensor 9");
    CHECK_ERROR(forebay_plan_sharers(plan, 0, NULL, 5, &count), invalid, "ids is NULL", "5");
    CHECK_ERROR(forebay_plan_sharers(plan, 0, ids, 5, NULL), invalid, "count is NULL");
    CHECK_ERROR(forebay_plan_tensor_at(plan, 5, &tensor), invalid, "index is 5", "5 tensors");
    CHECK_ERROR(forebay_plan_tensor_at(plan, 0, NULL), invalid, "out is NULL");
    CHECK_ERROR(forebay_plan_offset(plan, 7, &ids[0]), invalid, "tensor 7");
    CHECK_ERROR(forebay_plan_offset(plan, 0, NULL), invalid, "out is NULL");
    CHECK_ERROR(forebay_plan_summarize(plan, NULL), invalid, "out is NULL");
    CHECK_ERROR(forebay_plan_summarize(NULL, &summary), invalid, "plan is NULL");
    summary.struct_size = 0;
    CHECK_ERROR(forebay_plan_summarize(plan, &summary), invalid, "struct_size is 0");

    CHECK_ERROR(forebay_plan_validate(plan, NULL), invalid, "lifetime is NULL");
    CHECK_OK(forebay_lifetime_record_alloc(lifetime, 9, 77, 5));
    CHECK_ERROR(forebay_plan_validate(plan, lifetime), invalid, "5 tensors", "6");
    CHECK_OK(forebay_plan_destroy(NULL));
    CHECK_OK(forebay_plan_destroy(plan));
    CHECK_ERROR(forebay_plan_destroy(plan), invalid, "destroyed before");
    CHECK_ERROR(forebay_plan_offset(plan, 0, &ids[0]), invalid, "destroyed before");
    CHECK_OK(forebay_lifetime_destroy(lifetime));
}

static void options(void)
{
    forebay_lifetime *lifetime = pinwheel();
    forebay_plan *plan = NULL;
    forebay_plan_options options = FOREBAY_PLAN_OPTIONS_INIT;
    options.flags = FOREBAY_PLAN_GREEDY;
    CHECK_OK(forebay_lifetime_plan(lifetime, &options, &plan));
    CHECK(summary_of(plan).arena_bytes >= 90);
    CHECK_OK(forebay_plan_validate(plan, lifetime));
    CHECK_OK(forebay_plan_destroy(plan));

    options.flags = 6;
    CHECK_ERROR(forebay_lifetime_plan(lifetime, &options, &plan), invalid, "flags is 0x6");
    options.flags = 0;
    options.reserved = 1;
    CHECK_ERROR(forebay_lifetime_plan(lifetime, &options, &plan), invalid, "reserved 1");
    options.reserved = 0;
    options.struct_size = 1;
    CHECK_ERROR(forebay_lifetime_plan(lifetime, &options, &plan), invalid, "struct_size is 1");
    CHECK_ERROR(forebay_lifetime_plan(lifetime, NULL, NULL), invalid, "out is NULL");
    CHECK_ERROR(forebay_lifetime_plan(NULL, NULL, &plan), invalid, "lifetime is NULL");
    CHECK_OK(forebay_lifetime_destroy(lifetime));

    // So many odd sizes at odd times that no plan at the bound is found before the first call.
    unsigned calls = 0;
    uint64_t random = 1;
    CHECK_OK(forebay_lifetime_create(&lifetime));
    for (uint64_t id = 0; id < 3000; id++) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        CHECK_OK(forebay_lifetime_record_alloc(lifetime, id, id, 1 + (random >> 44)));
        if (id >= 64 && id % 2 == 0) {
            CHECK_OK(forebay_lifetime_record_free(lifetime, id, id - 64 + (random >> 33) % 2));
        }
    }
    options = (forebay_plan_options)FOREBAY_PLAN_OPTIONS_INIT;
    options.time_limit_ms = 200 * 1000;
    options.progress = stop;
    options.user = &calls;
    CHECK_OK(forebay_lifetime_plan(lifetime, &options, &plan));
    CHECK(calls <= 1);
    CHECK(calls == 1 || summary_of(plan).optimal == 1);
    CHECK_OK(forebay_plan_validate(plan, lifetime));
    CHECK_OK(forebay_plan_destroy(plan));
    CHECK_OK(forebay_lifetime_destroy(lifetime));
}

static void alignment_aliases_and_fixed_offsets(void)
{
    forebay_lifetime *lifetime = NULL;
    uint64_t offset = 1;
    CHECK_OK(forebay_lifetime_create(&lifetime));
    CHECK_OK(forebay_lifetime_record_alloc(lifetime, 0, 1, 100));
    CHECK_OK(forebay_lifetime_record_alloc(lifetime, 1, 2, 100));
    CHECK_OK(forebay_lifetime_record_free(lifetime, 2, 1));
    forebay_plan *plan = plan_of(lifetime);
    CHECK_EQ(summary_of(plan).arena_bytes, 200);
    CHECK_OK(forebay_plan_destroy(plan));
    CHECK_OK(forebay_lifetime_alias(lifetime, 2, 1));
    plan = plan_of(lifetime);
    CHECK_EQ(summary_of(plan).arena_bytes, 100);
    CHECK_OK(forebay_plan_destroy(plan));

    CHECK_OK(forebay_lifetime_record_alloc(lifetime, 3, 3, 10));
    CHECK_OK(forebay_lifetime_align(lifetime, 3, 64));
    CHECK_OK(forebay_lifetime_record_alloc(lifetime, 3, 4, 10));
    CHECK_OK(forebay_lifetime_fix(lifetime, 4, 0));
    plan = plan_of(lifetime);
    CHECK_OK(forebay_plan_offset(plan, 4, &offset));
    CHECK_EQ(offset, 0);
    CHECK_OK(forebay_plan_offset(plan, 3, &offset));
    CHECK_EQ(offset % 64, 0);
    CHECK_OK(forebay_plan_validate(plan, lifetime));
    CHECK_OK(forebay_plan_destroy(plan));

    CHECK_OK(forebay_lifetime_record_alloc(lifetime, 4, 5, 10));
    CHECK_OK(forebay_lifetime_fix(lifetime, 5, 5));
    CHECK_ERROR(forebay_lifetime_plan(lifetime, NULL, &plan), invalid, "overlap", "4", "5");
    CHECK_OK(forebay_lifetime_fix(lifetime, 5, UINT64_MAX));
    CHECK_ERROR(forebay_lifetime_plan(lifetime, NULL, &plan), invalid, "tensor 5", "limit");
    CHECK_OK(forebay_lifetime_destroy(lifetime));
}

static void saved_and_loaded(void)
{
    const char *path = "plan-saved";
    forebay_lifetime *lifetime = pinwheel();
    forebay_plan *plan = plan_of(lifetime), *loaded = NULL;
    for (uint32_t flags = 0; flags <= FOREBAY_PLAN_BINARY; flags++) {
        CHECK_OK(forebay_plan_save(plan, path, flags));
        CHECK_OK(forebay_plan_load(path, &loaded));
        CHECK_OK(forebay_plan_validate(loaded, lifetime));
        CHECK_EQ(summary_of(loaded).arena_bytes, 90);
        CHECK_EQ(summary_of(loaded).elapsed_ns, 0);
        CHECK_OK(forebay_plan_destroy(loaded));
    }
    // The last one was binary: a byte of it is changed, then it is cut.
    FILE *file = fopen(path, "r+b");
    CHECK(file != NULL && fseek(file, 20, SEEK_SET) == 0 && fputc(0x55, file) == 0x55);
    CHECK(fclose(file) == 0);
    CHECK_ERROR(forebay_plan_load(path, &loaded), FOREBAY_ERROR_MALFORMED_TRACE, "checksum");
    CHECK(truncate(path, 30) == 0);
    CHECK_ERROR(forebay_plan_load(path, &loaded), FOREBAY_ERROR_MALFORMED_TRACE, "checksum");
    file = fopen(path, "wb");
    CHECK(file != NULL && fputs("id,lower,upper,size,offset\n1,0,5,8,0\n2,4,6,8,7\n", file) >= 0);
    CHECK(fclose(file) == 0);
    CHECK_ERROR(forebay_plan_load(path, &loaded), invalid, "overlap", "2 at 7");
    CHECK(remove(path) == 0);
    CHECK_ERROR(forebay_plan_load(path, &loaded), FOREBAY_ERROR_IO, path);
    CHECK_ERROR(forebay_plan_load(NULL, &loaded), invalid, "path is NULL");
    CHECK_ERROR(forebay_plan_load(path, NULL), invalid, "out is NULL");
    CHECK_ERROR(forebay_plan_save(plan, "no/such/folder", 0), FOREBAY_ERROR_IO, "no/such");
    CHECK_ERROR(forebay_plan_save(plan, path, 8), invalid, "flags is 0x8");
    CHECK_ERROR(forebay_plan_save(plan, NULL, 0), invalid, "path is NULL");
    CHECK_OK(forebay_plan_destroy(plan));
    CHECK_OK(forebay_lifetime_destroy(lifetime));
}

// The file as text, at most `capacity` bytes of it.
static const char *text_of(const char *path, char *text, size_t capacity)
{
    FILE *file = fopen(path, "rb");
    CHECK(file != NULL);
    text[file == NULL ? 0 : fread(text, 1, capacity - 1, file)] = 0;
    CHECK(file == NULL || fclose(file) == 0);
    return text;
}

static void drawn(void)
{
    static char text[1 << 16];
    const char *path = "plan-drawn.svg";
    forebay_lifetime *lifetime = pinwheel(), *other = NULL;
    forebay_plan *plan = plan_of(lifetime), *before = NULL, *foreign = NULL;
    forebay_plan_options options = FOREBAY_PLAN_OPTIONS_INIT;
    options.flags = FOREBAY_PLAN_GREEDY;
    CHECK_OK(forebay_lifetime_plan(lifetime, &options, &before));
    CHECK_OK(forebay_plan_svg(plan, NULL, path, 0));
    CHECK(strncmp(text_of(path, text, sizeof text), "<svg ", 5) == 0);
    CHECK(strstr(text, "<title>tensor 4: 30 B at ") != NULL && strstr(text, "</svg>") != NULL);
    CHECK(strstr(text, "before") == NULL && strstr(text, "prefers-color-scheme:dark") != NULL);
    CHECK_OK(forebay_plan_svg(plan, before, path, FOREBAY_PLAN_SVG_BY_ID));
    CHECK(strstr(text_of(path, text, sizeof text), ">before: arena ") != NULL);
    CHECK(strstr(text, ">after: arena 90 B, at the bound<") != NULL);
    CHECK(remove(path) == 0);

    CHECK_OK(forebay_lifetime_create(&other));
    CHECK_OK(forebay_lifetime_record_alloc(other, 0, 1, 100));
    foreign = plan_of(other);
    CHECK_ERROR(forebay_plan_svg(plan, foreign, path, 0), invalid, "1 tensors", "5");
    CHECK_OK(forebay_plan_destroy(foreign));
    CHECK_ERROR(forebay_plan_svg(plan, foreign, path, 0), invalid, "before", "destroyed before");
    CHECK_ERROR(forebay_plan_svg(plan, NULL, path, 6), invalid, "flags is 0x6");
    CHECK_ERROR(forebay_plan_svg(plan, NULL, NULL, 0), invalid, "path is NULL");
    CHECK_ERROR(forebay_plan_svg(NULL, NULL, path, 0), invalid, "plan is NULL");
    CHECK_ERROR(forebay_plan_svg(plan, NULL, "no/such/folder", 0), FOREBAY_ERROR_IO, "no/such");
    CHECK(fopen(path, "rb") == NULL);
    CHECK_OK(forebay_plan_destroy(before));
    CHECK_OK(forebay_plan_destroy(plan));
    CHECK_OK(forebay_lifetime_destroy(other));
    CHECK_OK(forebay_lifetime_destroy(lifetime));
}

int main(void)
{
    time_limit(300);
    made_and_looked_at();
    options();
    alignment_aliases_and_fixed_offsets();
    saved_and_loaded();
    drawn();
    return check_end("plan");
}
