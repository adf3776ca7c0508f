/*
 * Where there is no libFuzzer: run the corpus, then mutations of it for a while. The same seed
 * gives the same inputs. fuzz_NAME CORPUS [SECONDS [SEED]], or fuzz_NAME FILE for one input.
 */
#include <dirent.h>
#include <string.h>
#include <sys/stat.h>

#include "check.h"
#include "fuzz.h"
#include "harness.h"

enum { CORPUS = 256, MOST = 8192 };

static struct {
    uint8_t *data;
    size_t size;
} corpus[CORPUS];
static int corpus_used;

static uint8_t current[MOST];
static size_t current_size;
static bool finished;

/* Provided by the sanitizers. */
void __sanitizer_set_death_callback(void (*callback)(void)) __attribute__((weak));

/* What was being tried when the process ended, for a run of that alone. */
static void save_current(void)
{
    if (finished)
        return;
    FILE *file = fopen("fuzz-crash", "we");
    if (file != NULL) {
        fwrite(current, 1, current_size, file);
        fclose(file);
        fprintf(stderr, "the input is in fuzz-crash\n");
    }
}

static void load(const char *path)
{
    FILE *file = fopen(path, "re");
    CHECK(file != NULL && corpus_used < CORPUS);
    current_size = fread(current, 1, MOST, file);
    fclose(file);
    corpus[corpus_used].size = current_size;
    corpus[corpus_used].data = malloc(current_size + 1);
    memcpy(corpus[corpus_used++].data, current, current_size);
}

static void load_all(const char *path)
{
    struct stat st;
    struct dirent **entries;
    char name[1024];

    CHECK(stat(path, &st) == 0);
    if (!S_ISDIR(st.st_mode)) {
        load(path);
        return;
    }
    int n = scandir(path, &entries, NULL, alphasort);
    CHECK(n >= 0);
    for (int i = 0; i < n; i++) {
        snprintf(name, sizeof(name), "%s/%s", path, entries[i]->d_name);
        if (entries[i]->d_name[0] != '.')
            load(name);
        free(entries[i]);
    }
    free(entries);
}

static uint64_t pick(uint64_t *random, uint64_t n)
{
    return (random_next(random) >> 11) % n;
}

static void mutate(uint64_t *random)
{
    static const uint64_t numbers[] = {0,
                                       1,
                                       2,
                                       7,
                                       8,
                                       31,
                                       32,
                                       33,
                                       64,
                                       127,
                                       128,
                                       255,
                                       256,
                                       1023,
                                       1024,
                                       1025,
                                       4095,
                                       4096,
                                       4097,
                                       0x7fff,
                                       0x8000,
                                       0xffff,
                                       65536,
                                       0x7fffffff,
                                       0x80000000,
                                       UINT32_MAX,
                                       UINT64_C(1) << 32,
                                       UINT64_MAX / 2,
                                       UINT64_MAX - 4095,
                                       UINT64_MAX};
    size_t at = current_size > 0 ? pick(random, current_size) : 0;
    size_t left = current_size - at;
    uint64_t number = numbers[pick(random, sizeof(numbers) / sizeof(numbers[0]))];

    switch (pick(random, 8)) {
    case 0:
        if (left > 0)
            current[at] ^= (uint8_t)(1u << pick(random, 8));
        break;
    case 1:
        if (left > 0)
            current[at] = (uint8_t)random_next(random);
        break;
    case 2: /* a number, aligned as fields are */
    case 3: {
        size_t width = (size_t)1 << pick(random, 4);
        at &= ~(width - 1);
        if (current_size - at >= width)
            memcpy(current + at, &number, width);
        break;
    }
    case 4: /* cut out */
        if (left > 0) {
            size_t n = 1 + pick(random, left);
            memmove(current + at, current + at + n, left - n);
            current_size -= n;
        }
        break;
    case 5: /* double */
        if (left > 0) {
            size_t n = 1 + pick(random, left);
            n = n < MOST - current_size ? n : MOST - current_size;
            memmove(current + at + n, current + at, left);
            current_size += n;
        }
        break;
    case 6: { /* splice */
        int other = (int)pick(random, (uint64_t)corpus_used);
        size_t n = corpus[other].size < MOST - at ? corpus[other].size : MOST - at;
        memcpy(current + at, corpus[other].data, n);
        current_size = at + n > current_size ? at + n : current_size;
        break;
    }
    default:
        if (left > 0)
            current[at] += (uint8_t)(pick(random, 2) == 0 ? 1 : -1);
    }
}

int main(int argc, char **argv)
{
    uint64_t until = zh_now() + SECONDS(argc > 2 ? atoi(argv[2]) : 5), runs = 0;
    uint64_t random = argc > 3 ? strtoull(argv[3], NULL, 0) | 1 : 0x9e3779b97f4a7c15;

    CHECK(argc > 1);
    load_all(argv[1]);
    CHECK(corpus_used > 0);
    atexit(save_current);
    if (__sanitizer_set_death_callback != NULL)
        __sanitizer_set_death_callback(save_current);
    for (int i = 0; i < corpus_used; i++, runs++) {
        /* Of its exact size, for the sanitizers. */
        memcpy(current, corpus[i].data, current_size = corpus[i].size);
        uint8_t *exact = malloc(current_size);
        memcpy(exact, current, current_size);
        LLVMFuzzerTestOneInput(exact, current_size);
        free(exact);
    }
    struct stat st;
    bool one = stat(argv[1], &st) == 0 && !S_ISDIR(st.st_mode);
    for (; !one && zh_now() < until; runs++) {
        int i = (int)pick(&random, (uint64_t)corpus_used);
        memcpy(current, corpus[i].data, current_size = corpus[i].size);
        for (uint64_t n = 1 + pick(&random, 6); n > 0; n--)
            mutate(&random);
        uint8_t *exact = malloc(current_size > 0 ? current_size : 1);
        memcpy(exact, current, current_size);
        LLVMFuzzerTestOneInput(exact, current_size);
        free(exact);
    }
    finished = true;
    fprintf(stderr, "%llu inputs\n", (unsigned long long)runs);
    for (int i = 0; i < corpus_used; i++)
        free(corpus[i].data);
    return 0;
}
