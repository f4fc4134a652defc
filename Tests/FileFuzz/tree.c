/* The files of a mount by name: which there are, the words they take, and what can be done with a name alone. */
#define _GNU_SOURCE
#include "operations.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#define PATHS 400

static char paths[PATHS][160];
static size_t path_count;

static const struct {
    const char *path;
    const char *words[14];
} vocabulary[] = {
    {"ctl", {"flush", "flush", "reset", "stop", "start", "start", "start", "suspend", "resume", "resume", "remove", "reload"}},
    {"dma/framing", {"stream", "packet"}},
    {"dma/engine", {"sg", "common", "system"}},
    {"trace", {"on", "off"}},
    {"sim/wire", {"loopback", "loopback", "sink", "source"}},
    {"sim/rate", {"unlimited", "unlimited", "1000000", "50k", "40M"}},
    {"sim/link", {"up", "up", "up", "down", "disconnect", "parity", "escape", "credit"}},
    {"sim/received", {"clear"}},
    {"sim/line", {"neighbour"}},
    {"sim/fault", {"none", "none", "none", "none", "none", "none", "hang-tx", "hang-rx", "eep", "length", "gone", "zeros"}},
    {"sim/firmware", {"1.1", "1.2"}},
    {"bar0", {"0x1", "0xffffffff", "0x5a:0xff", "0:0", "-1", "010", "1 2", "99999999999999999999"}},
    {"offset", {"0", "0x10", "0x1ffc", "0x2000", "1"}},
    {"regs/scratch", {"0x12345678", "0x1:0x3", "x"}},
    {"regs/txscaler", {"1", "4"}},
    {"regs/control", {"0x1", "0x10:0x1c", "0x4:0x4"}},
};

/* Names that no directory lists: registers by their offset, and names that are none. */
static const char *const unlisted[] = {
    "regs/0x20000", "regs/0x20010.b", "regs/0x20012.w", "regs/0x20018.q", "regs/0x81", "regs/0xfffffffffffffffff", "regs/nosuch",
    "nosuch", "dma/nosuch", "regs/0x0", "regs/010", "devices/../ctl", "regs/\033[31m\xff\xe2\x80\xae", ".", "regs", "dma", "sim",
};

static void add_path(const char *path) {
    if (path_count < PATHS) snprintf(paths[path_count++], sizeof *paths, "%s", path);
}

static void walk(const char *prefix) {
    DIR *directory = opendir(*prefix ? prefix : ".");
    if (!directory) return;
    for (struct dirent *entry; (entry = readdir(directory));) {
        char path[160];
        if (entry->d_name[0] == '.') continue;
        int size = snprintf(path, sizeof path, "%s%s%s", prefix, *prefix ? "/" : "", entry->d_name);
        if (size >= (int)sizeof path) continue;
        if (entry->d_type == DT_DIR) walk(path);
        add_path(path);
    }
    closedir(directory);
}

void find_paths(void) {
    walk("");
    for (size_t k = 0; k < sizeof unlisted / sizeof *unlisted; k++) add_path(unlisted[k]);
}

const char *a_path(void) {
    /* The streams are what most of the daemon is for; the words decide what happens to everybody. */
    if (one_in(3)) return one_in(2) ? "dma/tx" : "dma/rx";
    if (one_in(4)) return vocabulary[below(sizeof vocabulary / sizeof *vocabulary)].path;
    return paths[below(path_count)];
}

size_t a_word(const char *path, char *text, size_t size) {
    const char *word = "0x1";
    for (size_t k = 0; k < sizeof vocabulary / sizeof *vocabulary; k++) {
        if (strcmp(path, vocabulary[k].path)) continue;
        size_t count = 0;
        while (count < 14 && vocabulary[k].words[count]) count++;
        word = vocabulary[k].words[below(count)];
    }
    int length = snprintf(text, size, "%s%s", word, one_in(4) ? "" : one_in(6) ? "\r\n" : "\n");
    if (one_in(12)) text[below((uint64_t)length)] = (char)draw();
    return (size_t)length;
}

static void read_directory(const char *name) {
    DIR *directory = opendir(name);
    if (!directory) return;
    while (readdir(directory)) {
        if (one_in(20)) seekdir(directory, (long)below(30));
        if (one_in(40)) break;
    }
    closedir(directory);
}

void use_a_name(void) {
    const char *name = a_path();
    struct stat status;
    struct statx extended;
    char text[256];
    say("a name:", name);
    switch (below(14)) {
    case 0: (void)!readlink(name, text, sizeof text); break;
    case 1: (void)unlink(name); break;
    case 2: (void)rename(name, "other"); break;
    case 3: (void)mkdir(name, 0700); break;
    case 4: (void)!truncate(name, (off_t)below(100)); break;
    case 5: (void)chmod(name, 0600); break;
    case 6: (void)utimensat(AT_FDCWD, name, NULL, 0); break;
    case 7: (void)!getxattr(name, "user.x", text, sizeof text); break;
    case 8: (void)setxattr(name, "user.x", "y", 1, 0); break;
    case 9: (void)access(name, W_OK); break;
    case 10: (void)!symlink(name, "other"); break;
    case 11: read_directory(name); break;
    case 12: (void)statx(AT_FDCWD, name, one_in(2) ? AT_STATX_FORCE_SYNC : AT_SYMLINK_NOFOLLOW, STATX_ALL, &extended); break;
    default: (void)stat(name, &status);
    }
}
