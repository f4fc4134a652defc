/// What a driver needs of the machine and Swift cannot say: volatile accesses of an exact width, barriers,
/// and a few C library calls that the `@_noLocks` check must know to be free of Swift allocation and reference counting.
#pragma once

#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

/// Marks a function the compiler may call from `@_noLocks` Swift code: it neither allocates Swift memory nor retains.
#define CHW_HOT __attribute__((swift_attr("@_noLocks")))
#define CHW_INLINE CHW_HOT static inline __attribute__((always_inline))

#include "CHardwareMMIO.h"
#include "CHardwareSync.h"
#include "CHardwareEntry.h"
#include "CHardwareCRC.h"
#include "CHardwareLevel.h"
