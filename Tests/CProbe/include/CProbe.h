/// Counts heap allocations and Swift reference counting of a thread, attributed to the code that asks: what libfuse allocates
/// for itself is told apart from what cardfs allocates.
#pragma once
#include <stdint.h>

typedef struct cprobe_counts {
    uint64_t allocations;
    uint64_t frees;
    uint64_t retains;
    uint64_t releases;
    /// Allocations whose caller is libfuse.
    uint64_t fuse_allocations;
} cprobe_counts;

/// 0 in a build with sanitizers, which own these functions themselves.
int cprobe_available(void);
/// Starts counting on the calling thread, from zero.
void cprobe_start(void);
/// Stops counting on the calling thread.
cprobe_counts cprobe_stop(void);
