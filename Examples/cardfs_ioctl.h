/* The control codes of cardfs, as ioctl(2) on the file bar0 of a mount. The offset belongs to the open file: programs and
 * the file offset do not disturb each other. Unknown codes fail with ENOTTY. */
#ifndef CARDFS_IOCTL_H
#define CARDFS_IOCTL_H

#include <linux/ioctl.h>
#include <linux/types.h>

/* Selects a word of the window: a multiple of 4 (EINVAL) inside it (ERANGE). */
#define CARDFS_SET_OFFSET _IOW('C', 0, __u32)
/* Writes the selected word: one 32-bit store. The file is open for writing (EACCES). */
#define CARDFS_WRITE_REGISTER _IOW('C', 1, __u32)
/* Reads the selected word: one 32-bit load. The file is open for reading (EACCES). */
#define CARDFS_READ_REGISTER _IOR('C', 2, __u32)
/* Reads the physical address of BAR0, which must fit in 32 bits (EINVAL). For the owner of the mount and root (EACCES). */
#define CARDFS_BAR0_ADDRESS _IOR('C', 3, __u32)
/* Reads the whole physical address of BAR0. */
#define CARDFS_BAR0_ADDRESS64 _IOR('C', 4, __u64)

#endif
