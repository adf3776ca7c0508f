/* Segments: the seals are really there, and a peer's memfd is refused when one is missing. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "harness.h"
#include "zerohop/segment.h"

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

enum { SIZE = 16 * 4096 };
static const int ALL_SEALS = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE;

static void owned_segment(void)
{
    struct zh_segment segment;
    struct stat st;

    CHECK_EQ(zh_segment_create(&segment, "zerohop-test", SIZE), 0);
    CHECK_EQ(segment.size, SIZE);
    CHECK((fcntl(segment.fd, F_GETFD) & FD_CLOEXEC) != 0);
    CHECK(fstat(segment.fd, &st) == 0);
    CHECK_EQ(st.st_size, SIZE);
    CHECK(st.st_blocks * 512 >= SIZE);
    for (size_t i = 0; i < SIZE; i++)
        CHECK(segment.base[i] == 0);
    memset(segment.base, 0xa5, SIZE);

    /* Whoever has the descriptor can neither resize, nor punch, nor write, nor map for writing. */
    char path[64];
    snprintf(path, sizeof(path), "/proc/self/fd/%d", segment.fd);
    int reopened = open(path, O_RDWR | O_CLOEXEC);
    CHECK(reopened >= 0);
    int fds[] = {segment.fd, reopened};
    for (int i = 0; i < 2; i++) {
        CHECK(ftruncate(fds[i], SIZE - 4096) != 0 && errno == EPERM);
        CHECK(ftruncate(fds[i], SIZE + 4096) != 0 && errno == EPERM);
        CHECK(fallocate(fds[i], 0, SIZE, 4096) != 0 && errno == EPERM);
        CHECK(fallocate(fds[i], FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096) != 0 &&
              errno == EPERM);
        CHECK(pwrite(fds[i], "x", 1, 0) < 0 && errno == EPERM);
        CHECK(mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fds[i], 0) == MAP_FAILED &&
              errno == EPERM);
        CHECK(fcntl(fds[i], F_ADD_SEALS, F_SEAL_WRITE) != 0 && errno == EPERM);
        void *view = mmap(NULL, SIZE, PROT_READ, MAP_SHARED, fds[i], 0);
        CHECK(view != MAP_FAILED);
        CHECK(mprotect(view, SIZE, PROT_READ | PROT_WRITE) != 0 && errno == EACCES);
        munmap(view, SIZE);
    }
    /* Not even the owner can take pages away under its readers. */
    CHECK(madvise(segment.base, SIZE, MADV_REMOVE) != 0);
    close(reopened);

    struct zh_mapping mapping;
    CHECK_EQ(zh_mapping_open(&mapping, segment.fd, SIZE), 0);
    CHECK_EQ(mapping.size, SIZE);
    CHECK(mapping.base[SIZE - 1] == 0xa5);
    segment.base[77] = 1;
    CHECK(mapping.base[77] == 1);

    /* The reader's mapping outlives the owner's and the descriptor. */
    zh_segment_destroy(&segment);
    CHECK(segment.base == NULL && segment.fd == -1);
    zh_segment_destroy(&segment);
    CHECK(mapping.base[77] == 1);
    zh_mapping_close(&mapping);
    CHECK(mapping.base == NULL);
    zh_mapping_close(&mapping);
}

static int memfd(off_t size, int seals, bool commit)
{
    int fd = memfd_create("zerohop-bad", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    CHECK(fd >= 0);
    CHECK(commit ? fallocate(fd, 0, 0, size) == 0 : ftruncate(fd, size) == 0);
    CHECK(seals == 0 || fcntl(fd, F_ADD_SEALS, seals) == 0);
    return fd;
}

static void refuse(int fd, size_t size, int error)
{
    struct zh_mapping mapping;
    CHECK_EQ(zh_mapping_open(&mapping, fd, size), error);
    CHECK(mapping.base == NULL);
    if (fd >= 0)
        close(fd);
}

static void refused_peers(void)
{
    struct zh_mapping mapping;
    int fds[2];

    /* What is in order is taken: the refusals below are for the one thing that is changed. */
    int good = memfd(SIZE, ALL_SEALS, true);
    CHECK_EQ(zh_mapping_open(&mapping, good, SIZE), 0);
    zh_mapping_close(&mapping);
    close(good);

    const int seals[] = {F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_FUTURE_WRITE};
    for (int i = 0; i < 4; i++)
        refuse(memfd(SIZE, ALL_SEALS & ~seals[i], true), SIZE, -EPERM);
    refuse(memfd(SIZE, 0, true), SIZE, -EPERM);

    refuse(memfd(SIZE - 4096, ALL_SEALS, true), SIZE, -EINVAL);
    refuse(memfd(SIZE + 4096, ALL_SEALS, true), SIZE, -EINVAL);
    refuse(memfd(SIZE, ALL_SEALS, true), 0, -EINVAL);
    refuse(memfd(SIZE, ALL_SEALS, true), SIZE_MAX, -EINVAL);

    /* Sparse: all of it, or one page in the middle. */
    refuse(memfd(SIZE, ALL_SEALS, false), SIZE, -ENODATA);
    int holed = memfd(SIZE, 0, true);
    CHECK(fallocate(holed, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4096, 4096) == 0);
    CHECK(fcntl(holed, F_ADD_SEALS, ALL_SEALS) == 0);
    refuse(holed, SIZE, -ENODATA);

    /* Pages beyond the end make up for holes: not refused, and harmless. */
    holed = memfd(SIZE, 0, false);
    CHECK(fallocate(holed, FALLOC_FL_KEEP_SIZE, SIZE, SIZE) == 0);
    CHECK(fcntl(holed, F_ADD_SEALS, ALL_SEALS) == 0);
    CHECK_EQ(zh_mapping_open(&mapping, holed, SIZE), 0);
    for (size_t i = 0; i < SIZE; i++)
        CHECK(mapping.base[i] == 0);
    zh_mapping_close(&mapping);
    close(holed);

    /* No memfd at all. */
    CHECK(pipe2(fds, O_CLOEXEC) == 0);
    refuse(fds[0], SIZE, -EINVAL);
    refuse(fds[1], SIZE, -EINVAL);
    refuse(open("/proc/self/exe", O_RDONLY | O_CLOEXEC), SIZE, -EINVAL);
    refuse(open("/dev/zero", O_RDONLY | O_CLOEXEC), SIZE, -EINVAL);
    refuse(open("/", O_RDONLY | O_CLOEXEC), SIZE, -EINVAL);
    refuse(-1, SIZE, -EINVAL);
}

/* What the system refuses is an error, and nothing is left behind. (Never ask for memory that is
 * not there: the kernel would kill for it.) */
static void refused_by_the_system(void)
{
    struct zh_segment segment;
    struct rlimit old, less;

    CHECK(signal(SIGXFSZ, SIG_IGN) != SIG_ERR);
    CHECK(getrlimit(RLIMIT_FSIZE, &old) == 0);
    less = (struct rlimit){4096, old.rlim_max};
    CHECK(setrlimit(RLIMIT_FSIZE, &less) == 0);
    CHECK_EQ(zh_segment_create(&segment, "zerohop-test", SIZE), -EFBIG);
    CHECK(segment.base == NULL && segment.fd == -1);
    zh_segment_destroy(&segment);
    CHECK(setrlimit(RLIMIT_FSIZE, &old) == 0);

    CHECK(getrlimit(RLIMIT_NOFILE, &old) == 0);
    less = (struct rlimit){3, old.rlim_max};
    CHECK(setrlimit(RLIMIT_NOFILE, &less) == 0);
    CHECK_EQ(zh_segment_create(&segment, "zerohop-test", SIZE), -EMFILE);
    CHECK(setrlimit(RLIMIT_NOFILE, &old) == 0);
    CHECK_EQ(zh_segment_create(&segment, "zerohop-test", SIZE), 0);
    zh_segment_destroy(&segment);
}

int main(void)
{
    int fds = count_fds(), maps = count_maps("zerohop-");

    owned_segment();
    refused_peers();
    refused_by_the_system();
    CHECK_EQ(count_fds(), fds);
    CHECK_EQ(count_maps("zerohop-"), maps);
    return 0;
}
