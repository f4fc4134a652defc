/* What the parts of Tests/FileFuzz share: one process that does random file operations at a mount. */
#ifndef OPERATIONS_H
#define OPERATIONS_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* What a process is doing, for others to read: how many operations so far, and the present one. */
struct slot {
    uint64_t count;
    char text[120];
};

/* An open file. */
struct file {
    int fd;
    int flags;
    const char *path;
};

/* choices.c: everything that is decided comes from here, so the same seed decides the same. */

void begin_choices(uint64_t seed);
/* A random number; one below a limit; true in one case of n. */
uint64_t draw(void);
uint64_t below(uint64_t limit);
int one_in(unsigned n);
/* A length of a transfer, at most 2 MiB, and memory of that length, at any alignment. */
size_t a_size(void);
unsigned char *some_memory(size_t size);
/* A place in a file: often an end or a border. */
off_t an_offset(void);

/* tree.c: the files there are, and what is written into them. */

void find_paths(void);
const char *a_path(void);
/* A word that the file understands, sometimes spoilt: its length. */
size_t a_word(const char *path, char *text, size_t size);
/* One operation by name: a file that is there or one that never is, and what a filesystem of registers refuses. */
void use_a_name(void);

/* operations.c */

/* Counts an operation, and says what it is before it is done. */
void say(const char *what, const char *on);
/* An open file at random, or NULL. */
struct file *another_file(void);

/* transfers.c: one operation on an open file. */

void open_at_random(struct file *file);
void use_a_file(struct file *file);

/* mapping.c: a map of the file, touched once. A SIGBUS is expected there. */

void map_a_file(int fd);

/* asynchronous.c: a transfer through io_submit(2), and through io_uring(7): waits for its end, cancels it, or leaves it behind. */

void asynchronous_io(int fd, int is_write);
void ring_io(int fd, int is_write);

#endif
