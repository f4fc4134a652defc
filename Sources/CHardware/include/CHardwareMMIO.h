/// Memory-mapped I/O: one access of exactly the width asked for, never split, merged or dropped by a compiler.
#pragma once

/// A window of device registers. Either `base` is a mapping of the BAR, and an access is one volatile load or store; or
/// `base` is null and the bus performs the access (a simulated card, or a BAR that VFIO does not let us map).
typedef struct chw_window {
    volatile void *_Nullable base;
    uint64_t byte_count;
    void *_Nullable context;
    uint64_t (*_Nullable load)(void *_Nullable context, uint64_t offset, uint32_t width);
    void (*_Nullable store)(void *_Nullable context, uint64_t offset, uint32_t width, uint64_t value);
} chw_window;

/// Reads `width` (1, 2, 4 or 8) bytes at `offset`. The caller has checked bounds and alignment.
CHW_INLINE uint64_t chw_window_load(const chw_window *_Nonnull window, uint64_t offset, uint32_t width) {
    if (window->base == NULL) return window->load(window->context, offset, width);
    volatile char *address = (volatile char *)window->base + offset;
    switch (width) {
    case 1: return *(volatile uint8_t *)address;
    case 2: return *(volatile uint16_t *)address;
    case 4: return *(volatile uint32_t *)address;
    default: return *(volatile uint64_t *)address;
    }
}

/// Writes the low `width` (1, 2, 4 or 8) bytes of `value` at `offset`. The caller has checked bounds and alignment.
CHW_INLINE void chw_window_store(const chw_window *_Nonnull window, uint64_t offset, uint32_t width, uint64_t value) {
    if (window->base == NULL) {
        window->store(window->context, offset, width, value);
        return;
    }
    volatile char *address = (volatile char *)window->base + offset;
    switch (width) {
    case 1: *(volatile uint8_t *)address = (uint8_t)value; break;
    case 2: *(volatile uint16_t *)address = (uint16_t)value; break;
    case 4: *(volatile uint32_t *)address = (uint32_t)value; break;
    default: *(volatile uint64_t *)address = value; break;
    }
}

/// Orders stores to DMA memory before a later store that hands it to the device (KeFlushIoBuffers, dma_wmb).
CHW_INLINE void chw_dma_write_barrier(void) { __atomic_thread_fence(__ATOMIC_RELEASE); }

/// Orders a load that shows the device is done before later loads of what it wrote (dma_rmb).
CHW_INLINE void chw_dma_read_barrier(void) { __atomic_thread_fence(__ATOMIC_ACQUIRE); }

/// Orders everything: a store to memory before a load of another word (mb).
CHW_INLINE void chw_full_barrier(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
