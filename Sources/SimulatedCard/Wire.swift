import CHardware
import PCIBus

/// The link and what is at its far end: a receiver with memory that sends everything back, a sink, or a source.
///
/// All of it is protected by the lock of the card, except the bytes of the memory between the two positions, which belong
/// to the engine that moves them.
struct Wire {
    /// What the far end does.
    enum Mode: CaseIterable {
        case loopback, sink, source

        // Written out: the derived one is unknown to `@_noLocks`.
        @_noLocks static func == (left: Mode, right: Mode) -> Bool {
            switch (left, right) {
            case (.loopback, .loopback), (.sink, .sink), (.source, .source): true
            default: false
            }
        }
    }

    /// What comes after the bytes that are available.
    enum Marker {
        case none, eop, eep

        @_noLocks static func == (left: Marker, right: Marker) -> Bool {
            switch (left, right) {
            case (.none, .none), (.eop, .eop), (.eep, .eep): true
            default: false
            }
        }
    }

    /// End markers the far end's memory holds.
    static var markerCount: Int { @_noLocks get { 0x100000 } }
    var mode = Mode.loopback
    /// The cable is plugged.
    var isPlugged = true
    /// Bytes per second in each direction; 0 without limit.
    var rate: UInt64 = 0
    /// Rises when the far end changes or the link is lost: a piece under way counts as never moved.
    var generation: UInt64 = 0
    /// The next byte of the source.
    var sourcePosition: UInt64 = 0

    /// What arrived since the last clear.
    var receivedBytes: UInt64 = 0
    var receivedPackets: UInt64 = 0
    var receivedCRC: UInt32 = 0
    var receivedGeneration: UInt64 = 0

    /// The far end got data of a packet that has not ended.
    var isOpen = false

    private let bytes: UnsafeMutableRawPointer
    private let byteCount: Int
    /// Stream positions of end markers, shifted left, with bit 0 set for EEP.
    private let markers: UnsafeMutablePointer<UInt64>
    /// Positions count bytes since the memory was last empty.
    private var written = 0
    private var read = 0
    private var markersWritten = 0
    private var markersRead = 0
    /// The receive engine copies out of the memory, of this generation.
    private var isReading = false
    private var readingGeneration: UInt64 = 0

    init(byteCount: Int, pages: HostPages) throws(BusError) {
        self.byteCount = byteCount
        bytes = try pages.map(byteCount, isDense: true)
        markers = try pages.map(Self.markerCount * 8).assumingMemoryBound(to: UInt64.self)
    }

    /// The most that moves between two looks at the clock: a fifth of a millisecond.
    var piece: Int { @_noLocks get { Int(clamping: max(1, rate / 5000)) } }

    // MARK: From the card

    /// Whether the far end has room for one more end marker. One place is kept for the EEP of a packet that is cut off.
    var takesMarker: Bool {
        @_noLocks get { !(mode == .loopback) || markersWritten &- markersRead < Self.markerCount &- 1 }
    }

    /// Whether the far end grants credit for data.
    var takesData: Bool { @_noLocks get { !(mode == .loopback) || (written &- read < byteCount && takesMarker) } }

    /// Bytes that fit in one piece at ``writePointer``.
    @_noLocks mutating func reserve() -> Int {
        // A copy of what was dropped meanwhile may still be under way: its bytes are not free before it ends.
        if isReading, readingGeneration != generation { return 0 }
        if !isReading, written == read, markersWritten == markersRead {
            // Nothing is held and nobody is at it: starting from the beginning again keeps the used part in the cache.
            written = 0
            read = 0
            markersWritten = 0
            markersRead = 0
        }
        guard takesData else { return 0 }
        return min(byteCount &- (written &- read), byteCount &- written % byteCount)
    }

    var writePointer: UnsafeMutableRawPointer { @_noLocks get { bytes + written % byteCount } }

    @_noLocks mutating func put(_ count: Int) {
        isOpen = true
        if mode == .loopback { written &+= count }
    }

    @_noLocks mutating func putMarker(isError: Bool) {
        isOpen = false
        receivedPackets &+= 1
        store(isError: isError)
    }

    @_noLocks private mutating func store(isError: Bool) {
        guard mode == .loopback else { return }
        markers[markersWritten & (Self.markerCount &- 1)] = UInt64(written) << 1 | (isError ? 1 : 0)
        markersWritten &+= 1
    }

    // MARK: To the card

    /// Bytes that come in one piece, and the end marker if there are none before it.
    var available: (byteCount: Int, marker: Marker) {
        @_noLocks get {
            switch mode {
            case .sink: return (0, .none)
            case .source: return (.max, .none)
            case .loopback:
                var end = written
                if markersRead != markersWritten {
                    let marker = markers[markersRead & (Self.markerCount &- 1)]
                    end = Int(marker >> 1)
                    if end == read { return (0, marker & 1 != 0 ? .eep : .eop) }
                }
                return (min(end &- read, byteCount &- read % byteCount), .none)
            }
        }
    }

    /// Where the bytes that come are; they stay there until ``endReading()``.
    @_noLocks mutating func beginReading() -> UnsafeMutableRawPointer {
        isReading = true
        readingGeneration = generation
        return bytes + read % byteCount
    }

    @_noLocks mutating func endReading() { isReading = false }

    @_noLocks mutating func take(_ count: Int) {
        if mode == .source { sourcePosition &+= UInt64(count) } else { read &+= count }
    }

    @_noLocks mutating func takeMarker() { markersRead &+= 1 }

    // MARK: Faults of the link

    /// The link was lost. A packet that was only half received ends in EEP; the rest of one that was half sent is dropped
    /// (ECSS-E-ST-50-12C 5.5.8).
    @_noLocks mutating func lose(whileSending: Bool) {
        generation &+= 1
        if isOpen { store(isError: true) }
        isOpen = false
        guard whileSending, mode == .loopback else { return }
        if markersRead == markersWritten {
            read = written
        } else {
            read = Int(markers[markersRead & (Self.markerCount &- 1)] >> 1)
            markersRead &+= 1
        }
    }

    /// Connects another far end, which begins empty.
    mutating func connect(_ mode: Mode) {
        generation &+= 1
        self.mode = mode
        isOpen = false
        read = written
        markersRead = markersWritten
    }

    /// Begins counting anew.
    mutating func clearReceived() {
        receivedGeneration &+= 1
        receivedBytes = 0
        receivedPackets = 0
        receivedCRC = 0
    }
}
