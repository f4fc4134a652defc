public import PCIBus

/// Hands out logical addresses (IOVAs) for one card: first fit in the ranges the platform translates, below the card's limit.
public struct LogicalAddressSpace: Sendable {
    private var free: [ClosedRange<UInt64>]
    private var taken: [UInt64: UInt64] = [:]

    /// The addresses of `ranges` up to `limit`, both inclusive. Address 0 is never handed out: a descriptor that was
    /// forgotten holds it.
    public init(ranges: [ClosedRange<LogicalAddress>], limit: UInt64) {
        free = ranges.compactMap { range in
            let lower = max(range.lowerBound.value, UInt64(Page.size))
            let upper = min(range.upperBound.value, limit)
            return lower <= upper ? lower...upper : nil
        }
    }

    /// Takes `byteCount` bytes whose start is a multiple of `alignment` (a power of two, at least a page) and which do
    /// not cross a multiple of `boundary` (a power of two; 0 for none), all of them within `limits`. nil when nothing fits.
    public mutating func take(
        byteCount: Int,
        alignment: UInt64,
        boundary: UInt64 = 0,
        within limits: ClosedRange<UInt64> = 0...UInt64.max
    ) -> LogicalAddress? {
        precondition(byteCount > 0 && alignment >= UInt64(Page.size) && alignment & (alignment - 1) == 0)
        let size = UInt64(Page.roundedUp(byteCount))
        func crosses(_ start: UInt64) -> Bool {
            boundary != 0 && start / boundary != (start &+ (size - 1)) / boundary
        }
        for (index, range) in free.enumerated() {
            let lower = max(range.lowerBound, limits.lowerBound)
            let upper = min(range.upperBound, limits.upperBound)
            guard var start = Self.roundedUp(lower, to: alignment) else { continue }
            if crosses(start) {
                guard let next = Self.roundedUp(start, to: boundary) else { continue }
                start = next
            }
            guard start <= upper, upper - start >= size - 1, !crosses(start) else { continue }
            free.remove(at: index)
            if start + (size - 1) < range.upperBound { free.insert(start + size...range.upperBound, at: index) }
            if start > range.lowerBound { free.insert(range.lowerBound...start - 1, at: index) }
            taken[start] = size
            return LogicalAddress(start)
        }
        return nil
    }

    /// The next multiple of a power of two; nil when there is none below 2^64.
    private static func roundedUp(_ address: UInt64, to multiple: UInt64) -> UInt64? {
        let (sum, isBeyond) = address.addingReportingOverflow(multiple - 1)
        return isBeyond ? nil : sum & ~(multiple - 1)
    }

    /// Gives back what ``take(byteCount:alignment:boundary:)`` handed out; false if it did not.
    public mutating func give(_ address: LogicalAddress) -> Bool {
        guard let size = taken.removeValue(forKey: address.value) else { return false }
        var lower = address.value
        var upper = address.value + (size - 1)
        if let index = free.firstIndex(where: { $0.upperBound &+ 1 == lower }) {
            lower = free.remove(at: index).lowerBound
        }
        if let index = free.firstIndex(where: { $0.lowerBound == upper &+ 1 }) {
            upper = free.remove(at: index).upperBound
        }
        free.insert(lower...upper, at: free.firstIndex { $0.lowerBound > upper } ?? free.endIndex)
        return true
    }

    /// Bytes handed out.
    public var takenBytes: UInt64 { taken.values.reduce(0, +) }
}
