import DriverCore
import PCIBus
import Synchronization

/// A table of descriptors in a common buffer, shared with the card: every word is an atomic.
///
/// Running counters name the entries; an entry's place is its counter modulo ``count``.
struct DescriptorRing {
    /// Entries used; a power of two, at most the 1024 of the table. The last one carries the wrap bit.
    let count: Int
    /// Where the card finds the table.
    let logicalAddress: LogicalAddress
    private let words: UnsafeMutablePointer<Atomic<UInt32>>

    init(buffer: CommonBuffer, count: Int) {
        self.count = count
        logicalAddress = buffer.logicalAddress
        words = buffer.base.assumingMemoryBound(to: Atomic<UInt32>.self)
    }

    /// Where an entry is in the table.
    @_noLocks func place(_ entry: UInt64) -> Int { Int(truncatingIfNeeded: entry) & (count &- 1) }

    /// The first word, with what the card wrote before it.
    @_noLocks func status(_ entry: UInt64) -> UInt32 { words[2 &* place(entry)].load(ordering: .acquiring) }

    /// Hands an entry to the card: the address first, the word with the enable bit last.
    @_noLocks func enable(_ entry: UInt64, _ flags: UInt32, length: Int, address: LogicalAddress) {
        let place = place(entry)
        words[2 &* place &+ 1].store(UInt32(truncatingIfNeeded: address.value), ordering: .relaxed)
        var word = flags | UInt32(truncatingIfNeeded: length) | SpaceWireLayout.Descriptor.enable
        if place == count &- 1 { word |= SpaceWireLayout.Descriptor.wrap }
        words[2 &* place].store(word, ordering: .releasing)
    }

    /// Prepares an entry the card must not see yet: everything but the enable bit.
    @_noLocks func prepare(_ entry: UInt64, _ flags: UInt32, length: Int, address: LogicalAddress) {
        let place = place(entry)
        words[2 &* place &+ 1].store(UInt32(truncatingIfNeeded: address.value), ordering: .relaxed)
        var word = flags | UInt32(truncatingIfNeeded: length)
        if place == count &- 1 { word |= SpaceWireLayout.Descriptor.wrap }
        words[2 &* place].store(word, ordering: .relaxed)
    }

    /// Sets the enable bit of a prepared entry.
    @_noLocks func release(_ entry: UInt64) {
        let word = words[2 &* place(entry)].load(ordering: .relaxed)
        words[2 &* place(entry)].store(word | SpaceWireLayout.Descriptor.enable, ordering: .releasing)
    }

    /// Takes all entries away from the card, which must have stopped.
    @_noLocks func clear() {
        var index = 0
        while index < 2 &* count {
            words[index].store(0, ordering: .relaxed)
            index &+= 1
        }
    }
}
