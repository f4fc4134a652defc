/// The execution level of the calling thread: what IRQL is to a processor.
#pragma once

extern _Thread_local uint8_t chw_thread_level;

CHW_INLINE uint8_t chw_level(void) { return chw_thread_level; }
CHW_INLINE void chw_set_level(uint8_t level) { chw_thread_level = level; }
