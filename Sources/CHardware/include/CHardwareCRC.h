/// CRC-32C (Castagnoli, RFC 3720 appendix B.4) with the processor's instruction where it has one.
#pragma once

/// Continues a CRC-32C over `byte_count` bytes. Start with 0; the result of one call is the start of the next.
CHW_HOT uint32_t chw_crc32c(uint32_t crc, const void *_Nonnull bytes, size_t byte_count);

/// The same, bit by bit from the polynomial: what the fast one is tested against.
uint32_t chw_crc32c_reference(uint32_t crc, const void *_Nonnull bytes, size_t byte_count);
